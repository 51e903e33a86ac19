// CUDA C++ for g++: the words that a kernel source may use, and the way to launch it.
//
// launcher.py puts fibers.hpp and this file in front of a source. <math.h> would cost more compile
// time than all of it, hence the built-in functions.

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// Thread-local, although one thread runs them all: that gathers every such variable, those of
// templates included, in one block of memory that can be poisoned (GCC drops section attributes in
// templates). `used` keeps the compiler from reasoning that nothing else writes there.
#define __shared__ thread_local __attribute__((used))

namespace {

constexpr int warpSize = 32;
using dim3 = uint3;
struct float2 { float x, y; };
struct double2 { double x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace host {

__shared__ Byte anchor;         // lies among the kernel's __shared__ variables
Byte *shared_begin, *anchor_seen;
Word shared_bytes;

int find_shared(dl_phdr_info* info, size_t, void*) {
    Byte* const begin = static_cast<Byte*>(info->dlpi_tls_data);
    for (int i = 0; begin && i < info->dlpi_phnum; ++i) {
        const auto& header = info->dlpi_phdr[i];
        if (header.p_type != PT_TLS || &anchor < begin || &anchor >= begin + header.p_memsz)
            continue;
        anchor_seen = &anchor;
        shared_begin = begin;
        shared_bytes = header.p_memsz;
    }
    return 0;
}

void run_block(unsigned number, unsigned shared) {
    blockIdx = {number % gridDim.x, number / gridDim.x % gridDim.y,
                number / gridDim.x / gridDim.y};
    __builtin_memset(shared_begin, poison, shared_bytes);
    __builtin_memset(dynamic_shared, poison, shared + shared_guard);
    __builtin_memset(warps, 0, sizeof warps);
    ready_count = arrived = returned = 0;
    for (unsigned t = size; t-- > 0;) {
        threads[t].fiber = nullptr;
        threads[t].returned = false;
        warps[t / lanes].live |= 1u << t % lanes;
        wake(threads[t]);
    }
    running = &main_fiber;
    dispatch(true);
    const Byte* const guard = dynamic_shared + shared;
    if (failure[0]) return;
    if (returned < size)
        report_divergence();
    else if (*guard != poison || __builtin_memcmp(guard, guard + 1, shared_guard - 1))
        report("writes past the %u bytes of dynamic shared memory", shared);
}

// `order` lists the blocks in the order to run them, and asks for threads in random order too.
const char* launch(void (*kernel)(), uint3 grid, uint3 block, unsigned shared,
                   const unsigned* order, Word seed, const void* const* arguments) {
    gridDim = grid;
    blockDim = block;
    size = block.x * block.y * block.z;
    body = kernel;
    slots = arguments;
    shuffled = order;
    random_state = seed;
    if (!idle_count || failure[0]) reset_fibers();      // a failed launch left threads on them
    failure[0] = 0;
    anchor = poison;                                    // or this memory may not exist yet
    if (&anchor != anchor_seen) dl_iterate_phdr(find_shared, nullptr);
    unsigned t = 0;
    for (unsigned z = 0; z < block.z; ++z)
        for (unsigned y = 0; y < block.y; ++y)
            for (unsigned x = 0; x < block.x; ++x) threads[t++].index = {x, y, z};
    struct sigaction fault {}, before[3];
    fault.sa_sigaction = on_fault;
    fault.sa_flags = SA_SIGINFO | SA_NODEFER;           // it is left by a jump, not by a return
    const int caught[] = {SIGSEGV, SIGBUS, SIGFPE};
    for (int i = 0; i < 3; ++i) sigaction(caught[i], &fault, &before[i]);
    const Word blocks = static_cast<Word>(grid.x) * grid.y * grid.z;
    for (Word i = 0; i < blocks && !failure[0]; ++i) run_block(order ? order[i] : i, shared);
    for (int i = 0; i < 3; ++i) sigaction(caught[i], &before[i], nullptr);
    return failure;
}

// What launcher.py compares arguments with: "*f4 i4 " for (float*, int).
template <class T>
struct Code { static constexpr char kind = '?', bytes = '?'; };
template <class T> requires requires(T t) { t + 0.5; }
struct Code<T> { static constexpr char kind = T(0.5) == 0.5 ? 'f' : 'i', bytes = '0' + sizeof(T); };
template <class P>
struct Parameter { static constexpr char text[] = {Code<P>::kind, Code<P>::bytes, ' ', 0}; };
template <class T>
struct Parameter<T*> {
    static constexpr char text[] = {'*', Code<T>::kind, Code<T>::bytes, ' ', 0};
};

const void* const* next_slot;
template <class P>
P take() { return *static_cast<const P*>(*next_slot++); }

template <auto kernel> struct Entry;
template <class... P, void (*kernel)(P...)>
struct Entry<kernel> {
    struct Run { Run(P... parameters) { kernel(parameters...); } };

    static void call() {
        next_slot = slots;
        Run{take<P>()...};      // braces, which promise to take them from left to right
    }
    static const int* sizes() {
        static const int bytes[] = {sizeof(P)..., 0};
        return bytes;
    }
    static const char* signature() {
        static char text[5 * sizeof...(P) + 1];
        char* end = text;
        ((end = __builtin_stpcpy(end, Parameter<P>::text)), ...);
        return text;
    }
};

inline unsigned lane_id() { return (current - threads) % lanes; }
inline Warp& warp() { return warps[(current - threads) / lanes]; }

template <class T>
T exchange(const char* name, unsigned mask, T value, unsigned source, int line) {
    static_assert(sizeof(T) <= sizeof(Word));
    Word word = 0;
    __builtin_memcpy(&word, &value, sizeof value);
    const unsigned group = meet(name, mask, word, line);
    word = group >> source & 1 ? warp().seen[source] : ~Word(0);
    __builtin_memcpy(&value, &word, sizeof value);
    return value;
}

struct DynamicShared {
    template <class T> operator T*() const { return reinterpret_cast<T*>(dynamic_shared); }
};

}  // namespace host

// ---- what a kernel may call --------------------------------------------------------------------

#define HOST_LINE int line = __builtin_LINE()

inline void __syncthreads(HOST_LINE) { host::barrier("__syncthreads", line); }
inline void __syncwarp(unsigned mask = ~0u, HOST_LINE) { host::meet("__syncwarp", mask, 0, line); }
inline void __threadfence() { host::preempt(); }
inline void __threadfence_block() { host::preempt(); }

inline unsigned __ballot_sync(unsigned mask, int predicate, HOST_LINE) {
    const unsigned group = host::meet("__ballot_sync", mask, predicate != 0, line);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < host::lanes; ++lane)
        if (group >> lane & 1 && host::warp().seen[lane]) votes |= 1u << lane;
    return votes;
}
inline int __any_sync(unsigned mask, int predicate, HOST_LINE) {
    return __ballot_sync(mask, predicate, line) != 0;
}
inline unsigned __activemask() { return host::warp().live; }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, HOST_LINE) {
    const int lane = host::lane_id(), inside = width - 1;
    return host::exchange("__shfl_sync", mask, value, (lane & ~inside) | (source & inside), line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, HOST_LINE) {
    const unsigned lane = host::lane_id(), inside = lane & (width - 1);
    const unsigned source = inside >= delta ? lane - delta : lane;
    return host::exchange("__shfl_up_sync", mask, value, source, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, HOST_LINE) {
    const unsigned lane = host::lane_id(), inside = lane & (width - 1);
    const unsigned source = inside + delta < unsigned(width) ? lane + delta : lane;
    return host::exchange("__shfl_down_sync", mask, value, source, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize, HOST_LINE) {
    const int lane = host::lane_id(), other = lane ^ bits;
    const int source = other <= (lane | (width - 1)) ? other : lane;
    return host::exchange("__shfl_xor_sync", mask, value, source, line);
}

// Integers only: a sum of floats by atomics depends on the order of threads.
template <class T> struct Same { using Type = T; };
template <class T> requires(T(0.5) == T(0))
T atomicAdd(T* address, typename Same<T>::Type value) {
    host::preempt();
    const T before = *address;
    *address += value;
    return before;
}
template <class T> T __ldg(const T* address) { return *address; }

// As in CUDA, a NaN loses to a number.
template <class A, class B> auto max(A a, B b) {
    const decltype(a + b) x = a, y = b;
    return x > y || y != y ? x : y;
}
template <class A, class B> auto min(A a, B b) {
    const decltype(a + b) x = a, y = b;
    return x < y || y != y ? x : y;
}

#define HOST_MATH_1(name)                                                  \
    inline double name(double x) { return __builtin_##name(x); }           \
    inline float name(float x) { return __builtin_##name##f(x); }          \
    inline float name##f(float x) { return __builtin_##name##f(x); }
#define HOST_MATH_2(name)                                                               \
    inline double name(double x, double y) { return __builtin_##name(x, y); }           \
    inline float name(float x, float y) { return __builtin_##name##f(x, y); }           \
    inline float name##f(float x, float y) { return __builtin_##name##f(x, y); }
HOST_MATH_1(exp) HOST_MATH_1(exp2) HOST_MATH_1(expm1) HOST_MATH_1(log) HOST_MATH_1(log2)
HOST_MATH_1(log10) HOST_MATH_1(log1p) HOST_MATH_1(sqrt) HOST_MATH_1(cbrt) HOST_MATH_1(fabs)
HOST_MATH_1(sin) HOST_MATH_1(cos) HOST_MATH_1(tan) HOST_MATH_1(asin) HOST_MATH_1(acos)
HOST_MATH_1(atan) HOST_MATH_1(sinh) HOST_MATH_1(cosh) HOST_MATH_1(tanh) HOST_MATH_1(asinh)
HOST_MATH_1(acosh) HOST_MATH_1(atanh) HOST_MATH_1(erf) HOST_MATH_1(erfc) HOST_MATH_1(floor)
HOST_MATH_1(ceil) HOST_MATH_1(trunc) HOST_MATH_1(round) HOST_MATH_1(rint)
HOST_MATH_2(pow) HOST_MATH_2(fmax) HOST_MATH_2(fmin) HOST_MATH_2(fmod) HOST_MATH_2(copysign)
HOST_MATH_2(hypot) HOST_MATH_2(atan2)

inline double fma(double x, double y, double z) { return __builtin_fma(x, y, z); }
inline float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline float fmaf(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
inline double rsqrt(double x) { return 1 / __builtin_sqrt(x); }
inline float rsqrt(float x) { return 1 / __builtin_sqrtf(x); }
inline float rsqrtf(float x) { return 1 / __builtin_sqrtf(x); }
template <class T> T abs(T x) { return x < 0 ? -x : x; }
template <class T> bool isfinite(T x) { return __builtin_isfinite(x); }
template <class T> bool isnan(T x) { return __builtin_isnan(x); }
template <class T> bool isinf(T x) { return __builtin_isinf(x); }
template <class T> bool signbit(T x) { return __builtin_signbit(x); }

inline float __expf(float x) { return __builtin_expf(x); }
inline float __logf(float x) { return __builtin_logf(x); }
inline float __powf(float x, float y) { return __builtin_powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }
inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }

}  // namespace

// The entry points for a kernel; launcher.py writes these after the source.
#define HOST_KERNEL(name)                                                                  \
    extern "C" __attribute__((visibility("default"))) const int* sizes_##name() {          \
        return host::Entry<name>::sizes();                                                 \
    }                                                                                      \
    extern "C" __attribute__((visibility("default"))) const char* signature_##name() {     \
        return host::Entry<name>::signature();                                             \
    }                                                                                      \
    extern "C" __attribute__((visibility("default"))) const char* launch_##name(           \
        unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,      \
        unsigned shared, const unsigned* order, host::Word seed, const void* const* args) { \
        return host::launch(host::Entry<name>::call, {gx, gy, gz}, {bx, by, bz}, shared,   \
                            order, seed, args);                                            \
    }

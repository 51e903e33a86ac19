// The part of cuBLAS that the library and CuPy call, on the CPU, with the signatures of NVIDIA's
// cublas_api.h. As strict as cuBLAS, or stricter: what it answers with an error or with garbage is
// an error here.
#pragma GCC optimize("O3,associative-math,no-signed-zeros,no-trapping-math")
#include "queues.hpp"

#include <cstddef>
#include <cstring>
#include <memory>

namespace {
constexpr int NOT_INITIALIZED = 1, INVALID = 7, FAILED = 13, UNSUPPORTED = 15;
constexpr int FLOAT = 0, DOUBLE = 1, BFLOAT16 = 14;
constexpr std::size_t ENOUGH = 32 << 20;

struct Handle {
    void *stream, *workspace;
    std::size_t bytes;
    int numbers_on_device, math_mode;
    long products;
};
std::set<Handle*> handles;
Handle* newest;

bool is_open(Handle* handle) { return handles.count(handle); }

// Rounds a float to the nearest with so many bits of mantissa fewer, to even in the middle.
float rounded(float x, int bits) {
    std::uint32_t u;
    std::memcpy(&u, &x, 4);
    u += (1u << (bits - 1)) - 1 + (u >> bits & 1);
    u &= ~((1u << bits) - 1);
    std::memcpy(&x, &u, 4);
    return x;
}

float of_bfloat16(std::uint16_t bits) {
    const std::uint32_t u = std::uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &u, 4);
    return x;
}

// C = alpha A B + beta C. `round` makes a T of a factor's entry. The product is in the workspace
// at first, where that of another stream must not be.
template <class Factor, class T, class Round>
int multiply(Handle* handle, const T* alpha, const T* beta, bool transpose_a, bool transpose_b,
             int m, int n, int k, const Factor* A, int lda, const Factor* B, int ldb, T* C,
             int ldc, Round round) {
    if (m < 1 || n < 1 || k < 1) return INVALID;
    if (lda < (transpose_a ? k : m) || ldb < (transpose_b ? n : k) || ldc < m) return INVALID;
    if (!reachable(A) || !reachable(B) || !reachable(C)) return INVALID;
    ++handle->products;
    const bool on_device = handle->numbers_on_device;
    const T alpha_now = on_device ? 0 : *alpha, beta_now = on_device ? 0 : *beta;
    std::shared_ptr<std::vector<T>> own;
    T* product = static_cast<T*>(handle->workspace);
    if (handle->bytes < sizeof(T) * m * n) {
        own = std::make_shared<std::vector<T>>(long(m) * n);
        product = own->data();
    }
    const auto factors = [=] {
        std::vector<T> column(k);
        for (long j = 0; j < n; ++j) {
            for (long p = 0; p < k; ++p)
                column[p] = round(transpose_b ? B[j + p * ldb] : B[p + j * ldb]);
            for (long i = 0; i < m; ++i) {
                T sum = 0;
                for (long p = 0; p < k; ++p)
                    sum += round(transpose_a ? A[p + i * lda] : A[i + p * lda]) * column[p];
                product[i + j * m] = sum;
            }
        }
    };
    const auto sums = [=, keeps = own] {
        const T by = on_device ? *alpha : alpha_now, kept = on_device ? *beta : beta_now;
        for (long j = 0; j < n; ++j)
            for (long i = 0; i < m; ++i) {
                T& out = C[i + j * ldc];
                out = kept ? by * product[i + j * m] + kept * out : by * product[i + j * m];
            }
    };
    Stream* const stream = stream_of(handle->stream);
    return ask(stream, factors) || ask(stream, sums) ? FAILED : OK;
}

template <class T>
int dot(Handle* handle, int n, const T* x, int step_x, const T* y, int step_y, T* out) {
    const Lock lock(mutex);
    if (!is_open(handle)) return NOT_INITIALIZED;
    Stream* const stream = stream_of(handle->stream);
    if (stream->captured && !handle->numbers_on_device) return stream->spoilt = true, FAILED;
    const auto work = [=] {
        *out = 0;
        for (long i = 0; i < n; ++i) *out += x[i * step_x] * y[i * step_y];
    };
    if (ask(stream, work)) return FAILED;
    if (!handle->numbers_on_device) finish(stream);
    return OK;
}
}  // namespace

EXPORT int cublasCreate_v2(Handle** handle) {
    const Lock lock(mutex);
    if (may_wait()) return NOT_INITIALIZED;
    handles.insert(*handle = newest = new Handle{});
    return OK;
}

EXPORT int cublasDestroy_v2(Handle* handle) {
    const Lock lock(mutex);
    if (!handles.erase(handle)) return NOT_INITIALIZED;
    if (handle == newest) newest = nullptr;
    delete handle;
    return OK;
}

EXPORT int cublasSetStream_v2(Handle* handle, void* stream) {
    const Lock lock(mutex);
    if (!is_open(handle)) return NOT_INITIALIZED;
    handle->stream = stream;
    handle->workspace = nullptr;  // is forgotten
    handle->bytes = 0;
    return OK;
}

EXPORT int cublasSetWorkspace_v2(Handle* handle, void* workspace, std::size_t bytes) {
    const Lock lock(mutex);
    if (!is_open(handle)) return NOT_INITIALIZED;
    handle->workspace = workspace;
    handle->bytes = bytes;
    return OK;
}

EXPORT int cublasSetPointerMode_v2(Handle* handle, int mode) {
    const Lock lock(mutex);
    if (!is_open(handle)) return NOT_INITIALIZED;
    if (mode < 0 || mode > 1) return INVALID;
    handle->numbers_on_device = mode;
    return OK;
}

EXPORT int cublasGetPointerMode_v2(Handle* handle, int* mode) {
    return *mode = handle->numbers_on_device, OK;
}
EXPORT int cublasSetMathMode(Handle* handle, int mode) { return handle->math_mode = mode, OK; }
EXPORT int cublasGetMathMode(Handle* handle, int* mode) { return *mode = handle->math_mode, OK; }
EXPORT int cublasGetVersion_v2(Handle*, int* version) { return *version = 130200, OK; }

EXPORT int cublasGemmEx(Handle* handle, int op_a, int op_b, int m, int n, int k, const void* alpha,
                        const void* A, int type_a, int lda, const void* B, int type_b, int ldb,
                        const void* beta, void* C, int type_c, int ldc, int compute, int algorithm) {
    const Lock lock(mutex);
    if (!is_open(handle)) return NOT_INITIALIZED;
    const bool captured = stream_of(handle->stream)->captured;  // or it would allocate
    if ((captured || handle->workspace) && handle->bytes < ENOUGH) return INVALID;
    if (op_a < 0 || op_a > 1 || op_b < 0 || op_b > 1) return INVALID;
    if (algorithm != -1 && algorithm != 99) return INVALID;
    if (type_a != type_b) return UNSUPPORTED;
    const auto product = [=](auto* factor, auto* entry, auto round) {
        using Factor = decltype(factor);
        using Entry = decltype(entry);
        return multiply(handle, static_cast<Entry>(alpha), static_cast<Entry>(beta), op_a, op_b, m,
                        n, k, static_cast<Factor>(A), lda, static_cast<Factor>(B), ldb,
                        static_cast<std::remove_const_t<std::remove_pointer_t<Entry>>*>(C), ldc,
                        round);
    };
    const float* const f = nullptr;
    const double* const d = nullptr;
    const std::uint16_t* const b = nullptr;
    if (type_c == DOUBLE && type_a == DOUBLE && compute == 70)
        return product(d, d, [](double x) { return x; });
    if (type_c == FLOAT && type_a == BFLOAT16 && compute == 68) return product(b, f, of_bfloat16);
    const int dropped = compute == 68 ? 0 : compute == 77 ? 13 : compute == 75 ? 16 : -1;
    if (type_c != FLOAT || type_a != FLOAT || dropped < 0) return UNSUPPORTED;
    return product(f, f, [=](float x) { return dropped ? rounded(x, dropped) : x; });
}

// What CuPy calls for its own products.

EXPORT int cublasGemmStridedBatchedEx(Handle* handle, int op_a, int op_b, int m, int n, int k,
                                      const void* alpha, const char* A, int type_a, int lda,
                                      long long step_a, const char* B, int type_b, int ldb,
                                      long long step_b, const void* beta, char* C, int type_c,
                                      int ldc, long long step_c, int count, int compute,
                                      int algorithm) {
    const auto bytes = [](int type) { return type == DOUBLE ? 8 : type == FLOAT ? 4 : 2; };
    for (long i = 0; i < count; ++i) {
        const int status = cublasGemmEx(
            handle, op_a, op_b, m, n, k, alpha, A + i * step_a * bytes(type_a), type_a, lda,
            B + i * step_b * bytes(type_b), type_b, ldb, beta, C + i * step_c * bytes(type_c),
            type_c, ldc, compute, algorithm);
        if (status) return status;
    }
    return OK;
}

EXPORT int cublasSgemm_v2(Handle* handle, int op_a, int op_b, int m, int n, int k,
                          const float* alpha, const float* A, int lda, const float* B, int ldb,
                          const float* beta, float* C, int ldc) {
    return cublasGemmEx(handle, op_a, op_b, m, n, k, alpha, A, FLOAT, lda, B, FLOAT, ldb, beta, C,
                        FLOAT, ldc, 68, -1);
}

EXPORT int cublasSgemmEx(Handle* handle, int op_a, int op_b, int m, int n, int k,
                         const float* alpha, const void* A, int type_a, int lda, const void* B,
                         int type_b, int ldb, const float* beta, void* C, int type_c, int ldc) {
    return cublasGemmEx(handle, op_a, op_b, m, n, k, alpha, A, type_a, lda, B, type_b, ldb, beta,
                        C, type_c, ldc, 68, -1);
}

EXPORT int cublasDgemm_v2(Handle* handle, int op_a, int op_b, int m, int n, int k,
                          const double* alpha, const double* A, int lda, const double* B, int ldb,
                          const double* beta, double* C, int ldc) {
    return cublasGemmEx(handle, op_a, op_b, m, n, k, alpha, A, DOUBLE, lda, B, DOUBLE, ldb, beta,
                        C, DOUBLE, ldc, 70, -1);
}

EXPORT int cublasSdot_v2(Handle* handle, int n, const float* x, int step_x, const float* y,
                         int step_y, float* out) {
    return dot(handle, n, x, step_x, y, step_y, out);
}

EXPORT int cublasDdot_v2(Handle* handle, int n, const double* x, int step_x, const double* y,
                         int step_y, double* out) {
    return dot(handle, n, x, step_x, y, step_y, out);
}

EXPORT void* stand_in_stream() { return newest->stream; }
EXPORT void* stand_in_workspace() { return newest->workspace; }
EXPORT long stand_in_products() { return newest->products; }
EXPORT int stand_in_is_open() { return newest != nullptr; }

// Whole training of a small network in one launch, by one block of THREADS; blockIdx.x is the
// network. Its parameters and a tile of samples are in shared memory. The gradient of a parameter
// is in a register of the thread that updates it; what the optimizer keeps stays in global memory.
//
// It reads like network.py, for TILE samples after the other, which are rows:
//
//     forward         z[l] = a[l-1] W[l]^T + b[l]         a[l] = g[l](z[l])          a[0] = x
//     backward   1.   dC/da[L]                            from the loss
//                2.   delta[l] = dC/da[l] * g'[l](z[l])
//                3.   dC/dW[l] += delta[l]^T a[l-1]       dC/db[l] += sum of delta[l] over samples
//                4.   dC/da[l-1] = delta[l] W[l]
//
// delta[l] takes the place of a[l], which nothing needs by then. In front of this file stand
// train.cuh, patch.cuh and mma.cuh, and TILE, SHARED_BYTES, TF32 (are products on tensor cores?)
// and HIGH and WIDE (rows and columns of the parts of each dC/dW). Softmax is the last layer's,
// under cross-entropy.

static_assert(TILE <= THREADS && THREADS == MAX_THREADS);
static_assert(!Activation<L>::softmax || Loss::of_rows);

typedef Products<TF32> Product;
__device__ constexpr int stride(int l) { return Product::stride(SIZES[l]); }

// A layer's dC/dW: a thread keeps so many parts of it.
template <int l>
using WeightPart = typename Product::template Weights<SIZES[l], SIZES[l - 1], HIGH[l - 1], WIDE[l - 1]>;
template <int l>
constexpr int shares = parts(WeightPart<l>::COUNT, THREADS);

// Calls body(p, part) for the parts of a layer's dC/dW that are a thread's.
template <int l, class Body>
INLINE void each_share(Body body) {
#pragma unroll
    for (int p = 0; p < shares<l>; ++p) {
        const int number = threadIdx.x + p * THREADS;
        if (number < WeightPart<l>::COUNT) body(p, WeightPart<l>(number));
    }
}

// Calls body(row, column, number) for all numbers of a product of which the first `rows` rows are
// wanted: of A, with TILE rows, and B or its transpose, with N columns.
template <int N, bool B_T, class Body>
INLINE void multiply(int rows, const real* A, int A_ld, const real* B, int B_ld, int count,
                     Body body) {
    typedef typename Product::template Tile<TILE, N, false, B_T> Part;
    for (int number = threadIdx.x; number < Part::COUNT; number += THREADS) {
        const Part part(number);
        if (part.first_row() >= rows) break;
        typename Part::Sums sum = {};
        part.multiply(sum, A, A_ld, B, B_ld, count);
        each(part, sum, body);
    }
}

template <int l>
struct Shared : Shared<l - 1> {
    real W[SIZES[l] * stride(l - 1)], b[stride(l)];
    real a[TILE * stride(l)];  // later delta; z in the last layer
    real z[l < L && Activation<l>::keeps_z ? TILE * stride(l) : AT_ONCE];  // keeps what follows aligned
};
template <>
struct Shared<0> {
    real a[TILE * stride(0)];
};
static_assert(sizeof(Shared<L>) == SHARED_BYTES, "one_launch.py counts otherwise");

template <int l>
struct Gradient : Gradient<l - 1> {
    typename WeightPart<l>::Sums dC_dW[shares<l>];
    real dC_db;
};
template <>
struct Gradient<0> {};

template <int l>
INLINE void load(Shared<L>& shared, const real* parameters) {
    constexpr int K = SIZES[l - 1], N = SIZES[l];
    if constexpr (l > 1) load<l - 1>(shared, parameters);
    Shared<l>& own = shared;
    for (int i = threadIdx.x; i < N * K; i += THREADS)
        own.W[i / K * stride(l - 1) + i % K] = parameters[weights_at(l) + i];
    for (int j = threadIdx.x; j < N; j += THREADS) own.b[j] = parameters[biases_at(l) + j];
}

template <int l>
INLINE void forward(Shared<L>& shared, int rows) {
    constexpr int K = SIZES[l - 1], N = SIZES[l], ld = stride(l - 1);
    if constexpr (l > 1) forward<l - 1>(shared, rows);
    Shared<l>& own = shared;
    multiply<N, true>(rows, own.Shared<l - 1>::a, ld, own.W, ld, K, [&](int r, int j, real product) {
        const real z = product + own.b[j];
        const int i = r * stride(l) + j;
        if constexpr (l < L && Activation<l>::keeps_z) own.z[i] = z;
        if constexpr (l < L) own.a[i] = Activation<l>::g(z);
        else own.a[i] = z;
    });
    __syncthreads();
}

// Equations 1 and 2 for the last layer, times `share`, 1/n. Returns the thread's share of sum C_i.
template <class g>
INLINE real output(Shared<L>& shared, const index_t* sample, int rows, const real* y, real share) {
    real sum = 0;
    if constexpr (g::softmax) {  // a warp takes a row
        const int lane = threadIdx.x % WARP;
        for (int r = threadIdx.x / WARP; r < rows; r += THREADS / WARP) {
            real *z = shared.a + r * stride(L), exponentials = 0;
            const real* y_r = y + sample[r] * OUTPUTS;
            // No lane reads what another one overwrites: shuffles put memory in no order.
            real top = __shfl_sync(0xffffffffu, lane < OUTPUTS ? z[lane] : real(0), 0);
            for (int j = lane; j < OUTPUTS; j += WARP) top = fmax(top, z[j]);
            top = warp_max(top);
            for (int j = lane; j < OUTPUTS; j += WARP) exponentials += exp(z[j] - top);
            exponentials = warp_sum(exponentials);
            const real log_sum = log(exponentials);
            for (int j = lane; j < OUTPUTS; j += WARP) {
                if (y_r[j] > real(0)) sum += y_r[j] * (log_sum - (z[j] - top));
                z[j] = (exp(z[j] - top) / exponentials - y_r[j]) * share;
            }
        }
    } else {
        for (int i = threadIdx.x; i < rows * OUTPUTS; i += THREADS) {
            const int r = i / OUTPUTS, j = i % OUTPUTS;
            real& cell = shared.a[r * stride(L) + j];
            const real z = cell, a = g::g(z), m = OUTPUTS;
            const real y_j = y[sample[r] * OUTPUTS + j];
            sum += Loss::term(z, a, y_j, m);
            cell = Loss::slope(z, a, y_j, m) * share;
        }
    }
    __syncthreads();
    return sum;
}

// Equations 3, 4 and 2, from layer l down.
template <int l>
INLINE void backward(Shared<L>& shared, Gradient<L>& gradient, int rows) {
    constexpr int K = SIZES[l - 1], N = SIZES[l], ld = stride(l), ld_before = stride(l - 1);
    Shared<l>& own = shared;
    Shared<l - 1>& before = shared;
    Gradient<l>& mine = gradient;
    const real* delta = own.a;
    each_share<l>([&](int p, const WeightPart<l>& part) {
        part.multiply(mine.dC_dW[p], delta, ld, before.a, ld_before, rows);
    });
    if (threadIdx.x < N)
        for (int r = 0; r < rows; ++r) mine.dC_db += delta[r * ld + threadIdx.x];
    __syncthreads();
    if constexpr (l > 1) {
        multiply<K, false>(rows, delta, ld, own.W, ld_before, N, [&](int r, int k, real dC_da) {
            typedef Activation<l - 1> g;
            const int i = r * ld_before + k;
            const real a = before.a[i], z = g::keeps_z ? before.z[i] : a;
            before.a[i] = dC_da * g::g_prime(z, a);
        });
        __syncthreads();
        backward<l - 1>(shared, gradient, rows);
    }
}

// Calls body(parameter, dC/dp, where it is in the flat array) for those of a thread.
template <int l, class Body>
INLINE void each_parameter(Shared<L>& shared, Gradient<L>& gradient, Body body) {
    constexpr int K = SIZES[l - 1], N = SIZES[l];
    if constexpr (l > 1) each_parameter<l - 1>(shared, gradient, body);
    Shared<l>& own = shared;
    Gradient<l>& mine = gradient;
    const auto weight = [&](int j, int k, real& g) {
        body(own.W[j * stride(l - 1) + k], g, weights_at(l) + j * K + k);
    };
    each_share<l>([&](int p, const WeightPart<l>& part) { each(part, mine.dC_dW[p], weight); });
    if (threadIdx.x < N) body(own.b[threadIdx.x], mine.dC_db, biases_at(l) + threadIdx.x);
}

// Copies neighbours, of which so many are there: at once, if they are ALIGNED.
template <bool ALIGNED, int size>
INLINE void copy(real* to, const real* from, int there) {
    if constexpr (ALIGNED) {
        *reinterpret_cast<Vector<size>*>(to) = *reinterpret_cast<const Vector<size>*>(from);
    } else {
#pragma unroll
        for (int e = 0; e < size; ++e)
            if (e < there) to[e] = from[e];
    }
}

// An optimizer step for a thread's part of the weights of layer l, `some` groups of neighbours at a
// time. What the optimizer keeps of them is read before any of it is written: the compiler can't tell
// s0 from s1, and would wait for memory at every number.
template <int l>
INLINE void update_weights(real* W, const WeightPart<l>& part, typename WeightPart<l>::Sums& dC_dW,
                           real* s0, real* s1, const Numbers& now) {
    typedef WeightPart<l> Part;
    constexpr int K = SIZES[l - 1], size = Part::NEIGHBOURS;
    constexpr int some = 64 / sizeof(Vector<size>);
    constexpr bool aligned = K % size == 0 && weights_at(l) % size == 0;
#pragma unroll
    for (int first = 0; first < Part::GROUPS; first += some) {
        Vector<size> m[some] = {}, v[some] = {};
        const auto each_group = [&](auto body) {
#pragma unroll
            for (int i = 0; i < some && first + i < Part::GROUPS; ++i)
                part.group(first + i, dC_dW, [&](int j, int k, real* g) { body(i, j, k, g); });
        };
        each_group([&](int i, int j, int k, real*) {
            if (SLOTS > 0) copy<aligned, size>(m[i].x, s0 + j * K + k, K - k);
            if (SLOTS > 1) copy<aligned, size>(v[i].x, s1 + j * K + k, K - k);
        });
        each_group([&](int i, int j, int k, real* g) {
#pragma unroll
            for (int e = 0; e < size; ++e) {
                if (aligned || k + e < K)
                    apply(W[j * stride(l - 1) + k + e], g[e], m[i].x[e], v[i].x[e], now, true);
                g[e] = 0;
            }
        });
        each_group([&](int i, int j, int k, real*) {
            if (SLOTS > 0) copy<aligned, size>(s0 + j * K + k, m[i].x, K - k);
            if (SLOTS > 1) copy<aligned, size>(s1 + j * K + k, v[i].x, K - k);
        });
    }
}

template <int l>
INLINE void update(Shared<L>& shared, Gradient<L>& gradient, real* s0, real* s1,
                   const Numbers& now) {
    if constexpr (l > 1) update<l - 1>(shared, gradient, s0, s1, now);
    Shared<l>& own = shared;
    Gradient<l>& mine = gradient;
    each_share<l>([&](int p, const WeightPart<l>& part) {
        update_weights<l>(own.W, part, mine.dC_dW[p], s0 + weights_at(l), s1 + weights_at(l), now);
    });
    if (threadIdx.x < SIZES[l]) {
        const int i = biases_at(l) + threadIdx.x;
        real m = SLOTS > 0 ? s0[i] : real(0), v = SLOTS > 1 ? s1[i] : real(0);
        apply(own.b[threadIdx.x], mine.dC_db, m, v, now, false);
        if (SLOTS > 0) s0[i] = m;
        if (SLOTS > 1) s1[i] = v;
        mine.dC_db = 0;
    }
}

INLINE void train_network(const Run& run) {
    extern __shared__ __align__(16) real memory[];
    Shared<L>& shared = *reinterpret_cast<Shared<L>*>(memory);
    const index_t at = blockIdx.x * index_t(PARAMETERS), state_at = blockIdx.x * index_t(STATE);
    const Numbers* now = run.numbers + blockIdx.x * run.numbers_stride;
    real* losses = run.losses + blockIdx.x * run.steps;
    __shared__ index_t sample[TILE];  // where those of the tile are in x and y
    Samples samples(run);             // those of the next one
    const auto next = [&] { return threadIdx.x < run.n - samples.at ? samples[threadIdx.x] : 0; };
    Gradient<L> gradient = {};
    index_t done = 0;

    load<L>(shared, run.parameters + at);
    if (threadIdx.x < TILE) sample[threadIdx.x] = next();
    __syncthreads();
    while (done < run.steps) {
        const Batch batch(run, run.n - samples.at);
        real C = 0;
        for (index_t left = batch.count; left > 0; left -= TILE) {
            const int rows = left < TILE ? int(left) : TILE;
            for (int i = threadIdx.x; i < rows * INPUTS; i += THREADS) {
                const int r = i / INPUTS, k = i % INPUTS;
                shared.Shared<0>::a[r * stride(0) + k] = run.x[sample[r] * INPUTS + k];
            }
            __syncthreads();
            forward<L>(shared, rows);
            samples.skip(rows);
            const index_t ahead = threadIdx.x < TILE ? next() : 0;
            C += output<Activation<L>>(shared, sample, rows, run.y, batch.share);
            if (threadIdx.x < TILE) sample[threadIdx.x] = ahead;
            backward<L>(shared, gradient, rows);
        }
        C = block_sum(C) * batch.share;
        if (threadIdx.x == 0) losses[done] = C;
        ++done;
        if (!isfinite(C)) break;
        if constexpr (CLIPS)
            clip(
                run,
                [&](auto body) {
                    each_parameter<L>(shared, gradient,
                                      [&](real&, real& g, int) { body(g); });
                },
                block_max, block_sum);
        const Numbers numbers = *now;  // not within: what is stored there might be these
        update<L>(shared, gradient, run.s0 + state_at, run.s1 + state_at, numbers);
        ++now;
    }
    each_parameter<L>(shared, gradient, [&](real& p, real&, int i) {
        run.parameters[at + i] = p;
    });
}

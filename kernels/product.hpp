// Matrix products in blocks that the registers hold.
//
//     C[i][j] = start[i][j] + sum_p A(i, p) B[p][j]
//
// j runs along vectors, and A(i, p) is one number for all of them. With W^T at hand beside W, all
// three products of backpropagation have this shape:
//
//     z      = b + a W^T              A = a            B = W^T      start = b in every row
//     dC/da  = delta W                A = delta        B = W        start = 0
//     dC/dW += delta^T a_before       A = delta^T      B = a        start = C
//
// C has room for whole blocks of rows, and its width is a multiple of V.

#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int BYTES = 32, REGISTERS = 16;
#elif defined(__x86_64__)
constexpr int BYTES = 16, REGISTERS = 16;
#else
constexpr int BYTES = 16, REGISTERS = 32;
#endif
constexpr int V = BYTES / sizeof(real);  // numbers in a vector

// A block of C: 16 or 8 sums hide the latency of a multiply-add; more rows gain nothing.
constexpr int ROWS = 4, VECTORS = REGISTERS / 8;

typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

INLINE vec load(const real* from) { return *reinterpret_cast<const vec*>(from); }
INLINE void store(real* to, vec v) { *reinterpret_cast<vec*>(to) = v; }

struct Strides {  // A(i, p) = A[i row + p column]
    int row, column;
};

// A function of its own, with sizes as numbers: a block takes so long that knowing them gains
// nothing, and one that every layer shares halves the time to compile.
template <int rows, int vectors>
static __attribute__((noinline)) void block(const real* A, Strides a, const real* B, int ldb,
                                            int depth, const real* start, int lds, real* C,
                                            int ldc) {
    vec sum[rows][vectors];
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) sum[i][j] = load(start + i * lds + j * V);
    for (int p = 0; p < depth; ++p, A += a.column, B += ldb) {
        vec b[vectors];
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) b[j] = load(B + j * V);
#pragma GCC unroll 4
        for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; ++j) sum[i][j] += A[i * a.row] * b[j];
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) store(C + i * ldc + j * V, sum[i][j]);
}

// The most of a panel of B: it stays in the L1 cache while all of A passes by.
constexpr int PANEL_BYTES = 32 << 10;

// The panel of a few vectors' columns from j on, and those to its right.
template <int height, int vectors>
static void product(int rows, int width, const real* A, Strides a, const real* B, int ldb,
                    int depth, const real* start, int lds, real* C, int ldc, int j = 0) {
    constexpr int most = PANEL_BYTES / (vectors * BYTES);
    for (; j + vectors * V <= width; j += vectors * V)
        for (int p = 0; p < depth; p += most) {
            const int some = depth - p < most ? depth - p : most;
            const real* from = p ? C : start;
            const int ldf = p ? ldc : lds;
            for (int i = 0; i < rows; i += height)
                block<height, vectors>(A + i * a.row + p * a.column, a, B + p * ldb + j, ldb, some,
                                       from + i * ldf + j, ldf, C + i * ldc + j, ldc);
        }
    if constexpr (vectors > 1)
        product<height, vectors - 1>(rows, width, A, a, B, ldb, depth, start, lds, C, ldc, j);
}

// sum_k x[k] y[k]. Both halves of a short sum go on at the same time.
template <int size>
INLINE real short_dot(const real* x, const real* y) {
    if constexpr (size == 0) return 0;
    else if constexpr (size == 1) return x[0] * y[0];
    else {
        constexpr int half = size / 2;
        return short_dot<half>(x, y) + short_dot<size - half>(x + half, y + half);
    }
}

template <int size>
INLINE real dot(const real* x, const real* y) {
    constexpr int lanes = size / V * V;
    real sum = short_dot<size - lanes>(x + lanes, y + lanes);
    if constexpr (lanes) {
        vec sums = load(x) * load(y);
        for (int k = V; k < lanes; k += V) sums += load(x + k) * load(y + k);
        for (int half = V / 2; half; half /= 2)
            for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
        sum += sums[0];
    }
    return sum;
}

// to[j][i] = from[i][j] for V by V numbers. Dealing out the two halves of an array in turn rotates
// the bits of its index; after log2(V) times, rows and columns have changed places.
static __attribute__((noinline)) void transpose(const real* from, int ld_from, real* to,
                                                int ld_to) {
    constexpr int half = V * V / 2;
    alignas(64) real a[2 * half], b[2 * half];
    for (int i = 0; i < V; ++i) store(a + i * V, load(from + i * ld_from));
    for (int turns = V; turns > 1; turns /= 2) {
        for (int i = 0; i < half; ++i) b[2 * i] = a[i], b[2 * i + 1] = a[i + half];
        memcpy(a, b, sizeof a);
    }
    for (int i = 0; i < V; ++i) store(to + i * ld_to, load(a + i * V));
}

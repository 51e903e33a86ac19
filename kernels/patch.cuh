// A thread's part of a matrix product: HIGH x WIDE numbers in registers. The larger it is, the
// fewer numbers are read from shared memory for each multiplication.

__device__ constexpr int parts(int n, int unit) { return (n + unit - 1) / unit; }

// The rows and columns of an M x N product that are a thread's: far from each other, so that the
// threads of a warp read neighbours. Beyond the edge it computes the last ones once more; a
// thread whose number is too large has nothing.
template <int HIGH, int WIDE>
struct Patch {
    static constexpr int high = HIGH, wide = WIDE;
    int rows[HIGH], columns[WIDE], M, N;

    static __device__ constexpr int count(int M, int N) { return parts(M, HIGH) * parts(N, WIDE); }

    __device__ Patch(int number, int M_, int N_) : M(M_), N(N_) {
        const int down = parts(M, HIGH), across = parts(N, WIDE), first = number / across;
#pragma unroll
        for (int i = 0; i < HIGH; ++i) rows[i] = first < down ? first + i * down : M;
#pragma unroll
        for (int j = 0; j < WIDE; ++j) columns[j] = number % across + j * across;
    }
    // sum += A B, where A(i, q) is A[i * A_row + q * A_q], B(q, j) is B[q * B_q + j * B_column].
    __device__ void multiply(real (&sum)[HIGH][WIDE], const real* A, int A_row, int A_q,
                             const real* B, int B_q, int B_column, int count) const {
        if (rows[0] >= M) return;
        for (int q = 0; q < count; ++q) {
            real a[HIGH], b[WIDE];
#pragma unroll
            for (int i = 0; i < HIGH; ++i) a[i] = A[min(rows[i], M - 1) * A_row + q * A_q];
#pragma unroll
            for (int j = 0; j < WIDE; ++j) b[j] = B[q * B_q + min(columns[j], N - 1) * B_column];
#pragma unroll
            for (int i = 0; i < HIGH; ++i)
#pragma unroll
                for (int j = 0; j < WIDE; ++j) sum[i][j] += a[i] * b[j];
        }
    }
    // Calls body(row, column, number) for the numbers within the edges.
    template <class Body>
    __device__ void each(real (&numbers)[HIGH][WIDE], Body body) const {
#pragma unroll
        for (int i = 0; i < HIGH; ++i)
#pragma unroll
            for (int j = 0; j < WIDE; ++j)
                if (rows[i] < M && columns[j] < N) body(rows[i], columns[j], numbers[i][j]);
    }
};

// How a layer's dC/dW is shared out: in 8 x 8 patches, unless 4 x 4 take fewer registers.
__device__ constexpr int patches(int l, int each) {
    return parts(parts(SIZES[l], each) * parts(SIZES[l - 1], each), THREADS);
}
__device__ constexpr int each(int l) { return 4 * patches(l, 8) <= patches(l, 4) ? 8 : 4; }
template <int l>
using WeightPatch = Patch<each(l), each(l)>;
// And numbers of a tile's samples by a layer's nodes.
template <int l>
using TilePatch = Patch<TILE * SIZES[l] >= 8 * 4 * THREADS ? 8 : 4, 4>;

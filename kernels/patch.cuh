// Matrix products of a block: each thread has numbers of them in registers. The larger its part is,
// the fewer numbers are read from shared memory for each multiplication.

__device__ constexpr int parts(int n, int unit) { return (n + unit - 1) / unit; }

// The rows and columns of an M x N product that are a thread's: far from each other, so that the
// threads of a warp read neighbours. Beyond the edge it computes the last ones once more; a
// thread whose number is too large has nothing.
template <int HIGH, int WIDE>
struct Patch {
    typedef real Numbers[HIGH][WIDE];
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
    __device__ void multiply(Numbers& sum, const real* A, int A_row, int A_q, const real* B,
                             int B_q, int B_column, int count) const {
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
    __device__ void each(Numbers& numbers, Body body) const {
#pragma unroll
        for (int i = 0; i < HIGH; ++i)
#pragma unroll
            for (int j = 0; j < WIDE; ++j)
                if (rows[i] < M && columns[j] < N) body(rows[i], columns[j], numbers[i][j]);
    }
};

// What products are made of, and how far it is from row to row of a matrix in shared memory;
// mma.cuh has those for TF32.
template <bool tf32>
struct Products {
    typedef Patch<8, 8> LargeWeights;
    typedef Patch<8, 4> LargeTile;
    typedef Patch<4, 4> SmallWeights, SmallTile;
    // Odd: the same column of 32 rows lies in 32 banks.
    static __device__ constexpr int stride(int columns) { return columns | 1; }
};

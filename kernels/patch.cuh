// Matrix products of a block: each thread has numbers of them in registers. The larger its part is,
// the fewer numbers are read from shared memory for each multiplication.

__device__ constexpr int parts(int n, int unit) { return (n + unit - 1) / unit; }

constexpr int AT_ONCE = 16 / sizeof(real);  // numbers that a thread reads with one instruction

template <int size>
struct alignas(size * sizeof(real)) Vector {
    real x[size];
};

// The rows of A, or the columns of B, that are a thread's: COUNT of SIZE. The factors of one lie side
// by side in memory; or, if the matrix is TRANSPOSED, those of neighbouring lines do, and a thread has
// groups of neighbours. What lies side by side is read at once. Neighbouring threads have
// neighbouring groups, so that a warp reads from all banks: of 20 lines, 8 a thread in groups of 4,
// thread 0 has 0 to 3 and 12 to 15, thread 1 4 to 7 and 16 to 19, thread 2 8 to 11.
template <int SIZE, int COUNT, bool TRANSPOSED>
struct Lines {
    static constexpr int GROUP = !TRANSPOSED ? 1 : COUNT < AT_ONCE ? COUNT : AT_ONCE;  // neighbours
    static constexpr int SHARES = parts(SIZE, COUNT), GROUPS = parts(SIZE, GROUP);

    static __device__ constexpr int at(int share, int i) {
        return GROUP * (share + i / GROUP * SHARES) + i % GROUP;
    }
    // Beyond the edge there is the last group once more.
    static __device__ int group(int share, int i) {
        const int number = share + i * SHARES;
        return SIZE % COUNT == 0 || number < GROUPS ? number : GROUPS - 1;
    }
    // Factors q to q + STEP - 1 of each line; ld is how far it is from row to row in memory.
    template <int STEP>
    static __device__ void take(real (&to)[COUNT][STEP], const real* from, int ld, int share, int q) {
#pragma unroll
        for (int i = 0; i < COUNT / GROUP; ++i) {
            if constexpr (TRANSPOSED) {
#pragma unroll
                for (int e = 0; e < STEP; ++e) {
                    const auto v = read<GROUP>(from + (q + e) * ld + group(share, i) * GROUP);
#pragma unroll
                    for (int c = 0; c < GROUP; ++c) to[i * GROUP + c][e] = v.x[c];
                }
            } else {
                const auto v = read<STEP>(from + group(share, i) * ld + q);
#pragma unroll
                for (int e = 0; e < STEP; ++e) to[i][e] = v.x[e];
            }
        }
    }

   private:
    template <int size>
    static __device__ Vector<size> read(const real* from) {
        return *reinterpret_cast<const Vector<size>*>(from);
    }
};

// The numbers of an M x N product that are a thread's, of A or its transpose and B or its transpose.
template <int M, int N, int HIGH, int WIDE, bool A_T, bool B_T>
struct Patch {
    typedef real Sums[HIGH][WIDE];
    typedef Lines<M, HIGH, A_T> Rows;
    typedef Lines<N, WIDE, !B_T> Columns;
    static constexpr int COUNT = Rows::SHARES * Columns::SHARES;  // of all patches
    static constexpr int WIDTH = N, NEIGHBOURS = Columns::GROUP, GROUPS = HIGH * WIDE / NEIGHBOURS;

    const int row_share, column_share;

    __device__ explicit Patch(int number)
        : row_share(number / Columns::SHARES), column_share(number % Columns::SHARES) {}

    __device__ int first_row() const { return Rows::at(row_share, 0); }

    // sum += A B, of so many factors each.
    __device__ void multiply(Sums& sum, const real* A, int A_ld, const real* B, int B_ld,
                             int count) const {
        constexpr int STEP = A_T && !B_T ? 1 : AT_ONCE;
        int q = 0;
        for (; q + STEP <= count; q += STEP) add<STEP>(sum, A, A_ld, B, B_ld, q);
        for (; q < count; ++q) add<1>(sum, A, A_ld, B, B_ld, q);
    }
    // Calls body(row, column, numbers) for a group of NEIGHBOURS, if the first is within the edges.
    template <class Body>
    __device__ void group(int number, Sums& sums, Body body) const {
        const int i = number * NEIGHBOURS / WIDE, j = number * NEIGHBOURS % WIDE;
        const int row = Rows::at(row_share, i), column = Columns::at(column_share, j);
        if ((M % HIGH == 0 || row < M) && (N % WIDE == 0 || column < N))
            body(row, column, &sums[i][j]);
    }

   private:
    template <int STEP>
    __device__ void add(Sums& sum, const real* A, int A_ld, const real* B, int B_ld,
                        int q) const {
        real a[HIGH][STEP], b[WIDE][STEP];
        Rows::template take<STEP>(a, A, A_ld, row_share, q);
        Columns::template take<STEP>(b, B, B_ld, column_share, q);
#pragma unroll
        for (int e = 0; e < STEP; ++e)
#pragma unroll
            for (int i = 0; i < HIGH; ++i)
#pragma unroll
                for (int j = 0; j < WIDE; ++j) sum[i][j] += a[i][e] * b[j][e];
    }
};

// Calls body(row, column, number) for the numbers of a thread's part that are within the edges.
template <class Part, class Body>
INLINE void each(const Part& part, typename Part::Sums& sums, Body body) {
#pragma unroll
    for (int i = 0; i < Part::GROUPS; ++i)
        part.group(i, sums, [&](int row, int column, real* numbers) {
#pragma unroll
            for (int e = 0; e < Part::NEIGHBOURS; ++e)
                if (Part::WIDTH % Part::NEIGHBOURS == 0 || column + e < Part::WIDTH)
                    body(row, column + e, numbers[e]);
        });
}

// What products are made of, and how far it is from row to row of a matrix in shared memory;
// mma.cuh has those for TF32.
template <bool tf32>
struct Products {
    // What a thread multiplies and reads, as often as it has a patch. An instruction reads more than
    // one number, but other threads wait for the same memory.
    static __device__ constexpr int time(int M, int N, int high, int wide) {
        return parts(parts(M, high) * parts(N, wide), THREADS) * (high * wide + 2 * (high + wide));
    }
    static __device__ constexpr int best(int M, int N, bool asks_high) {
        constexpr int SHAPES[][2] = {{2 * AT_ONCE, 4}, {4, 4}, {4, 2}, {2, 2}, {2, 1}, {1, 1}};
        int found = 0;
        for (int i = 1; i < 6; ++i)
            if (time(M, N, SHAPES[i][0], SHAPES[i][1]) <
                time(M, N, SHAPES[found][0], SHAPES[found][1]))
                found = i;
        return SHAPES[found][asks_high ? 0 : 1];
    }
    template <int M, int N, bool A_T, bool B_T>
    using Tile = Patch<M, N, best(M, N, true), best(M, N, false), A_T, B_T>;
    template <int M, int N, int high, int wide>
    using Weights = Patch<M, N, high, wide, true, false>;
    // An odd number of vectors: those of eight rows lie in different banks.
    static __device__ constexpr int stride(int columns) {
        return AT_ONCE * (parts(columns, AT_ONCE) | 1);
    }
};

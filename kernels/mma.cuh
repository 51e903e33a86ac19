// Matrix products of a block on tensor cores: factors are rounded to TF32, sums are float.

#ifdef __CUDACC__  // for g++ they are in tests/host/mma.hpp
// x, rounded to 11 significant bits.
INLINE unsigned to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

// sum += A B, of 16 x 8 numbers and 8 x 8, by a warp. Its lane 4 g + t has A(g, t), A(g + 8, t),
// A(g, t + 4), A(g + 8, t + 4); B(t, g), B(t + 4, g); and of the sum (g, 2 t), (g, 2 t + 1),
// (g + 8, 2 t), (g + 8, 2 t + 1).
INLINE void mma_m16n8k8(float (&sum)[4], const unsigned (&A)[4], const unsigned (&B)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(A[0]), "r"(A[1]), "r"(A[2]), "r"(A[3]), "r"(B[0]), "r"(B[1]));
}
#endif

// The rows and columns of an M x N product that are a warp's: HIGH x WIDE fragments of 16 x 8, of
// which each lane has four numbers. Beyond the edge it computes the last ones once more; a warp
// whose number is too large has nothing. It takes what Patch takes, but needs all lanes at once.
template <int M, int N, int HIGH, int WIDE, bool A_T, bool B_T>
struct Fragments {
    typedef real Sums[HIGH][WIDE][4];
    static constexpr int ACROSS = parts(N, 8 * WIDE), COUNT = parts(M, 16 * HIGH) * ACROSS * WARP;
    static constexpr int WIDTH = N, NEIGHBOURS = 2, GROUPS = HIGH * WIDE * 2;

    int row, column, g, t;

    __device__ explicit Fragments(int number) {
        // Else the compiler works out the places of all parts before the first step, and has no
        // registers for them.
        asm volatile("" : "+r"(number));
        const int warp = number / WARP;
        row = warp / ACROSS * 16 * HIGH;
        column = warp % ACROSS * 8 * WIDE;
        g = number % WARP / 4;
        t = number % 4;
    }
    __device__ int first_row() const { return row; }

    __device__ void multiply(Sums& sum, const real* A, int A_ld, const real* B, int B_ld,
                             int count) const {
        int q = 0;
        for (; q + 8 <= count; q += 8) add<false>(sum, A, A_ld, B, B_ld, q, count);
        if (q < count) add<true>(sum, A, A_ld, B, B_ld, q, count);
    }
    // Calls body(row, column, numbers) for a group of NEIGHBOURS, if the first is within the edges.
    template <class Body>
    __device__ void group(int number, Sums& sums, Body body) const {
        const int i = number / 2 / WIDE, j = number / 2 % WIDE, c = number % 2;
        const int r = row + 16 * i + 8 * c + g, k = column + 8 * j + 2 * t;
        if ((M % (16 * HIGH) == 0 || r < M) && (N % (8 * WIDE) == 0 || k < N))
            body(r, k, sums[i][j] + 2 * c);
    }

   private:
    // sum += A B, of eight factors; those beyond `count` are zero, if some are.
    template <bool SOME_ARE>
    __device__ void add(Sums& sum, const real* A, int A_ld, const real* B, int B_ld, int q,
                        int count) const {
        unsigned a[HIGH][4], b[2];
#pragma unroll
        for (int i = 0; i < 2 * HIGH; ++i)
            take<A_T, SOME_ARE>(a[i / 2][i % 2], a[i / 2][i % 2 + 2], A, A_ld,
                                inside<M, 16 * HIGH>(row + 8 * i + g), q, count);
#pragma unroll
        for (int j = 0; j < WIDE; ++j) {
            take<!B_T, SOME_ARE>(b[0], b[1], B, B_ld, inside<N, 8 * WIDE>(column + 8 * j + g), q,
                                 count);
#pragma unroll
            for (int i = 0; i < HIGH; ++i) mma_m16n8k8(sum[i][j], a[i], b);
        }
    }
    template <int SIZE, int UNIT>
    static __device__ int inside(int line) {
        return SIZE % UNIT == 0 ? line : min(line, SIZE - 1);
    }
    // Lane 4 g + t takes two of factors q to q + 7 of a line, rounded. They are not t and t + 4, as
    // a sum may be in any order, but 2 t and 2 t + 1. Neighbours are read as one. If those of A or
    // of B are none, lanes read 0, 2, 5, 7 first, which lie in different banks, for rows are 8
    // modulo 16 numbers long.
    template <bool TRANSPOSED, bool SOME_ARE_BEYOND>
    __device__ void take(unsigned& one, unsigned& other, const real* from, int ld, int line, int q,
                         int count) const {
        const bool swaps = (A_T || !B_T) && t / 2;
        const int first = q + 2 * t + swaps, second = first ^ 1;
        real x, y;
        if constexpr (TRANSPOSED) {
            x = !SOME_ARE_BEYOND || first < count ? from[first * ld + line] : real(0);
            y = !SOME_ARE_BEYOND || second < count ? from[second * ld + line] : real(0);
        } else {
            const float2 both = *reinterpret_cast<const float2*>(from + line * ld + q + 2 * t);
            x = swaps ? both.y : both.x;
            y = swaps ? both.x : both.y;
            if (SOME_ARE_BEYOND && first >= count) x = 0;
            if (SOME_ARE_BEYOND && second >= count) y = 0;
        }
        one = to_tf32(x);
        other = to_tf32(y);
    }
};

template <>
struct Products<true> {
    // In large parts, if there is one for every thread.
    static __device__ constexpr bool large(int M, int N) {
        return parts(M, 32) * parts(N, 32) * WARP >= THREADS;
    }
    template <int M, int N, bool A_T, bool B_T>
    using Tile = Fragments<M, N, large(M, N) ? 2 : 1, large(M, N) ? 4 : 2, A_T, B_T>;
    template <int M, int N, int high, int wide>
    using Weights = Fragments<M, N, high / 16, wide / 8, true, false>;
    // 8 modulo 16: no two lanes of Fragments::take read from the same bank.
    static __device__ constexpr int stride(int columns) { return (columns + 7) / 16 * 16 + 8; }
};

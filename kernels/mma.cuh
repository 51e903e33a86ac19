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
template <int HIGH, int WIDE>
struct Fragments {
    typedef real Numbers[HIGH][WIDE][4];
    int row, column, g, t, M, N;

    static __device__ constexpr int count(int M, int N) {
        return parts(M, 16 * HIGH) * parts(N, 8 * WIDE) * WARP;
    }

    __device__ Fragments(int number, int M_, int N_) : M(M_), N(N_) {
        // Else the compiler works out the places of all parts before the first step, and has no
        // registers for them.
        asm volatile("" : "+r"(number));
        const int across = parts(N, 8 * WIDE), warp = number / WARP;
        row = warp / across * 16 * HIGH;
        column = warp % across * 8 * WIDE;
        g = number % WARP / 4;
        t = number % 4;
    }
    __device__ void multiply(Numbers& sum, const real* A, int A_row, int A_q, const real* B,
                             int B_q, int B_column, int count) const {
        if (row >= M) return;
        for (int q = 0; q < count; q += 8) {
            unsigned a[HIGH][4], b[2];
#pragma unroll
            for (int i = 0; i < 2 * HIGH; ++i) {
                const int r = min(row + 8 * i + g, M - 1);
                take(a[i / 2][i % 2], a[i / 2][i % 2 + 2], A + r * A_row, A_q, q, count);
            }
#pragma unroll
            for (int j = 0; j < WIDE; ++j) {
                const int k = min(column + 8 * j + g, N - 1);
                take(b[0], b[1], B + k * B_column, B_q, q, count);
#pragma unroll
                for (int i = 0; i < HIGH; ++i) mma_m16n8k8(sum[i][j], a[i], b);
            }
        }
    }
    // Calls body(row, column, number) for the numbers within the edges.
    template <class Body>
    __device__ void each(Numbers& numbers, Body body) const {
#pragma unroll
        for (int i = 0; i < HIGH; ++i)
#pragma unroll
            for (int j = 0; j < WIDE; ++j)
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    const int r = row + 16 * i + 8 * (c / 2) + g;
                    const int k = column + 8 * j + 2 * t + c % 2;
                    if (r < M && k < N) body(r, k, numbers[i][j][c]);
                }
    }

   private:
    // Lane 4 g + t takes two of from[q * step], ..., from[(q + 7) * step], rounded, with 0 in the
    // place of what is beyond `count`. They are not t and t + 4, as a sum may be in any order, but
    // 2 t and 2 t + 1. Neighbours are read as one. If they are none, lanes read 0, 2, 5, 7 first,
    // which lie in different banks, for rows are 8 modulo 16 numbers long.
    __device__ void take(unsigned& one, unsigned& other, const real* from, int step, int q,
                         int count) const {
        const int first = q + 2 * t + t / 2, second = first ^ 1;
        real x = 0, y = 0;
        if (step == 1) {
            const float2 both = *reinterpret_cast<const float2*>(from + q + 2 * t);
            if (first < count) x = t / 2 ? both.y : both.x;
            if (second < count) y = t / 2 ? both.x : both.y;
        } else {
            if (first < count) x = from[first * step];
            if (second < count) y = from[second * step];
        }
        one = to_tf32(x);
        other = to_tf32(y);
    }
};

template <>
struct Products<true> {
    typedef Fragments<2, 4> LargeWeights, LargeTile;
    typedef Fragments<1, 2> SmallWeights, SmallTile;
    // 8 modulo 16: no two lanes of Fragments::take read from the same bank.
    static __device__ constexpr int stride(int columns) { return (columns + 7) / 16 * 16 + 8; }
};

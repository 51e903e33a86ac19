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
// What is B somewhere lies in panels of as many columns as a block has, each with all rows, so that
// a block reads it in one piece. The width of C is a multiple of V.

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

// A block of C: its sums and a row of B fill the registers. With 4 rows in place of 6, loads take
// as long as multiply-adds.
constexpr int ROWS = 6, VECTORS = REGISTERS / 8, PANEL = VECTORS * V;

typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

INLINE vec load(const real* from) { return *reinterpret_cast<const vec*>(from); }
INLINE void store(real* to, vec v) { *reinterpret_cast<vec*>(to) = v; }
INLINE constexpr int least(int a, int b) { return a < b ? a : b; }

// Rows begin `ld` numbers after each other, panels `panel`; where rows are whole, that is PANEL.
struct Matrix {
    const real* at;
    int ld, panel;
};

struct Factor {  // A(i, p) = at[i row + p column], and on from every PANEL-th p by `panel`
    const real* at;
    int row, column, panel;
};
INLINE Factor by_rows(Matrix m) { return {m.at, m.ld, 1, m.panel}; }
INLINE Factor by_columns(const real* at, int ld) { return {at, 1, ld, PANEL * ld}; }

struct Product {
    Factor A;
    Matrix B;
    int depth;
    Matrix start;
    real* C;
    int ldc, panel;

    // In place: as copies, whose numbers are read again at once, small products took 4% longer.
    void skip_rows(int i) { A.at += i * A.row, start.at += i * start.ld, C += i * ldc; }
    void skip_panel() { B.at += B.panel, start.at += start.panel, C += panel; }

    // What the terms from p on add; p is a multiple of PANEL.
    Product part(int p, int terms) const {
        Product m = *this;
        m.A.at += p / PANEL * A.panel, m.B.at += p * B.ld, m.depth = terms;
        if (p) m.start = {C, ldc, panel};
        return m;
    }
};

// A function of its own, with sizes as numbers: a block takes so long that knowing them gains
// nothing, and one that every layer shares halves the time to compile.
template <int rows, int vectors>
static __attribute__((noinline)) void block(const Product& m) {
    vec sum[rows][vectors];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j) sum[i][j] = load(m.start.at + i * m.start.ld + j * V);
    const real *A = m.A.at, *B = m.B.at;
    const int row = m.A.row, column = m.A.column, ldb = m.B.ld;
    for (int left = m.depth; left > 0; left -= PANEL, A += m.A.panel) {
        const real* a = A;
        for (int p = least(left, PANEL); p; --p, a += column, B += ldb) {
            vec b[vectors];
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j) b[j] = load(B + j * V);
#pragma GCC unroll 8
            for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
                for (int j = 0; j < vectors; ++j) sum[i][j] += a[i * row] * b[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; ++j) store(m.C + i * m.ldc + j * V, sum[i][j]);
}

template <int height, int vectors>
INLINE void each_block_of_rows(Product m, int rows) {
    for (; rows >= height; rows -= height, m.skip_rows(height)) block<height, vectors>(m);
    if constexpr (height > 1) each_block_of_rows<height == ROWS ? 2 : 1, vectors>(m, rows);
}

template <int vectors>
INLINE void each_panel(Product m, int rows, int width) {
    constexpr int columns = vectors * V;
    for (; width >= columns; width -= columns, m.skip_panel())
        each_block_of_rows<ROWS, vectors>(m, rows);
    if constexpr (vectors > 1) each_panel<vectors - 1>(m, rows, width);
}

// What is read again and again stays at hand: a panel of B in the L2 cache (without AVX-512, in the
// L1) while rows of A pass by, those rows in the L2 until all panels have had them.
#if defined(__AVX512F__)
constexpr int MOST_DEPTH = 6 * PANEL, MOST_ROWS = 42 * ROWS;  // 96 kB (48 of doubles), 378 kB
#else
constexpr int PANEL_BYTES = 32 << 10, PASSING_BYTES = 128 << 10;
constexpr int MOST_DEPTH = PANEL_BYTES / (VECTORS * BYTES);
constexpr int MOST_ROWS = PASSING_BYTES / (MOST_DEPTH * int(sizeof(real))) / ROWS * ROWS;
#endif

static void multiply(const Product& whole, int rows, int width) {
    for (int i = 0; i < rows; i += MOST_ROWS)
        for (int p = 0; p < whole.depth; p += MOST_DEPTH) {
            Product m = whole.part(p, least(whole.depth - p, MOST_DEPTH));
            m.skip_rows(i);
            each_panel<VECTORS>(m, least(rows - i, MOST_ROWS), width);
        }
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

// Of which x lies in panels.
template <int size>
INLINE real dot(const real* x, const real* y, int panel = PANEL) {
    constexpr int lanes = size / V * V;
    const auto at = [=](int k) { return x + k / PANEL * panel + k % PANEL; };
    real sum = short_dot<size - lanes>(at(lanes), y + lanes);
    if constexpr (lanes) {
        vec sums = load(x) * load(y);
        for (int k = V; k < lanes; k += V) sums += load(at(k)) * load(y + k);
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

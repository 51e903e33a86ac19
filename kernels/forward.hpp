// A forward pass of a tile of samples. It reads like network.py, whose equations these are:
//
//     z[l] = a[l-1] W[l]^T + b[l]         a[l] = g[l](z[l])          a[0] = x
//
// In front of this file stands what backprop_gpu.compiled writes: L, SIZES (nodes of every layer,
// the input's first), BATCH (the most samples that there are at once), PLAIN; and `Activation<l>`
// with softmax, keeps_z and g(z). PLAIN takes sample by sample, with the parameters where they are.
// All else goes in blocks of samples, with rows padded to whole vectors, and copies of what they
// are multiplied by.

constexpr int INPUTS = SIZES[0], OUTPUTS = SIZES[L];

constexpr int widest() {
    int most = 0;
    for (int size : SIZES) most = size > most ? size : most;
    return most;
}
constexpr int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// So few outputs are not worth a vector.
constexpr bool unpadded(int l) { return PLAIN || (l == L && OUTPUTS <= 4); }

// The columns that are computed; and the numbers from one row to the next of what has whole rows:
// an odd number of vectors, or else rows share a few sets of the L1 cache, and drive each other out.
constexpr int width(int l) { return unpadded(l) ? SIZES[l] : round_up(SIZES[l], V); }
constexpr int stride(int l) {
    return unpadded(l) || width(l) / V % 2 ? width(l) : width(l) + V;
}

// The same of what lies in panels, and the numbers that it takes.
constexpr int panel_width(int l) { return least(width(l), PANEL); }
constexpr int in_panels(int l, int rows) { return rows * round_up(width(l), panel_width(l)); }

// Where a layer's parameters begin.
constexpr int weights_at(int l) {
    return l == 1 ? 0 : weights_at(l - 1) + SIZES[l - 1] * SIZES[l - 2];
}
constexpr int WEIGHTS = weights_at(L + 1);
constexpr int biases_at(int l) { return l == 1 ? WEIGHTS : biases_at(l - 1) + SIZES[l - 1]; }

// Of a tile's rows: these stay in the L3 cache. Large weights, which every tile reads, have larger
// tiles, up to a size where that gains nothing.
constexpr int LEAST_TILE_BYTES = 8 << 20, MOST_TILE_BYTES = 128 << 20;

constexpr int strides(int l) { return l == 0 ? 2 * stride(0) : 3 * stride(l) + strides(l - 1); }
constexpr int tile_rows() {
    if (PLAIN) return 1;
    constexpr int numbers = least(LEAST_TILE_BYTES / int(sizeof(real)) + 4 * WEIGHTS,
                                  MOST_TILE_BYTES / int(sizeof(real)));
    const int fitting = round_up(numbers / strides(L) + 1, ROWS);
    return fitting < BATCH ? fitting : BATCH;
}
constexpr int TILE = tile_rows();

// Of x, a and z of a tile: in panels, but where one row after the other is needed.
template <int l>
constexpr bool whole_rows() {
    if constexpr (l == 0) return false;
    else return l == L || Activation<l>::softmax;
}
template <int l>
struct Layout {
    static constexpr bool whole = whole_rows<l>();
    static constexpr int ld = whole ? stride(l) : panel_width(l);
    static constexpr int panel = whole ? PANEL : PANEL * TILE;
    static constexpr int size = whole ? TILE * stride(l) : in_panels(l, TILE);
};

// Everything that is computed for a tile of samples.
template <int l>
struct Tile : Tile<l - 1> {
    alignas(64) real a[Layout<l>::size];
    alignas(64) real z[Activation<l>::keeps_z ? Layout<l>::size : 1];
};
template <>
struct Tile<0> {
    const real* x;
    alignas(64) real inputs[PLAIN ? 1 : Layout<0>::size];
};

// W^T in panels, and b.
template <int l>
struct Transposed : Transposed<l - 1> {
    alignas(64) real W_T[unpadded(l) ? 1 : in_panels(l, SIZES[l - 1])];
    alignas(64) real b[unpadded(l) ? 1 : width(l)];
};
template <>
struct Transposed<0> {};

// Copies a row to where its first number goes, of panels with so many rows.
INLINE void copy_to_panels(const real* row, int columns, real* to, int rows) {
    for (int j = 0; j < columns; j += PANEL)
        memcpy(to + j * rows, row + j, least(columns - j, PANEL) * sizeof(real));
}

// Copies nodes `from` to `to`: rows of W into W^T in squares; one number at a time, that took a
// quarter of a step of 64 samples.
template <int l>
INLINE void copy_transposed(const real* parameters, Transposed<L>* transposed, int from, int to) {
    constexpr int K = SIZES[l - 1], ld = panel_width(l);
    const real* W = parameters + weights_at(l);
    if constexpr (!unpadded(l)) {
        memcpy(transposed->Transposed<l>::b + from, parameters + biases_at(l) + from,
               (to - from) * sizeof(real));
        for (int n = from; n < to; n += V)
            for (int k = 0; k < K; k += V) {
                real* panel = transposed->Transposed<l>::W_T + n / PANEL * PANEL * K;
                real* W_T = panel + k * ld + n % PANEL;
                if (n + V <= to && k + V <= K) {
                    transpose(W + n * K + k, K, W_T, ld);
                } else {
                    for (int i = n; i < to && i < n + V; ++i)
                        for (int j = k; j < K && j < k + V; ++j)
                            W_T[(j - k) * ld + i - n] = W[i * K + j];
                }
            }
    }
}

template <int l>
INLINE Matrix input_of(const Tile<L>& tile, int first = 0) {
    typedef Layout<l - 1> in;
    const real* a;
    if constexpr (l == 1) a = tile.x;
    else a = tile.Tile<l - 1>::a;
    return {a + first * in::ld, in::ld, in::panel};
}

// Calls body(i, j) for the numbers of a layer: i is where they are in a and z, j in whole rows.
template <int l, int columns, class Body>
INLINE void each_of_panel(int panel, int rows, Body body) {
    typedef Layout<l> in;
    for (int r = 0; r < rows; ++r) {
        INDEPENDENT
        for (int n = 0; n < columns; ++n)
            body(panel * in::panel + r * in::ld + n, r * stride(l) + panel * PANEL + n);
    }
}
template <int l, class Body>
INLINE void each(int rows, Body body) {
    constexpr int panels = width(l) / PANEL, left = width(l) % PANEL;
    for (int panel = 0; panel < panels; ++panel) each_of_panel<l, PANEL>(panel, rows, body);
    if constexpr (left) each_of_panel<l, left>(panels, rows, body);
}

// ---- softmax, of a row --------------------------------------------------------------------------

template <int size>
INLINE real exponentials(const real* z, real top, real* e) {  // and their sum
    real sum = 0;
    for (int j = 0; j < size; ++j) e[j] = entries::exp(z[j] - top);
    for (int j = 0; j < size; ++j) sum += e[j];
    return sum;
}

template <int size>
INLINE real largest(const real* z) {
    real top = z[0];
    for (int j = 1; j < size; ++j) top = entries::fmax(top, z[j]);
    return top;
}

template <int size>
INLINE void softmax(const real* z, real* a) {
    const real sum = exponentials<size>(z, largest<size>(z), a);
    for (int j = 0; j < size; ++j) a[j] /= sum;
}

// ---- the pass -----------------------------------------------------------------------------------

// Of `rows` samples from `first` on.
template <int l>
INLINE void forward(const real* parameters, const Transposed<L>* transposed, Tile<L>& tile,
                    int first, int rows) {
    if constexpr (l > 1) forward<l - 1>(parameters, transposed, tile, first, rows);
    typedef Layout<l> out;
    constexpr int K = SIZES[l - 1], N = SIZES[l];
    const real *W = parameters + weights_at(l), *b = parameters + biases_at(l);
    const Matrix a_before = input_of<l>(tile, first);
    real* a = tile.Tile<l>::a + first * out::ld;
    real* z = Activation<l>::keeps_z ? tile.Tile<l>::z + first * out::ld : a;

    if constexpr (unpadded(l)) {
        for (int r = 0; r < rows; ++r)
            for (int n = 0; n < N; ++n)
                z[r * N + n] =
                    b[n] + dot<K>(a_before.at + r * a_before.ld, W + n * K, a_before.panel);
    } else {
        const Matrix W_T = {transposed->Transposed<l>::W_T, panel_width(l), PANEL * K};
        const Matrix b = {transposed->Transposed<l>::b, 0, PANEL};
        multiply({by_rows(a_before), W_T, K, b, z, out::ld, out::panel}, rows, width(l));
    }
    if constexpr (!Activation<l>::softmax)
        each<l>(rows, [=](int i, int) { a[i] = Activation<l>::g(z[i]); });
    else
        for (int r = 0; r < rows; ++r) softmax<N>(z + r * out::ld, a + r * out::ld);
}

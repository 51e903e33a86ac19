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

// The columns that are computed, and the numbers from one row to the next: an odd number of
// vectors, or else the rows of a panel share a few sets of the L1 cache, and drive each other out.
constexpr int width(int l) { return unpadded(l) ? SIZES[l] : round_up(SIZES[l], V); }
constexpr int stride(int l) {
    return unpadded(l) || width(l) / V % 2 ? width(l) : width(l) + V;
}

// Where a layer's parameters begin.
constexpr int weights_at(int l) {
    return l == 1 ? 0 : weights_at(l - 1) + SIZES[l - 1] * SIZES[l - 2];
}
constexpr int WEIGHTS = weights_at(L + 1);
constexpr int biases_at(int l) { return l == 1 ? WEIGHTS : biases_at(l - 1) + SIZES[l - 1]; }

// Of a tile's rows: these stay in the L3 cache. Large weights, which every tile reads, have larger
// tiles.
constexpr int LEAST_TILE_BYTES = 8 << 20;

constexpr int strides(int l) { return l == 0 ? 2 * stride(0) : 3 * stride(l) + strides(l - 1); }
constexpr int tile_rows() {
    if (PLAIN) return 1;
    constexpr int numbers = LEAST_TILE_BYTES / int(sizeof(real)) + 4 * WEIGHTS;
    const int fitting = round_up(numbers / strides(L) + 1, ROWS);
    return fitting < BATCH ? fitting : BATCH;
}
constexpr int TILE = tile_rows();

// Everything that is computed for a tile of samples.
template <int l>
struct Tile : Tile<l - 1> {
    alignas(64) real a[TILE * stride(l)];
    alignas(64) real z[Activation<l>::keeps_z ? TILE * stride(l) : 1];
};
template <>
struct Tile<0> {
    const real* x;
    alignas(64) real inputs[PLAIN ? 1 : TILE * stride(0)];
};

// W^T with padded rows, and b.
template <int l>
struct Transposed : Transposed<l - 1> {
    alignas(64) real W_T[unpadded(l) ? 1 : SIZES[l - 1] * stride(l)];
    alignas(64) real b[unpadded(l) ? 1 : stride(l)];
};
template <>
struct Transposed<0> {};

// Copies nodes `from` to `to`: rows of W into W^T in squares; one number at a time, that took a
// quarter of a step of 64 samples.
template <int l>
INLINE void copy_transposed(const real* parameters, Transposed<L>* transposed, int from, int to) {
    constexpr int K = SIZES[l - 1], ld = stride(l);
    const real* W = parameters + weights_at(l);
    if constexpr (!unpadded(l)) {
        memcpy(transposed->Transposed<l>::b + from, parameters + biases_at(l) + from,
               (to - from) * sizeof(real));
        for (int n = from; n < to; n += V)
            for (int k = 0; k < K; k += V) {
                real* W_T = transposed->Transposed<l>::W_T + k * ld + n;
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
INLINE const real* input_of(const Tile<L>& tile) {
    if constexpr (l == 1) return tile.x;
    else return tile.Tile<l - 1>::a;
}

// Calls body(i) for every number of a layer: in one long loop where rows have no gaps.
template <int l, class Body>
INLINE void each(int rows, Body body) {
    constexpr bool gapless = stride(l) == width(l);
    const int outer = gapless ? 1 : rows, inner = gapless ? rows * width(l) : width(l);
    for (int r = 0; r < outer; ++r)
        for (int n = 0; n < inner; ++n) body(r * stride(l) + n);
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
    constexpr int K = SIZES[l - 1], N = SIZES[l];
    const real *W = parameters + weights_at(l), *b = parameters + biases_at(l);
    const real* a_before = input_of<l>(tile) + first * stride(l - 1);
    real* a = tile.Tile<l>::a + first * stride(l);
    real* z = Activation<l>::keeps_z ? tile.Tile<l>::z + first * stride(l) : a;

    if constexpr (unpadded(l)) {
        for (int r = 0; r < rows; ++r)
            for (int n = 0; n < N; ++n)
                z[r * N + n] = b[n] + dot<K>(a_before + r * stride(l - 1), W + n * K);
    } else {
        multiply({a_before, {stride(l - 1), 1}, transposed->Transposed<l>::W_T, stride(l), K,
                  transposed->Transposed<l>::b, 0, z, stride(l)},
                 rows, width(l));
    }
    if constexpr (!Activation<l>::softmax)
        each<l>(rows, [=](int i) { a[i] = Activation<l>::g(z[i]); });
    else
        for (int r = 0; r < rows; ++r) softmax<N>(z + r * stride(l), a + r * stride(l));
}

// A forward and a backward pass of a tile of samples. It reads like network.py, whose equations
// these are:
//
//     forward         z[l] = a[l-1] W[l]^T + b[l]         a[l] = g[l](z[l])          a[0] = x
//     backward   1.   dC/da[L]                            from the loss
//                2.   delta[l] = dC/dz[l] = dC/da[l] * g'[l](z[l])
//                3.   dC/dW[l] = delta[l]^T a[l-1]        dC/db[l] = sum of delta[l] over samples
//                4.   dC/da[l-1] = delta[l] W[l]
//
// In front of this file stands what backprop_gpu.compiled writes: L, SIZES (nodes of every layer,
// the input's first), BATCH, BLOCK_BATCH; `Activation<l>` with softmax, keeps_z, g(z) and
// g_prime(z, a); `Loss` with canonical, of_rows, term(z, a, y, m) and slope(z, a, y, m).

constexpr int INPUTS = SIZES[0], OUTPUTS = SIZES[L];

constexpr int widest() {
    int most = 0;
    for (int size : SIZES) most = size > most ? size : most;
    return most;
}
constexpr int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// Few samples, or tiny layers: sample by sample, with the parameters where they are. All else goes
// in blocks of samples, with rows padded to whole vectors, and copies of W and W^T.
constexpr bool PLAIN = BATCH < BLOCK_BATCH || widest() <= 8;

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

// Of a tile's rows, so that they stay in the L2 cache beside W, W^T and dC/dW.
constexpr int TILE_BYTES = 384 << 10;

constexpr int strides(int l) { return l == 0 ? 2 * stride(0) : 3 * stride(l) + strides(l - 1); }
constexpr int tile_rows() {
    if (PLAIN) return 1;
    const int fitting = TILE_BYTES / int(sizeof(real)) / strides(L) / ROWS * ROWS;
    const int most = round_up(BATCH, ROWS);
    return fitting < ROWS ? ROWS : fitting < most ? fitting : most;
}
constexpr int TILE = tile_rows();

// Everything that is computed for a tile of samples, and the gradient of the tiles so far.
template <int l>
struct Tile : Tile<l - 1> {
    alignas(64) real a[TILE * stride(l)];
    alignas(64) real z[Activation<l>::keeps_z ? TILE * stride(l) : 1];
    alignas(64) real delta[TILE * stride(l)];  // dC/da at first
    alignas(64) real dC_dW[round_up(SIZES[l], unpadded(l) ? 1 : ROWS) * stride(l - 1)];
    alignas(64) real dC_db[stride(l)];
};
template <>
struct Tile<0> {
    const real *x, *y;
    alignas(64) real inputs[PLAIN ? 1 : TILE * stride(0)];
    alignas(64) real targets[PLAIN ? 1 : TILE * stride(L)];
    alignas(64) real terms[TILE * stride(L)];
    alignas(64) real zeros[PLAIN ? 1 : round_up(widest(), V)];
};

// W and W^T with padded rows.
template <int l>
struct Copies : Copies<l - 1> {
    alignas(64) real W[PLAIN || l == 1 ? 1 : SIZES[l] * stride(l - 1)];
    alignas(64) real W_T[unpadded(l) ? 1 : SIZES[l - 1] * stride(l)];
};
template <>
struct Copies<0> {};

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

// delta_j = a_j (dC/da_j - sum_k a_k dC/da_k)
template <int size>
INLINE void softmax_delta(real* delta, const real* a) {
    const real mean = dot<size>(a, delta);
    for (int j = 0; j < size; ++j) delta[j] = a[j] * (delta[j] - mean);
}

// sum_j y_j (log sum_k e^(z_k) - z_j), its terms
template <int size>
INLINE void softmax_cross_entropy(const real* z, const real* y, real* terms) {
    const real top = largest<size>(z);
    const real log_sum = entries::log(exponentials<size>(z, top, terms));
    for (int j = 0; j < size; ++j) terms[j] = y[j] > 0 ? y[j] * (log_sum - (z[j] - top)) : real(0);
}

// ---- the passes ---------------------------------------------------------------------------------

template <int l>
INLINE void forward(const real* parameters, const Copies<L>* copies, Tile<L>& tile, int rows) {
    if constexpr (l > 1) forward<l - 1>(parameters, copies, tile, rows);
    constexpr int K = SIZES[l - 1], N = SIZES[l];
    const real *W = parameters + weights_at(l), *b = parameters + biases_at(l);
    const real* a_before = input_of<l>(tile);
    real* a = tile.Tile<l>::a;
    real* z = Activation<l>::keeps_z ? tile.Tile<l>::z : a;

    if constexpr (unpadded(l)) {
        for (int r = 0; r < rows; ++r)
            for (int n = 0; n < N; ++n)
                z[r * N + n] = b[n] + dot<K>(a_before + r * stride(l - 1), W + n * K);
    } else {
        alignas(64) real start[width(l)] = {};
        memcpy(start, b, N * sizeof(real));
        product<ROWS, VECTORS>(rows, width(l), a_before, {stride(l - 1), 1},
                               copies->Copies<l>::W_T, stride(l), K, start, 0, z, stride(l));
    }
    if constexpr (!Activation<l>::softmax)
        each<l>(rows, [=](int i) { a[i] = Activation<l>::g(z[i]); });
    else
        for (int r = 0; r < rows; ++r) softmax<N>(z + r * stride(l), a + r * stride(l));
}

// Equations 1 and 2 for the last layer, times `share`, 1/n: C is an average. Returns sum_i C_i.
INLINE double output(Tile<L>& tile, int rows, real share) {
    typedef Activation<L> g;
    const real *a = tile.Tile<L>::a, *z = g::keeps_z ? tile.Tile<L>::z : a, *y = tile.y;
    real *delta = tile.Tile<L>::delta, *terms = tile.terms;

    each<L>(rows, [=](int i) {
        if constexpr (!Loss::of_rows) terms[i] = Loss::term(z[i], a[i], y[i], OUTPUTS);
        delta[i] = Loss::slope(z[i], a[i], y[i], OUTPUTS) * share;
    });
    for (int r = 0, i = 0; r < rows; ++r, i += stride(L)) {
        if constexpr (Loss::of_rows) softmax_cross_entropy<OUTPUTS>(z + i, y + i, terms + i);
        if constexpr (g::softmax && !Loss::canonical) softmax_delta<OUTPUTS>(delta + i, a + i);
    }
    double sum = 0;
    for (int r = 0; r < rows; ++r) {
        real C_i = 0;
        for (int n = 0; n < OUTPUTS; ++n) C_i += terms[r * stride(L) + n];
        sum += C_i;
    }
    return sum;
}

// Equations 2 to 4 from layer l down. The gradient of the first tile takes the place of what was.
template <int l>
INLINE void backward(const real* parameters, const Copies<L>* copies, Tile<L>& tile, int rows,
                     bool first) {
    typedef Activation<l> g;
    constexpr int K = SIZES[l - 1], N = SIZES[l], ld = stride(l), ld_before = stride(l - 1);
    const real *a_before = input_of<l>(tile), *a = tile.Tile<l>::a;
    const real* z = g::keeps_z ? tile.Tile<l>::z : a;
    real *delta = tile.Tile<l>::delta, *dC_dW = tile.Tile<l>::dC_dW, *dC_db = tile.Tile<l>::dC_db;

    if constexpr (l < L && !g::softmax)
        each<l>(rows, [=](int i) { delta[i] *= g::g_prime(z[i], a[i]); });  // 2
    if constexpr (l < L && g::softmax)
        for (int r = 0; r < rows; ++r) softmax_delta<N>(delta + r * ld, a + r * ld);

    for (int n = 0; n < N; ++n) dC_db[n] = first ? delta[n] : dC_db[n] + delta[n];  // 3
    for (int r = 1; r < rows; ++r)
        for (int n = 0; n < N; ++n) dC_db[n] += delta[r * ld + n];
    if constexpr (PLAIN) {
        for (int n = 0; n < N; ++n)
            for (int k = 0; k < K; ++k)
                dC_dW[n * K + k] = (first ? 0 : dC_dW[n * K + k]) + delta[n] * a_before[k];
    } else {
        product<unpadded(l) ? N : ROWS, VECTORS>(
            N, width(l - 1), delta, {1, ld}, a_before, ld_before, rows, first ? tile.zeros : dC_dW,
            first ? 0 : ld_before, dC_dW, ld_before);
    }

    if constexpr (l > 1) {
        real* dC_da = tile.Tile<l - 1>::delta;  // 4
        if constexpr (PLAIN) {
            const real* W = parameters + weights_at(l);
            for (int k = 0; k < K; ++k) dC_da[k] = delta[0] * W[k];
            for (int n = 1; n < N; ++n)
                for (int k = 0; k < K; ++k) dC_da[k] += delta[n] * W[n * K + k];
        } else {
            product<ROWS, VECTORS>(rows, width(l - 1), delta, {ld, 1}, copies->Copies<l>::W,
                                   ld_before, N, tile.zeros, 0, dC_da, ld_before);
        }
        backward<l - 1>(parameters, copies, tile, rows, first);
    }
}

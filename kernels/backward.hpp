// The way back from a tile's output, after forward.hpp:
//
//     1.   dC/da[L]                            from the loss
//     2.   delta[l] = dC/dz[l] = dC/da[l] * g'[l](z[l])
//     3.   dC/dW[l] = delta[l]^T a[l-1]        dC/db[l] = sum of delta[l] over samples
//     4.   dC/da[l-1] = delta[l] W[l]
//
// backprop_gpu.compiled writes `Activation<l>::g_prime(z, a)`, and `Loss` with canonical, of_rows,
// term(z, a, y, m) and slope(z, a, y, m). WEIGHTED says whether samples count differently.

constexpr int first_node(int l) { return biases_at(l) - WEIGHTS; }
constexpr int NODES = first_node(L + 1);

// What it leaves, and the gradient of the tiles so far.
template <int l>
struct Gradient : Gradient<l - 1> {
    alignas(64) real delta[TILE * stride(l)];  // dC/da at first
    alignas(64) real dC_dW[SIZES[l] * stride(l - 1)];
    alignas(64) real dC_db[stride(l)];
};
template <>
struct Gradient<0> {
    const real* y;
    alignas(64) real targets[PLAIN ? 1 : TILE * stride(L)];
    alignas(64) real terms[TILE * stride(L)];
    real weights[WEIGHTED ? TILE : 1];
    double C[TILE];  // of each sample
    double squares[PENALIZES ? NODES : 1], norms[CLIPS ? NODES : 1];  // of each node; see train.cpp
    alignas(64) real zeros[PLAIN ? 1 : round_up(widest(), V)];
};
struct Passes : Tile<L>, Gradient<L> {};

// W in panels.
template <int l>
struct InPanels : InPanels<l - 1> {
    alignas(64) real W[PLAIN || l == 1 ? 1 : in_panels(l - 1, SIZES[l])];
};
template <>
struct InPanels<0> {};
struct Copies : Transposed<L>, InPanels<L> {};

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

// Equations 1 and 2 for the last layer, times `share`, 1/n: C is an average. Where samples count
// differently, n is the sum of their weights.
INLINE void output(Passes& tile, int first, int rows, real share) {
    typedef Activation<L> g;
    const int at = first * stride(L);
    const real *a = tile.Tile<L>::a + at, *y = tile.y + at;
    const real *z = g::keeps_z ? tile.Tile<L>::z + at : a, *weights = tile.weights + first;
    real *delta = tile.Gradient<L>::delta + at, *terms = tile.terms + at;

    each<L>(rows, [=](int i, int) {
        if constexpr (!Loss::of_rows) terms[i] = Loss::term(z[i], a[i], y[i], OUTPUTS);
        delta[i] = Loss::slope(z[i], a[i], y[i], OUTPUTS) * share;
    });
    for (int r = 0, i = 0; r < rows; ++r, i += stride(L)) {
        if constexpr (Loss::of_rows) softmax_cross_entropy<OUTPUTS>(z + i, y + i, terms + i);
        if constexpr (g::softmax && !Loss::canonical) softmax_delta<OUTPUTS>(delta + i, a + i);
    }
    for (int r = 0; r < rows; ++r) {
        real C_i = 0;
        for (int n = 0; n < OUTPUTS; ++n) C_i += terms[r * stride(L) + n];
        if constexpr (WEIGHTED) {
            C_i *= weights[r];
            for (int n = 0; n < OUTPUTS; ++n) delta[r * stride(L) + n] *= weights[r];
        }
        tile.C[first + r] = C_i;
    }
}

// Equations 2 and 4 from layer l down.
template <int l>
INLINE void backward(const real* parameters, const Copies* copies, Passes& tile, int first,
                     int rows) {
    typedef Activation<l> g;
    typedef Layout<l> out;
    constexpr int K = SIZES[l - 1], N = SIZES[l], ld = stride(l), ld_before = stride(l - 1);
    const real* a = tile.Tile<l>::a + first * out::ld;
    const real* z = g::keeps_z ? tile.Tile<l>::z + first * out::ld : a;
    real* delta = tile.Gradient<l>::delta + first * ld;

    if constexpr (l < L && !g::softmax)
        each<l>(rows, [=](int i, int j) { delta[j] *= g::g_prime(z[i], a[i]); });  // 2
    if constexpr (l < L && g::softmax)
        for (int r = 0; r < rows; ++r) softmax_delta<N>(delta + r * ld, a + r * ld);

    if constexpr (l > 1) {
        real* dC_da = tile.Gradient<l - 1>::delta + first * ld_before;  // 4
        if constexpr (PLAIN) {
            const real* W = parameters + weights_at(l);
            for (int k = 0; k < K; ++k) dC_da[k] = delta[0] * W[k];
            for (int n = 1; n < N; ++n)
                for (int k = 0; k < K; ++k) dC_da[k] += delta[n] * W[n * K + k];
        } else {
            const Matrix W = {copies->InPanels<l>::W, panel_width(l - 1), PANEL * N};
            multiply({by_rows({delta, ld, PANEL}), W, N, {tile.zeros, 0, PANEL}, dC_da, ld_before,
                      PANEL},
                     rows, width(l - 1));
        }
        backward<l - 1>(parameters, copies, tile, first, rows);
    }
}

// Equation 3 for nodes `from` to `to` of layer l. A batch's first tile takes the place of what was,
// the others add to it.
template <int l>
INLINE void gradient(Passes& tile, int rows, bool first, int from, int to, real* dC_dW) {
    constexpr int K = SIZES[l - 1], ld = stride(l), ld_before = stride(l - 1);
    const Matrix a_before = input_of<l>(tile);
    const real* delta = tile.Gradient<l>::delta;
    real* dC_db = tile.Gradient<l>::dC_db;

    for (int n = from; n < to; ++n) dC_db[n] = first ? delta[n] : dC_db[n] + delta[n];
    for (int r = 1; r < rows; ++r)
        for (int n = from; n < to; ++n) dC_db[n] += delta[r * ld + n];
    if constexpr (PLAIN) {
        for (int n = from; n < to; ++n, dC_dW += K)
            for (int k = 0; k < K; ++k)
                dC_dW[k] = (first ? 0 : dC_dW[k]) + delta[n] * a_before.at[k];
    } else {
        const Matrix start = {first ? tile.zeros : dC_dW, first ? 0 : ld_before, PANEL};
        multiply({by_columns(delta + from, ld), a_before, rows, start, dC_dW, ld_before, PANEL},
                 to - from, width(l - 1));
    }
}

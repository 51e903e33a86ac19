// Predictions on the CPU, tile after tile of samples; forward.hpp has the equations.
//
// Threads take a fixed part of the samples each. Nothing is added up across samples, so the number
// of threads changes no bit.

struct Part {  // of the samples
    const real* parameters;
    const Transposed<L>* transposed;
    const real* x;
    real* prediction;
    int64_t n;
    bool finite;  // all of x
    bool there;   // the memory
    Thread thread;
};

INLINE bool all_finite(const real* x, int64_t count) {
    bits others = 0;
    for (int64_t i = 0; i < count; ++i) others |= !(entries::fabs(x[i]) < INFINITE);
    return !others;
}

static void work(Part& part, Tile<L>& tile) {
    tile.x = tile.inputs;
    for (int64_t i = 0; i < part.n; i += TILE) {
        const int rows = part.n - i < TILE ? part.n - i : TILE;
        const real* x = part.x + i * INPUTS;
        part.finite = all_finite(x, rows * INPUTS);
        if (!part.finite) return;
        for (int r = 0; r < rows; ++r)
            copy_to_panels(x + r * INPUTS, INPUTS, tile.inputs + r * panel_width(0), TILE);
        forward<L>(part.parameters, part.transposed, tile, 0, rows);
        for (int r = 0; r < rows; ++r)
            memcpy(part.prediction + (i + r) * OUTPUTS, tile.Tile<L>::a + r * stride(L),
                   OUTPUTS * sizeof(real));
    }
}

static void* start(void* argument) {
    Part& part = *static_cast<Part*>(argument);
    void* tile = nullptr;
    part.there = !posix_memalign(&tile, 64, sizeof(Tile<L>));
    if (part.there) work(part, *static_cast<Tile<L>*>(tile));
    free(tile);
    return nullptr;
}

template <int l>
INLINE void transpose_all(const real* parameters, Transposed<L>* transposed) {
    copy_transposed<l>(parameters, transposed, 0, SIZES[l]);
    if constexpr (l > 1) transpose_all<l - 1>(parameters, transposed);
}

extern "C" int64_t transposed_size() { return sizeof(Transposed<L>); }

// `transposed` holds zeros, and begins where a cache line does.
extern "C" void freeze(const real* parameters, Transposed<L>* transposed) {
    transpose_all<L>(parameters, transposed);
}

// Returns 1; 0: x has entries that are not finite; -1: there is no memory.
extern "C" int predict(const real* parameters, const Transposed<L>* transposed, const real* x,
                       real* prediction, int64_t n, int threads) {
    Part parts[MOST_THREADS];
    threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    for (int t = 0; t < threads; ++t) {
        const int64_t from = n * t / threads, to = n * (t + 1) / threads;
        parts[t] = {parameters, transposed, x + from * INPUTS, prediction + from * OUTPUTS,
                    to - from, true, true, {}};
    }
    int started = 1;
    while (started < threads && parts[started].thread.start(start, &parts[started])) ++started;
    start(&parts[0]);
    for (int t = started; t < threads; ++t) start(&parts[t]);  // the system gave no thread
    for (int t = 1; t < started; ++t) parts[t].thread.join();
    bool finite = true, there = true;
    for (int t = 0; t < threads; ++t) finite &= parts[t].finite, there &= parts[t].there;
    return !there ? -1 : finite;
}

// Training on the CPU in one call: batches, passes, updates, again and again; forward.hpp and
// backward.hpp have the equations. `update_one(p, g, s0, s1, learning_rate, decay, c0, c1)` is the
// optimizer's, SLOTS the number of its states, PENALIZES says whether the losses have the penalty
// of the weights in them, and CLIPS whether gradients are clipped.
//
// Threads share a tile's samples on the way forward and back, and then the nodes, each of which has
// its gradient from all samples and its update from one thread. Losses are summed sample by sample,
// and squares node by node: the number of threads changes no bit.

struct Numbers {  // of a step
    double learning_rate, weight_decay, c0, c1;
};

// An order that was drawn, with room for sorting. It is kept from call to call, for an epoch may
// take many.
struct Drawn {
    uint64_t seed;
    int64_t n, epochs;  // counted with this one; 0: there is none yet
    int64_t* order() { return reinterpret_cast<int64_t*>(this + 1); }
    uint64_t* keys() { return reinterpret_cast<uint64_t*>(order() + n); }
    int64_t* ends() { return order() + 2 * n; }  // of n + 2 buckets at most
};
constexpr int64_t drawn_size(int64_t n) { return sizeof(Drawn) + (4 * n + 2) * sizeof(int64_t); }

// All that one call is about; its threads share it.
struct Run {
    real *parameters, *s0, *s1;
    const real *x, *y;  // the last column of y are weights, if samples have some
    int64_t n, first_step, steps;
    const Numbers* numbers;
    real* losses;
    const uint64_t* seed;          // of orders that are drawn here; or null
    const int64_t* const* orders;  // of the call's epochs, which are given; or null
    double clip_norm, clip_value;  // infinite: not clipped
    int threads;

    Passes* tile;
    Copies* copies;
    const int64_t* order;  // of the samples in this epoch; null: as they come
    Drawn* drawn;
    int waiting, rounds;  // of the barrier
    int64_t done;
};

INLINE int threads_of(const Run& run) { return PLAIN ? 1 : run.threads; }
INLINE int64_t batches_of(const Run& run) { return (run.n + BATCH - 1) / BATCH; }

// ---- the order of the samples -------------------------------------------------------------------

constexpr uint64_t STEP = 0x9E3779B97F4A7C15;

INLINE uint64_t mixed(uint64_t key) {
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9;
    key = (key ^ key >> 27) * 0x94D049BB133111EB;
    return key ^ key >> 31;
}

// As shuffle.py: by their mixed keys. Those are evenly spread, so their leading bits put each
// within a few places of where it belongs: 8 times faster than a sort that compares. Not inlined:
// that made the textbook's steps 2% slower.
static __attribute__((noinline)) void shuffle(Drawn& drawn, uint64_t seed, int64_t n,
                                              int64_t epoch) {
    if (drawn.epochs == epoch + 1 && drawn.seed == seed && drawn.n == n) return;
    drawn = {seed, n, epoch + 1};
    const uint64_t start = mixed(mixed(seed) ^ STEP ^ uint64_t(epoch)) ^ STEP;
    int shift = 63;
    while (shift > 1 && int64_t(1) << (64 - shift) < n) --shift;
    const int64_t buckets = int64_t(1) << (64 - shift);
    uint64_t* keys = drawn.keys();
    int64_t *order = drawn.order(), *ends = drawn.ends();
    memset(ends, 0, (buckets + 1) * sizeof *ends);
    for (int64_t i = 0; i < n; ++i) ++ends[(mixed(i * STEP + start) >> shift) + 1];
    for (int64_t b = 0; b < buckets; ++b) ends[b + 1] += ends[b];
    for (int64_t i = 0; i < n; ++i) {
        const uint64_t key = mixed(i * STEP + start);
        const int64_t place = ends[key >> shift]++;
        keys[place] = key, order[place] = i;
    }
    for (int64_t i = 1; i < n; ++i) {
        const uint64_t key = keys[i];
        const int64_t sample = order[i];
        int64_t j = i;
        for (; j > 0 && keys[j - 1] > key; --j) keys[j] = keys[j - 1], order[j] = order[j - 1];
        keys[j] = key, order[j] = sample;
    }
}

static void begin(Run& run, int64_t epoch) {
    if (run.orders) run.order = run.orders[epoch - run.first_step / batches_of(run)];
    if (run.seed) shuffle(*run.drawn, *run.seed, run.n, epoch), run.order = run.drawn->order();
}

// ---- the update ---------------------------------------------------------------------------------

// Whether gradients are applied as they are computed, and never leave the cache: where a batch is
// one tile, nothing is clipped, and they would not all stay there anyway.
constexpr bool AT_ONCE = BATCH <= TILE && !CLIPS && WEIGHTS * sizeof(real) > 1 << 18;
constexpr int AT_A_TIME = PLAIN ? widest() : 48;  // nodes: whole blocks and vectors

struct Nodes {
    int from, to;
};

// Which nodes of layer l are thread t's.
template <int l>
INLINE Nodes nodes_of(const Run& run, int t) {
    const int parts = threads_of(run);
    return {border(SIZES[l], t, parts, V), border(SIZES[l], t + 1, parts, V)};
}

// Limits numbers of the gradient; returns the sum of their squares over clip_norm's.
INLINE double limit(const Run& run, real* g, int count) {
    const real most = run.clip_value;
    double sum = 0;
    for (int k = 0; k < count; ++k) {
        g[k] = g[k] > most ? most : g[k] < -most ? -most : g[k];
        const double relative = g[k] / run.clip_norm;
        sum += relative * relative;
    }
    return sum;
}

// Applies rows of the gradient, times `scale`, to the parameters from `at` on.
INLINE void apply(const Run& run, const real* gradient, int rows, int columns, int ld, real scale,
                  int64_t at, const Numbers& numbers, real decay) {
    const real learning_rate = numbers.learning_rate, c0 = numbers.c0, c1 = numbers.c1;
    for (int r = 0; r < rows; ++r) {
        const real* g = gradient + r * ld;
        real none = 0;
        for (int k = 0; k < columns; ++k) {
            const int64_t i = at + r * columns + k;
            update_one(run.parameters[i], CLIPS ? g[k] * scale : g[k], SLOTS > 0 ? run.s0[i] : none,
                       SLOTS > 1 ? run.s1[i] : none, learning_rate, decay, c0, c1);
        }
    }
}

// Copies rows `from` to `to` of W.
template <int l>
INLINE void copy_weights(const Run& run, int from, int to) {
    constexpr int K = SIZES[l - 1];
    const real* W = run.parameters + weights_at(l);
    if constexpr (!PLAIN && l > 1)
        for (int n = from; n < to; ++n)
            copy_to_panels(W + n * K, K, run.copies->InPanels<l>::W + n * panel_width(l - 1),
                           SIZES[l]);
    copy_transposed<l>(run.parameters, run.copies, from, to);
}

// Squares every row of W. A function of its own: however its callers are compiled, the bits are the
// same.
template <int l>
static __attribute__((noinline)) void square(const real* parameters, double* squares, int from,
                                             int to) {
    constexpr int K = SIZES[l - 1];
    const real* W = parameters + weights_at(l);
    for (int n = from; n < to; ++n) squares[n] = dot<K>(W + n * K, W + n * K);
}

// What a tile adds to the gradient of thread t's nodes in every layer.
template <int l>
INLINE void gradients(const Run& run, Passes& tile, int t, int rows, bool first) {
    const auto [from, to] = nodes_of<l>(run, t);
    gradient<l>(tile, rows, first, from, to, tile.Gradient<l>::dC_dW + from * stride(l - 1));
    if constexpr (l < L) gradients<l + 1>(run, tile, t, rows, first);
}

// Limits it, and squares it over clip_norm.
template <int l>
INLINE void limits(const Run& run, Passes& tile, int t) {
    constexpr int K = SIZES[l - 1], ld = stride(l - 1);
    const auto [from, to] = nodes_of<l>(run, t);
    for (int n = from; n < to; ++n)
        tile.norms[first_node(l) + n] = limit(run, tile.Gradient<l>::dC_dW + n * ld, K) +
                                        limit(run, tile.Gradient<l>::dC_db + n, 1);
    if constexpr (l < L) limits<l + 1>(run, tile, t);
}

// Thread t's nodes in every layer, some at a time, for what they need to stay in the cache; where
// there are no numbers, only what is known of the weights.
template <int l>
INLINE void update(const Run& run, Passes& tile, int t, int rows, const Numbers* numbers,
                   real scale) {
    constexpr int K = SIZES[l - 1], ld = stride(l - 1);
    const auto [from, to] = nodes_of<l>(run, t);
    for (int n = from; n < to; n += AT_A_TIME) {
        const int end = least(n + AT_A_TIME, to);
        real* dC_dW = tile.Gradient<l>::dC_dW + (AT_ONCE ? from : n) * ld;
        if (numbers) {
            if (AT_ONCE) gradient<l>(tile, rows, true, n, end, dC_dW);
            apply(run, dC_dW, end - n, K, ld, scale, weights_at(l) + n * K, *numbers,
                  numbers->weight_decay);
            apply(run, tile.Gradient<l>::dC_db + n, 1, end - n, 0, scale, biases_at(l) + n,
                  *numbers, 0);
        }
        copy_weights<l>(run, n, end);
    }
    if (PENALIZES) square<l>(run.parameters, tile.squares + first_node(l), from, to);
    if constexpr (l < L) update<l + 1>(run, tile, t, rows, numbers, scale);
}

// ---- the steps ----------------------------------------------------------------------------------

// Waits until every thread is here: spinning, for it takes less than a call to the system, and
// giving way where another program has the core.
static void meet(Run& run) {
    if (threads_of(run) == 1) return;
    const int round = __atomic_load_n(&run.rounds, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&run.waiting, 1, __ATOMIC_ACQ_REL) == run.threads) {
        __atomic_store_n(&run.waiting, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&run.rounds, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int spins = 0; __atomic_load_n(&run.rounds, __ATOMIC_ACQUIRE) == round; ++spins)
        if (spins > 2000) sched_yield();
}

constexpr int TARGETS = OUTPUTS + WEIGHTED;  // columns of y

INLINE int64_t sample(const Run& run, int64_t place) {
    return run.order ? run.order[place] : place;
}

// Brings samples to where a tile has them.
INLINE void gather(const Run& run, Passes& tile, int64_t start, int from, int to) {
    for (int r = from; r < to; ++r) {
        const int64_t i = sample(run, start + r);
        const real *x = run.x + i * INPUTS, *y = run.y + i * TARGETS;
        if constexpr (WEIGHTED) tile.weights[r] = y[OUTPUTS];
        if constexpr (PLAIN) {
            tile.x = x, tile.y = y;
        } else {
            copy_to_panels(x, INPUTS, tile.inputs + r * panel_width(0), TILE);
            memcpy(tile.targets + r * stride(L), y, OUTPUTS * sizeof(real));
        }
    }
}

// How much a batch counts.
INLINE double weight_of(const Run& run, int64_t first, int64_t count) {
    if constexpr (!WEIGHTED) return count;
    double sum = 0;
    for (int64_t i = first; i < first + count; ++i)
        sum += run.y[sample(run, i) * TARGETS + OUTPUTS];
    return sum;
}

// A tile's samples `from` to `to`, forward and back. It begins with the epoch's sample `start`.
INLINE void pass(const Run& run, Passes& tile, int64_t start, int from, int to, real share) {
    if (from == to) return;
    gather(run, tile, start, from, to);
    forward<L>(run.parameters, run.copies, tile, from, to - from);
    output(tile, from, to - from, share);
    backward<L>(run.parameters, run.copies, tile, from, to - from);
}

INLINE double added(double sum, const double* more, int count) {
    for (int i = 0; i < count; ++i) sum += more[i];
    return sum;
}

static void work(Run& run, Passes& tile, int t) {
    const NoDenormals mode;
    const int threads = threads_of(run);
    if (!PLAIN && t == 0) tile.x = tile.inputs, tile.y = tile.targets;
    const int64_t batches = batches_of(run);
    int64_t epoch = run.first_step / batches, batch = run.first_step % batches;
    update<1>(run, tile, t, 0, nullptr, 1);
    if (t == 0) begin(run, epoch);
    meet(run);
    for (int64_t step = 0; step < run.steps; ++step) {
        const int64_t start = batch * BATCH, left = run.n - start;
        const int64_t count = left < BATCH ? left : BATCH;
        const double weight = weight_of(run, start, count);
        const double squares = PENALIZES ? added(0, tile.squares, NODES) : 0;
        double sum = 0;
        for (int64_t i = 0; i < count; i += TILE) {
            const int rows = count - i < TILE ? count - i : TILE;
            if (i) meet(run);
            pass(run, tile, start + i, border(rows, t, threads, ROWS),
                 border(rows, t + 1, threads, ROWS), 1 / weight);
            meet(run);
            sum = added(sum, tile.C, rows);
            if (!AT_ONCE) gradients<1>(run, tile, t, rows, i == 0);
        }
        double loss = sum / weight;
        if (PENALIZES) loss += run.numbers[step].weight_decay / 2 * squares;
        const real C = loss;
        if (t == 0) run.losses[step] = C, run.done = step + 1;
        if (!(entries::fabs(C) < INFINITE)) return;
        real scale = 1;
        if (CLIPS) {
            limits<1>(run, tile, t);
            meet(run);
            const double square = added(0, tile.norms, NODES);
            if (!(square <= 1)) scale = 1 / __builtin_sqrt(square);
        }
        update<1>(run, tile, t, int(count), run.numbers + step, scale);
        if (++batch == batches) {
            batch = 0, ++epoch;
            if (t == 0 && step + 1 < run.steps) begin(run, epoch);
        }
        meet(run);
    }
}

struct Worker {
    Run* run;
    int t;
    Thread thread;
};

static void* start(void* argument) {
    const Worker& worker = *static_cast<Worker*>(argument);
    Run& run = *worker.run;
    while (!__atomic_load_n(&run.threads, __ATOMIC_ACQUIRE)) sched_yield();
    work(run, *run.tile, worker.t);
    return nullptr;
}

// A system that gives fewer threads has the work done by those.
static void work_together(Run& run, int threads) {
    Worker workers[MOST_THREADS];
    int t = 1;
    for (; t < threads; ++t) {
        workers[t] = {&run, t, {}};
        if (!workers[t].thread.start(start, &workers[t])) break;
    }
    __atomic_store_n(&run.threads, t, __ATOMIC_RELEASE);
    work(run, *run.tile, 0);
    while (--t) workers[t].thread.join();
}

// Small enough for the stack, where the compiler keeps what it can in registers.
constexpr bool ON_STACK = PLAIN && sizeof(Passes) < 1 << 14;

// What the calls of one training work with, one after the other: zeros at first. `n` samples are
// shuffled.
extern "C" int64_t memory_size(int64_t n) {
    return (ON_STACK ? 0 : sizeof(Copies) + sizeof(Passes)) + (n ? drawn_size(n) : 0);
}

// Returns how many losses were written: those of all steps, or up to the first that is not finite,
// whose update is not made. `memory` begins where a cache line does.
extern "C" int64_t train(real* parameters, real* s0, real* s1, const real* x, const real* y,
                         int64_t n, int64_t first_step, int64_t steps, const Numbers* numbers,
                         real* losses, const uint64_t* seed, const int64_t* const* orders,
                         void* memory, int threads, double clip_norm, double clip_value) {
    Run run = {parameters, s0, s1, x, y, n, first_step, steps, numbers, losses, seed, orders};
    run.clip_norm = clip_norm, run.clip_value = clip_value;
    char* place = static_cast<char*>(memory);
    if constexpr (ON_STACK) {
        Passes tile;
        run.threads = 1, run.drawn = reinterpret_cast<Drawn*>(place);
        work(run, tile, 0);
    } else {
        threads = PLAIN ? 1 : threads;
        run.copies = reinterpret_cast<Copies*>(place), place += sizeof(Copies);
        run.tile = reinterpret_cast<Passes*>(place), place += sizeof(Passes);
        run.drawn = reinterpret_cast<Drawn*>(place);
        work_together(run, threads);
    }
    return run.done;
}

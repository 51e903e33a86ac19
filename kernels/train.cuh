// What train_warp.cu and train_block.cu share; each of them is a `train_network`. In front of this
// file stands what one_launch.py writes: L, SIZES (nodes of every layer, the input's first), SLOTS
// (of the optimizer's state), THREADS (in a block), CLIPS (gradients or not); `Activation<l>` with
// softmax, keeps_z, g(z) and g_prime(z, a); `Loss` with canonical, of_rows, term(z, a, y, m) and
// slope(z, a, y, m), which is dC_i/da under softmax and dC_i/dz otherwise.

constexpr int INPUTS = SIZES[0], OUTPUTS = SIZES[L];

// Where a layer's parameters begin: all weights come first, layer by layer, then all biases.
__device__ constexpr int weights_at(int l) {
    return l == 1 ? 0 : weights_at(l - 1) + SIZES[l - 1] * SIZES[l - 2];
}
__device__ constexpr int biases_at(int l) {
    return l == 1 ? weights_at(L + 1) : biases_at(l - 1) + SIZES[l - 1];
}
constexpr int PARAMETERS = biases_at(L + 1);
// How far it is from what the optimizer keeps of a network to what it keeps of the next: each is
// aligned as an array is.
constexpr int STATE = (PARAMETERS + 3) / 4 * 4;

struct alignas(4 * sizeof(real)) Numbers {  // of a step; read as one
    real learning_rate, weight_decay, c0, c1;
};

// The training of many networks, each by its own block, whose samples are taken batch by batch.
struct Run {
    real* parameters;  // (networks, PARAMETERS)
    real *s0, *s1;     // (networks, STATE); null where the optimizer has no state
    const real *x, *y;
    // The rows that an epoch takes, one after the other; null: all as they lie. The strides lead to
    // the next network or epoch, and may be 0.
    const index_t* order;
    const Numbers* numbers;  // of every step
    real* losses;            // (networks, steps); the first that is not finite is the last one
    // An epoch is n samples, of which `first` is taken first.
    index_t n, batch_size, first, steps, epochs, order_stride, epoch_stride, numbers_stride;
    real clip_value, clip_norm;  // infinite for no limit
};

// The samples of one network, in turn.
struct Samples {
    const index_t* order;
    index_t n, at, epoch_stride, epochs;

    __device__ explicit Samples(const Run& run)
        : order(run.order ? run.order + blockIdx.x * run.order_stride : nullptr),
          n(run.n), at(run.first), epoch_stride(run.epoch_stride), epochs(run.epochs) {}
    // The row of the i-th from here on, in the same epoch.
    __device__ index_t operator[](index_t i) const { return order ? order[at + i] : at + i; }
    // After the last epoch, the last one comes again. (In one `if`, lanes would part.)
    __device__ void skip(index_t count) {
        at += count;
        const bool ends = at == n;
        epochs -= ends;
        if (ends) at = 0;
        if (ends && epochs > 0) order += epoch_stride;
    }
    __device__ index_t take() {
        const index_t row = (*this)[0];
        skip(1);
        return row;
    }
};

// The next batch of an epoch, of which so many samples are left.
struct Batch {
    index_t count;
    real share;  // 1 / count

    __device__ Batch(const Run& run, index_t left)
        : count(left < run.batch_size ? left : run.batch_size), share(real(1) / real(count)) {}
};

INLINE void train_network(const Run& run);

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    train(real* parameters, real* s0, real* s1, const real* x, const real* y, const index_t* order,
          const real* numbers, real* losses, index_t n, index_t batch_size, index_t first,
          index_t steps, index_t epochs, index_t order_stride, index_t epoch_stride, index_t numbers_stride,
          real clip_value, real clip_norm) {
    train_network({parameters, s0, s1, x, y, order, reinterpret_cast<const Numbers*>(numbers),
                   losses, n, batch_size, first, steps, epochs, order_stride, epoch_stride,
                   numbers_stride, clip_value, clip_norm});
}

// Clips the gradient, as clip.cu does. `each` calls a body for a thread's numbers of it; `largest`
// and `total` are of all threads.
template <class Each, class Largest, class Total>
INLINE void clip(const Run& run, Each each, Largest largest, Total total) {
    const real limit = run.clip_value;
    real mine = 0, sum = 0;
    each([&](real& g) {
        if (fabs(g) > limit) g = g > real(0) ? limit : -limit;
        mine = fmax(mine, fabs(g));
    });
    const real peak = largest(mine);
    each([&](real& g) {
        const real scaled = peak > real(0) ? g / peak : g;
        sum += scaled * scaled;
    });
    const real kept = run.clip_norm / sqrt(total(sum));  // of the largest number
    if (kept >= peak) return;                            // NaN is not, and goes into every number
    each([&](real& g) { g = g / peak * kept; });
}

// One optimizer step for one parameter.
INLINE void apply(real& p, real g, real& s0, real& s1, const Numbers& now, bool is_weight) {
    update_one(p, g, s0, s1, now.learning_rate, is_weight ? now.weight_decay : real(0), now.c0,
               now.c1);
}

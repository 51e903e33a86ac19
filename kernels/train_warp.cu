// Whole training of a small network in one launch, by one warp; blockIdx.x is the network. Lane j
// is node j of every layer, and keeps in registers its weights, its bias, their gradient and what
// the optimizer keeps of them. Lanes tell each other activations and sums by shuffles alone.
//
// It reads like network.py, for one sample after the other:
//
//     forward         z[l] = W[l] a[l-1] + b[l]           a[l] = g[l](z[l])          a[0] = x
//     backward   1.   dC/da[L]                            from the loss
//                2.   delta[l] = dC/da[l] * g'[l](z[l])
//                3.   dC/dW[l] += delta[l] a[l-1]^T       dC/db[l] += delta[l]
//                4.   dC/da[l-1] = W[l]^T delta[l]
//
// In front of this file stands train.cuh. No layer is wider than the warp.

constexpr unsigned EVERYONE = 0xffffffffu;

struct Parameter {
    real p, dC_dp, s0, s1;
};

// What a lane keeps of its nodes in layers 1 to l. A lane beyond a layer's nodes has zeros.
template <int l>
struct Nodes : Nodes<l - 1> {
    Parameter w[SIZES[l - 1]], b;
    real z, a, delta;
};
template <>
struct Nodes<0> {
    real a, y;
    int lane;
};

INLINE real of_lane(real mine, int lane) { return __shfl_sync(EVERYONE, mine, lane); }

// Lane k gets the sum of v[k] over the lanes below `nodes`, for every k < count, a power of two; in
// the others v is zero. Lanes first swap halves of what they have: 31 shuffles for 32 sums, which
// would take 160 one by one. `group` lanes have sums of different v.
template <int nodes, int count, int group = count>
INLINE real sum_each(real* v, int lane) {
    if constexpr (count == 1) {
        real sum = v[0];
#pragma unroll
        for (int lanes = group; lanes < nodes; lanes *= 2)
            sum += __shfl_xor_sync(EVERYONE, sum, lanes);
        return sum;
    } else {
        constexpr int half = count / 2;
        const bool upper = lane & half;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const real keep = upper ? v[i + half] : v[i], give = upper ? v[i] : v[i + half];
            v[i] = keep + __shfl_xor_sync(EVERYONE, give, half);
        }
        return sum_each<nodes, half, group>(v, lane);
    }
}

__device__ constexpr int power_of_two(int least) {
    return least <= 1 ? 1 : 2 * power_of_two((least + 1) / 2);
}

// Calls body(parameter, where it is in the flat array, whether it is a weight, whether there is such
// a node) for a lane's own. Lanes do not part here: it takes longer to bring them together again.
template <int l, class Body>
INLINE void each_parameter(Nodes<L>& nodes, Body body) {
    constexpr int K = SIZES[l - 1];
    Nodes<l>& own = nodes;
    if constexpr (l > 1) each_parameter<l - 1>(nodes, body);
    const bool there = nodes.lane < SIZES[l];
#pragma unroll
    for (int k = 0; k < K; ++k) body(own.w[k], weights_at(l) + nodes.lane * K + k, true, there);
    body(own.b, biases_at(l) + nodes.lane, false, there);
}

// sum_k e^(z_k - top), where `top` is the largest z; `e` gets the lane's own term. Lanes that have no
// node may get another number.
template <int size>
INLINE real sum_of_exponentials(real z, int lane, real& top, real& e) {
    const real first = of_lane(z, 0);
    top = warp_max(lane < size ? z : first, power_of_two(size));
    e = lane < size ? exp(z - top) : real(0);
    return warp_sum(e, power_of_two(size));
}

template <int l>
INLINE void forward(Nodes<L>& nodes) {
    constexpr int K = SIZES[l - 1], N = SIZES[l];
    Nodes<l>& own = nodes;
    if constexpr (l > 1) forward<l - 1>(nodes);
    const real a_before = own.Nodes<l - 1>::a;
    own.z = own.b.p;
#pragma unroll
    for (int k = 0; k < K; ++k) own.z += own.w[k].p * of_lane(a_before, k);
    if constexpr (Activation<l>::softmax) {
        real top, e;
        const real sum = sum_of_exponentials<N>(own.z, nodes.lane, top, e);
        own.a = nodes.lane < N ? e / sum : real(0);
    } else {
        own.a = Activation<l>::g(own.z);
    }
}

// delta, from dC/da: equation 2. Zero in lanes that have no node.
template <int l>
INLINE void to_delta(Nodes<L>& nodes, real dC_da) {
    Nodes<l>& own = nodes;
    const bool there = nodes.lane < SIZES[l];
    if constexpr (Activation<l>::softmax) {
        const real mean = warp_sum(there ? own.a * dC_da : real(0), power_of_two(SIZES[l]));
        own.delta = there ? own.a * (dC_da - mean) : real(0);
    } else {
        own.delta = there ? dC_da * Activation<l>::g_prime(own.z, own.a) : real(0);
    }
}

// Equations 1 and 2 for the last layer, times `share`, 1/n. Returns the lane's share of C_i.
INLINE real output(Nodes<L>& nodes, real share) {
    const bool there = nodes.lane < OUTPUTS;
    const real z = nodes.z, a = nodes.a, y = nodes.y, m = OUTPUTS;
    const real slope = there ? Loss::slope(z, a, y, m) * share : real(0);
    if constexpr (Activation<L>::softmax && !Loss::canonical)
        to_delta<L>(nodes, slope);
    else
        nodes.delta = slope;  // the loss's expression has g' in it
    if constexpr (Loss::of_rows) {
        real top, e;
        const real log_sum = log(sum_of_exponentials<OUTPUTS>(z, nodes.lane, top, e));
        return there && y > real(0) ? y * (log_sum - (z - top)) : real(0);
    } else {
        return there ? Loss::term(z, a, y, m) : real(0);
    }
}

// Equations 3, 4 and 2, from layer l down.
template <int l>
INLINE void backward(Nodes<L>& nodes) {
    constexpr int K = SIZES[l - 1], sums = power_of_two(K);
    Nodes<l>& own = nodes;
    const real a_before = own.Nodes<l - 1>::a;
#pragma unroll
    for (int k = 0; k < K; ++k) own.w[k].dC_dp += own.delta * of_lane(a_before, k);
    own.b.dC_dp += own.delta;
    if constexpr (l > 1) {
        real v[sums];
#pragma unroll
        for (int k = 0; k < sums; ++k) v[k] = k < K ? own.delta * own.w[k].p : real(0);
        to_delta<l - 1>(nodes, sum_each<SIZES[l], sums>(v, nodes.lane));
        backward<l - 1>(nodes);
    }
}

struct Sample {
    real x, y;  // a lane's input and output
};

INLINE Sample fetch(const Run& run, index_t row, int lane) {
    return {lane < INPUTS ? run.x[row * INPUTS + lane] : real(0),
            lane < OUTPUTS ? run.y[row * OUTPUTS + lane] : real(0)};
}

INLINE void train_network(const Run& run) {
    const index_t at = blockIdx.x * index_t(PARAMETERS), state_at = blockIdx.x * index_t(STATE);
    const Numbers* numbers = run.numbers + blockIdx.x * run.numbers_stride;
    real* loss = run.losses + blockIdx.x * run.steps;
    Samples samples(run);
    index_t left = run.n - run.first;
    Batch batch(run, left);

    Nodes<L> nodes = {};
    nodes.lane = threadIdx.x;
    each_parameter<L>(nodes, [&](Parameter& q, int i, bool, bool there) {
        if (!there) return;
        q.p = run.parameters[at + i];
        if (SLOTS > 0) q.s0 = run.s0[state_at + i];
        if (SLOTS > 1) q.s1 = run.s1[state_at + i];
    });
    // While a sample is computed, the next one is fetched, and the row of the one after that; in the
    // time of a step the numbers of the next one are.
    Sample ahead = fetch(run, samples.take(), nodes.lane);
    index_t row = samples.take(), i = 0, done = 0;
    Numbers now = *numbers;
    real C = 0;
    while (done < run.steps) {
        nodes.Nodes<0>::a = ahead.x;
        nodes.y = ahead.y;
        ahead = fetch(run, row, nodes.lane);
        row = samples.take();
        forward<L>(nodes);
        C += output(nodes, batch.share);
        // Wanted only after the last sample, and right only in lanes that have an output; but here it
        // is computed beside the way back.
        const real total = warp_sum(C, power_of_two(OUTPUTS)) * batch.share;
        backward<L>(nodes);
        if (++i < batch.count) continue;

        if (nodes.lane == 0) *loss = total;
        ++loss;
        if (__any_sync(EVERYONE, !isfinite(total))) break;
        if constexpr (CLIPS)
            clip(
                run,
                [&](auto body) {
                    each_parameter<L>(nodes, [&](Parameter& q, int, bool, bool) { body(q.dC_dp); });
                },
                [](real mine) { return warp_max(mine); }, [](real mine) { return warp_sum(mine); });
        each_parameter<L>(nodes, [=](Parameter& q, int, bool is_weight, bool there) {
            apply(q.p, q.dC_dp, q.s0, q.s1, now, is_weight);
            if (!there) q.p = 0;  // whatever the optimizer makes of zeros
            q.dC_dp = 0;
        });
        if (++done < run.steps) now = *++numbers;
        left = left == batch.count ? run.n : left - batch.count;
        batch = Batch(run, left);
        C = 0;
        i = 0;
    }
    each_parameter<L>(nodes, [&](Parameter& q, int i, bool, bool there) {
        if (!there) return;
        run.parameters[at + i] = q.p;
        if (SLOTS > 0) run.s0[state_at + i] = q.s0;
        if (SLOTS > 1) run.s1[state_at + i] = q.s1;
    });
}

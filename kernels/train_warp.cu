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

// Lane k gets the sum of v[k] over all lanes, for every k < count, a power of two. Lanes first swap
// halves of what they have: 31 shuffles for 32 sums, which would take 160 one by one. `group` lanes
// have sums of different v.
template <int count, int group = count>
INLINE real sum_each(real* v, int lane) {
    if constexpr (count == 1) {
        real sum = v[0];
#pragma unroll
        for (int lanes = group; lanes < WARP; lanes *= 2)
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
        return sum_each<half, group>(v, lane);
    }
}

__device__ constexpr int power_of_two(int least) {
    return least <= 1 ? 1 : 2 * power_of_two((least + 1) / 2);
}

// Calls body(parameter, where it is in the flat array, whether it is a weight) for a lane's own.
template <int l, class Body>
INLINE void each_parameter(Nodes<L>& nodes, Body body) {
    constexpr int K = SIZES[l - 1];
    Nodes<l>& own = nodes;
    if constexpr (l > 1) each_parameter<l - 1>(nodes, body);
    if (nodes.lane >= SIZES[l]) return;
#pragma unroll
    for (int k = 0; k < K; ++k) body(own.w[k], weights_at(l) + nodes.lane * K + k, true);
    body(own.b, biases_at(l) + nodes.lane, false);
}

// sum_k e^(z_k - top), where `top` is the largest z; `e` gets the lane's own term.
template <int size>
INLINE real sum_of_exponentials(real z, int lane, real& top, real& e) {
    const real first = of_lane(z, 0);
    top = warp_max(lane < size ? z : first);
    e = lane < size ? exp(z - top) : real(0);
    return warp_sum(e);
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
        own.a = e / sum;
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
        const real mean = warp_sum(there ? own.a * dC_da : real(0));
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
        to_delta<l - 1>(nodes, sum_each<sums>(v, nodes.lane));
        backward<l - 1>(nodes);
    }
}

INLINE void train_network(const Run& run) {
    const index_t at = blockIdx.x * index_t(PARAMETERS);
    const Numbers* numbers = run.numbers + blockIdx.x * run.numbers_stride;
    real* losses = run.losses + blockIdx.x * run.steps;
    Batches batch(run);
    index_t done = 0;

    Nodes<L> nodes = {};
    nodes.lane = threadIdx.x;
    each_parameter<L>(nodes, [&](Parameter& q, int i, bool) {
        q.p = run.parameters[at + i];
        if (SLOTS > 0) q.s0 = run.s0[at + i];
        if (SLOTS > 1) q.s1 = run.s1[at + i];
    });
    while (done < run.steps) {
        const Numbers now = numbers[done];
        const real share = real(1) / real(batch.count);
        real C = 0;
        for (index_t i = 0; i < batch.count; ++i) {
            const index_t row = batch.row(i);
            const int lane = nodes.lane;
            nodes.Nodes<0>::a = lane < INPUTS ? run.x[row * INPUTS + lane] : real(0);
            nodes.y = lane < OUTPUTS ? run.y[row * OUTPUTS + lane] : real(0);
            forward<L>(nodes);
            C += output(nodes, share);
            backward<L>(nodes);
        }
        C = warp_sum(C) * share;
        if (nodes.lane == 0) losses[done] = C;
        ++done;
        if (!isfinite(C)) break;
        if constexpr (CLIPS)
            clip(
                run,
                [&](auto body) {
                    each_parameter<L>(nodes, [&](Parameter& q, int, bool) { body(q.dC_dp); });
                },
                warp_max, warp_sum);
        each_parameter<L>(nodes, [=](Parameter& q, int, bool is_weight) {
            apply(q.p, q.dC_dp, q.s0, q.s1, now, is_weight);
            q.dC_dp = 0;
        });
        batch.next();
    }
    each_parameter<L>(nodes, [&](Parameter& q, int i, bool) {
        run.parameters[at + i] = q.p;
        if (SLOTS > 0) run.s0[at + i] = q.s0;
        if (SLOTS > 1) run.s1[at + i] = q.s1;
    });
}

// Softmax works on rows: one warp takes one row, lane by lane.

static __device__ index_t row_of_warp() {
    return index_t(blockIdx.x) * blockDim.y + threadIdx.y;
}

// z += b, a = softmax(z). z_out is null where z need not be kept; a may be z.
extern "C" __global__ void bias_softmax(const real* z, const real* b, real* z_out, real* a,
                                        index_t rows, int columns) {
    const index_t row = row_of_warp();
    if (row >= rows) return;
    z += row * columns;
    a += row * columns;
    if (z_out) z_out += row * columns;

    // No lane reads what another one overwrites: shuffles put memory in no order.
    const int lane = threadIdx.x;
    real top = __shfl_sync(0xffffffffu, lane < columns ? z[lane] + b[lane] : real(0), 0);
    for (int j = lane; j < columns; j += WARP) top = fmax(top, z[j] + b[j]);
    top = warp_max(top);
    real sum = 0;
    for (int j = lane; j < columns; j += WARP) {
        const real z_j = z[j] + b[j];
        const real e = exp(z_j - top);
        if (z_out) z_out[j] = z_j;
        a[j] = e;
        sum += e;
    }
    sum = warp_sum(sum);
    for (int j = lane; j < columns; j += WARP) a[j] /= sum;
}

// delta_j = a_j (dC/da_j - sum_k a_k dC/da_k). delta may be dC_da.
extern "C" __global__ void softmax_delta(const real* dC_da, const real* a, real* delta,
                                         index_t rows, int columns) {
    const index_t row = row_of_warp();
    if (row >= rows) return;
    dC_da += row * columns;
    a += row * columns;
    delta += row * columns;

    real dot = 0;
    for (int j = threadIdx.x; j < columns; j += WARP) dot += a[j] * dC_da[j];
    dot = warp_sum(dot);
    for (int j = threadIdx.x; j < columns; j += WARP) delta[j] = a[j] * (dC_da[j] - dot);
}

// Categorical cross-entropy of a softmax: C_i = sum_j y_j (log sum_k e^(z_k) - z_j) for each row,
// dC/da = -y / a / n, delta = (a - y) / n. Nulls as in loss_delta.
extern "C" __global__ void softmax_cross_entropy(const real* z, const real* a, const real* y,
                                                 real* dC_da, real* delta, real* C_i, index_t rows,
                                                 int columns, real one_over_n) {
    const index_t row = row_of_warp();
    if (row >= rows) return;
    const index_t start = row * columns;

    real top = z[start];
    for (int j = threadIdx.x; j < columns; j += WARP) top = fmax(top, z[start + j]);
    top = warp_max(top);
    real sum = 0;
    for (int j = threadIdx.x; j < columns; j += WARP) sum += exp(z[start + j] - top);
    const real log_sum = log(warp_sum(sum));

    real loss = 0;
    for (int j = threadIdx.x; j < columns; j += WARP) {
        const index_t i = start + j;
        const real a_i = a[i], y_i = y[i];
        if (y_i > real(0)) loss += y_i * (log_sum - (z[i] - top));
        if (dC_da) dC_da[i] = y_i > real(0) ? -y_i / a_i * one_over_n : real(0);
        if (delta) delta[i] = (a_i - y_i) * one_over_n;
    }
    loss = warp_sum(loss);
    if (threadIdx.x == 0) C_i[row] = loss;
}

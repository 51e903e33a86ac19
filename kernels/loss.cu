// The loss, its gradient and the output layer's delta in one pass over the outputs.
// Calls, for one output: loss_term(z, a, y, m), its share of C_i; loss_slope(z, a, y, m), dC_i/da;
// output_slope(z, a, y, m), dC_i/dz. m is the number of outputs.
// z is null where nothing reads it; dC_da and delta are null where they are not wanted, and may be
// the same array, which then holds delta.

extern "C" __global__ void loss_delta(const real* z, const real* a, const real* y, real* dC_da,
                                      real* delta, real* partial, index_t size, int outputs,
                                      real one_over_n) {
    const real m = real(outputs);
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    real sum = 0;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) {
        const real a_i = a[i], y_i = y[i], z_i = z ? z[i] : real(0);
        sum += loss_term(z_i, a_i, y_i, m);
        if (dC_da) dC_da[i] = loss_slope(z_i, a_i, y_i, m) * one_over_n;
        if (delta) delta[i] = output_slope(z_i, a_i, y_i, m) * one_over_n;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

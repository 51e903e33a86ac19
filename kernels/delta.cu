// Equation 2, delta = dC/da * g', alone or together with equation 3's dC/db, the column sums of
// delta. Calls g_prime(t), where t is a or z. delta may be dC_da.

extern "C" __global__ void delta(const real* dC_da, const real* t, real* delta_out, index_t size) {
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride)
        delta_out[i] = dC_da[i] * g_prime(t[i]);
}

struct WriteDelta {
    const real *dC_da, *t;
    real* delta;
    __device__ real operator()(index_t i) const { return delta[i] = dC_da[i] * g_prime(t[i]); }
};

// First stage; column_sum_finish in column_sum.cu is the second.
extern "C" __global__ void delta_bias(const real* dC_da, const real* t, real* delta_out,
                                      real* partial, index_t rows, int columns,
                                      index_t rows_per_block) {
    column_partial(WriteDelta{dC_da, t, delta_out}, partial, rows, columns, rows_per_block);
}

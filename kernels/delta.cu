// Equations 2 and 3 in one: delta = dC/da * g', and dC/db, its column sums. Calls g_prime(t), where
// t is a or z. delta may be dC_da.

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

// out[j] = sum_i array[i, j]: the bias gradient of a layer whose delta exists already.

struct Read {
    const real* array;
    __device__ real operator()(index_t i) const { return array[i]; }
};

extern "C" __global__ void column_sum(const real* array, real* partial, index_t rows, int columns,
                                      index_t rows_per_block) {
    column_partial(Read{array}, partial, rows, columns, rows_per_block);
}

// Second stage: one thread adds up one column of `partial`, top to bottom.
extern "C" __global__ void column_sum_finish(const real* partial, real* out, int row_blocks,
                                             int columns) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    real sum = 0;
    for (int block = 0; block < row_blocks; ++block) sum += partial[index_t(block) * columns + column];
    out[column] = sum;
}

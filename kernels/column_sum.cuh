// Column sums in two stages. A block is blockDim.x columns wide and blockDim.y rows high, and adds
// up rows_per_block rows; stage one leaves one row of `partial` per block of rows.

template <class Entry>
static __device__ void column_partial(Entry entry, real* partial, index_t rows, int columns,
                                      index_t rows_per_block) {
    __shared__ real sums[MAX_THREADS];
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const index_t first = index_t(blockIdx.y) * rows_per_block;
    const index_t last = first + rows_per_block < rows ? first + rows_per_block : rows;

    real sum = 0;
    if (column < columns)
        for (index_t row = first + threadIdx.y; row < last; row += blockDim.y)
            sum += entry(row * columns + column);
    const int t = threadIdx.y * blockDim.x + threadIdx.x;
    sums[t] = sum;
    __syncthreads();
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < half) sums[t] += sums[t + half * blockDim.x];
        __syncthreads();
    }
    if (threadIdx.y == 0 && column < columns)
        partial[index_t(blockIdx.y) * columns + column] = sums[t];
}

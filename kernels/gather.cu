// out[i] = rows[index[i]]: a batch of the data, in the order of an epoch. One warp takes one row.

extern "C" __global__ void gather(const real* rows, const index_t* index, real* out, index_t count,
                                  int columns) {
    const index_t i = index_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (i >= count) return;
    rows += index[i] * columns;
    out += i * columns;
    for (int j = threadIdx.x; j < columns; j += WARP) out[j] = rows[j];
}

// What every kernel shares. kernels.assemble() writes what `real` is (float or double) in front of
// this file, and behind it the device functions that a kernel calls (g, g_prime, ...).
//
// Sums are two-stage and in an order that depends on the shape alone: no atomics on floats, so two
// runs agree to the bit, whatever the device.

typedef long long index_t;  // flat indices: arrays may hold more than 2^31 numbers

constexpr int WARP = 32;
constexpr int MAX_THREADS = 256;  // threads in a block, at most; kernels.THREADS

// Folds `mine` over the block's threads with a tree in shared memory; blockDim.x is a power of two.
// All threads get the result, if they meet at a barrier before the next fold of the kind.
template <class Fold>
static __device__ real block_fold(real mine, Fold fold) {
    __shared__ real partial[MAX_THREADS];
    const int t = threadIdx.x;
    partial[t] = mine;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (t < half) partial[t] = fold(partial[t], partial[t + half]);
        __syncthreads();
    }
    return partial[0];
}

static __device__ real block_sum(real mine) {
    return block_fold(mine, [](real a, real b) { return a + b; });
}

static __device__ real block_max(real mine) {
    return block_fold(mine, [](real a, real b) { return fmax(a, b); });
}

// All lanes of a warp get the sum, or the maximum, of `mine` over its lanes, or over each `group`
// of them, a power of two.
static __device__ real warp_sum(real mine, int group = WARP) {
    for (int lanes = group / 2; lanes > 0; lanes /= 2)
        mine += __shfl_xor_sync(0xffffffffu, mine, lanes);
    return mine;
}

static __device__ real warp_max(real mine, int group = WARP) {
    for (int lanes = group / 2; lanes > 0; lanes /= 2)
        mine = fmax(mine, __shfl_xor_sync(0xffffffffu, mine, lanes));
    return mine;
}

// Walks over a C-contiguous matrix, all threads of the grid side by side, and knows the column
// without a division per entry.
struct Walk {
    index_t i, stride;
    int column, columns, advance;

    __device__ explicit Walk(int columns_)
        : i(index_t(blockIdx.x) * blockDim.x + threadIdx.x),
          stride(index_t(gridDim.x) * blockDim.x),
          column(int(i % columns_)),
          columns(columns_),
          advance(int(stride % columns_)) {}

    __device__ void next() {
        i += stride;
        column += advance;
        if (column >= columns) column -= columns;
    }
};

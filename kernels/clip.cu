// Clipping of a gradient: every number to [-limit, limit], and then all of them to a norm. The
// squares are of numbers over the largest of them, or they would overflow.

// Returns the largest of the numbers to all threads of a block. A NaN is never the largest.
static __device__ real block_max(const real* numbers, index_t first, index_t stride,
                                 index_t count) {
    __shared__ real largest[MAX_THREADS];
    const int t = threadIdx.x;
    real mine = 0;
    for (index_t i = first; i < count; i += stride) mine = fmax(mine, fabs(numbers[i]));
    largest[t] = mine;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (t < half) largest[t] = fmax(largest[t], largest[t + half]);
        __syncthreads();
    }
    return largest[0];
}

extern "C" __global__ void clip_values(real* gradient, real limit, index_t size) {
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride)
        if (fabs(gradient[i]) > limit) gradient[i] = gradient[i] > 0 ? limit : -limit;
}

extern "C" __global__ void find_peaks(const real* gradient, real* peaks, index_t size) {
    const index_t first = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const real peak = block_max(gradient, first, index_t(gridDim.x) * blockDim.x, size);
    if (threadIdx.x == 0) peaks[blockIdx.x] = peak;
}

extern "C" __global__ void scaled_squares(const real* gradient, const real* peaks, real* sums,
                                          int blocks, index_t size) {
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    const real peak = block_max(peaks, threadIdx.x, blockDim.x, blocks);
    real sum = 0;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) {
        const real scaled = gradient[i] / peak;
        sum += peak > 0 ? scaled * scaled : 0;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void clip_norm(real* gradient, const real* peaks, const real* sums,
                                     real limit, int blocks, index_t size) {
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    const real peak = block_max(peaks, threadIdx.x, blockDim.x, blocks);
    real sum = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += sums[i];
    const real factor = limit / peak / sqrt(block_sum(sum));
    if (factor >= 1) return;  // NaN is not, and goes into every number
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride)
        gradient[i] *= factor;
}

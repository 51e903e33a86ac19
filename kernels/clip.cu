// Clipping of a gradient: every number to [-limit, limit], and then all of them to a norm. The
// squares are of numbers over the largest of them, or they would overflow.

// The largest of all blocks' peaks. A NaN is never the largest.
static __device__ real peak_of(const real* peaks, int blocks) {
    real peak = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) peak = fmax(peak, peaks[i]);
    return block_max(peak);
}

extern "C" __global__ void clip_values(real* gradient, real limit, index_t size) {
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride)
        if (fabs(gradient[i]) > limit) gradient[i] = gradient[i] > 0 ? limit : -limit;
}

extern "C" __global__ void find_peaks(const real* gradient, real* peaks, index_t size) {
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    real peak = 0;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride)
        peak = fmax(peak, fabs(gradient[i]));
    peak = block_max(peak);
    if (threadIdx.x == 0) peaks[blockIdx.x] = peak;
}

extern "C" __global__ void scaled_squares(const real* gradient, const real* peaks, real* sums,
                                          int blocks, index_t size) {
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    const real peak = peak_of(peaks, blocks);
    real sum = 0;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) {
        const real scaled = peak > 0 ? gradient[i] / peak : gradient[i];
        sum += scaled * scaled;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void clip_norm(real* gradient, const real* peaks, const real* sums,
                                     real limit, int blocks, index_t size) {
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    const real peak = peak_of(peaks, blocks);
    real sum = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += sums[i];
    const real kept = limit / sqrt(block_sum(sum));  // of the largest number
    if (kept >= peak) return;                        // NaN is not, and goes into every number
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride)
        gradient[i] = gradient[i] / peak * kept;
}

// Whether numbers are finite, and copies that depend on it: so that nobody waits to hear of it.
// It calls no device function.

// finite[0] = 0 if one of the values is not finite; it stays as it is otherwise.
extern "C" __global__ void find_infinite(const real* values, real* finite, index_t size) {
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    bool all = true;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride)
        all = all && isfinite(values[i]);
    if (!all) finite[0] = 0;  // as every thread does that writes
}

// out = values, if condition[0] is not 0.
extern "C" __global__ void copy_if(const real* condition, const real* values, real* out,
                                   index_t size) {
    if (condition[0] == 0) return;
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride)
        out[i] = values[i];
}

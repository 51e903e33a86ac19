// The penalty of the weights, added to the loss: C += (decay / 2) * sum W^2, in two stages.

extern "C" __global__ void squares(const real* weights, real* partial, index_t size) {
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    real sum = 0;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride)
        sum += weights[i] * weights[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block; the decay is the second of a step's numbers.
extern "C" __global__ void penalize(const real* partial, real* C, const real* numbers,
                                    int blocks) {
    real sum = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) C[0] += numbers[1] / 2 * sum;
}

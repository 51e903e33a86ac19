// Second stage of a loss, one block: C = (1/n) sum_i C_i.
extern "C" __global__ void loss_finish(const real* partial, real* C, int blocks, real one_over_n) {
    real sum = 0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) C[0] = sum * one_over_n;
}

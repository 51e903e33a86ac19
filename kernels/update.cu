// One optimizer step of the whole flat parameter array in one launch.
// Calls update_one(p, g, s0, s1, learning_rate, decay, c0, c1), which changes p, s0 and s1.
// numbers: learning rate, weight decay, c0, c1; in device memory, so that they may change between
// the replays of a recorded step. The first `decayed` parameters are weights. s0 and s1 are null where the optimizer has no state.

extern "C" __global__ void update(real* parameters, const real* gradient, real* s0, real* s1,
                                  const real* numbers, index_t size, index_t decayed) {
    const real learning_rate = numbers[0], weight_decay = numbers[1], c0 = numbers[2],
               c1 = numbers[3];
    const index_t stride = index_t(gridDim.x) * blockDim.x;
    for (index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += stride) {
        real p = parameters[i], m = s0 ? s0[i] : real(0), v = s1 ? s1[i] : real(0);
        update_one(p, gradient[i], m, v, learning_rate, i < decayed ? weight_decay : real(0), c0,
                   c1);
        parameters[i] = p;
        if (s0) s0[i] = m;
        if (s1) s1[i] = v;
    }
}

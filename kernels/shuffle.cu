// The orders of samples in epochs, as shuffle.py has them: sample i comes where its mixed key has
// its place among all samples' keys. Each thread counts the smaller ones, so that nothing is
// sorted, and nothing but the orders takes memory. It calls no device function.

typedef unsigned long long key_t;

constexpr key_t STEP = 0x9E3779B97F4A7C15;

static __device__ key_t mixed(key_t key) {
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9;
    key = (key ^ key >> 27) * 0x94D049BB133111EB;
    return key ^ key >> 31;
}

// order, shape (seeds, epochs, n); `parts` blocks share the samples of an epoch. A seed alone comes
// without an array: it would have to be brought here.
extern "C" __global__ void shuffle(const key_t* seeds, key_t seed, index_t* order,
                                   index_t first_epoch, index_t epochs, index_t n,
                                   index_t parts) {
    __shared__ key_t keys[MAX_THREADS];
    const index_t which = blockIdx.x / parts;
    const index_t i = blockIdx.x % parts * blockDim.x + threadIdx.x;
    const key_t epoch = first_epoch + which % epochs;
    if (seeds) seed = seeds[which / epochs];
    const key_t start = mixed(mixed(seed) ^ STEP ^ epoch) ^ STEP;
    const key_t mine = mixed(i * STEP + start);
    index_t place = 0;
    for (index_t first = 0; first < n; first += blockDim.x) {
        __syncthreads();
        keys[threadIdx.x] = mixed((first + threadIdx.x) * STEP + start);
        __syncthreads();
        const int count = n - first < blockDim.x ? int(n - first) : int(blockDim.x);
        for (int k = 0; k < count; ++k) place += keys[k] < mine;
    }
    if (i < n) order[which * n + place] = i;
}

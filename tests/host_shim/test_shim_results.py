"""What stands in for a GPU computes what a GPU does: it judges every kernel."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from one_launch import ADD, SEEDS, one_kernel, run

ODD_SIZES = [1, 2, 31, 33, 1000]

# Sums each row of a matrix by a tree; the loop over rows makes every one of its barriers matter.
REDUCE = """
extern "C" __global__ void __launch_bounds__(64) sum_rows(const double* x, double* out, int rows,
                                                          int columns) {
    __shared__ double tree[64];
    const int t = threadIdx.x;
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        double sum = 0;
        for (int j = t; j < columns; j += 64) sum += x[row * columns + j];
        tree[t] = sum;
        __syncthreads();  // A
        for (int half = 32; half > 0; half /= 2) {
            if (t < half) tree[t] += tree[t + half];
            __syncthreads();  // B
        }
        if (t == 63) out[row] = tree[0];
        __syncthreads();  // C
    }
}
"""


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", ODD_SIZES)
def test_grid_stride_loop(n, seed, rng):
    x, y = rng.standard_normal((2, n), np.float32)
    out = np.empty_like(x)
    run(ADD, "add", [x, y, out, np.int32(n)], grid=(3, 1, 1), block=(32, 1, 1), seed=seed)
    np.testing.assert_array_equal(out, x + y)


def test_indices_of_every_dimension():
    source = one_kernel(
        "int* out",
        """
        const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        const int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
        out[block * blockDim.x * blockDim.y * blockDim.z + t] += 1;
        """,
    )
    counts = np.zeros(2 * 3 * 4 * 5 * 6 * 7, np.int32)
    for seed in SEEDS:
        run(source, "k", [counts], grid=(2, 3, 4), block=(5, 6, 7), seed=seed)
    assert (counts == len(SEEDS)).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("columns", ODD_SIZES)
def test_barriers(columns, seed, rng):
    x = rng.standard_normal((5, columns))
    out = np.empty(5)
    args = [x, out, np.int32(5), np.int32(columns)]
    run(REDUCE, "sum_rows", args, grid=(2, 1, 1), block=(64, 1, 1), seed=seed)
    np.testing.assert_allclose(out, x.sum(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("barrier", "ABC")
def test_a_missing_barrier_shows_for_some_seed(barrier, rng):
    source = REDUCE.replace(f"__syncthreads();  // {barrier}", "")
    x = rng.standard_normal((5, 100))
    args = [x, np.empty(5), np.int32(5), np.int32(100)]

    def is_right(seed):
        args[1].fill(0)
        run(source, "sum_rows", args, block=(64, 1, 1), seed=seed)
        return np.allclose(args[1], x.sum(1))

    assert not all(is_right(seed) for seed in range(8))


def test_a_seed_repeats_itself():
    source = one_kernel("int* order, int* next", "order[blockIdx.x] = atomicAdd(next, 1);")

    def order(seed):
        order = np.empty(50, np.int32)
        run(source, "k", [order, np.zeros(1, np.int32)], grid=(50, 1, 1), seed=seed)
        return order.tolist()

    assert order(None) == list(range(50))
    assert order(7) == order(7) != order(8)
    assert sorted(order(7)) == list(range(50))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("real", ["float", "double", "int"])
def test_shuffles(real, seed):
    source = one_kernel(
        f"const {real}* x, {real}* out",
        """
        const int t = threadIdx.x;
        out[t] = __shfl_sync(0xffffffffu, x[t], 3);
        out[t + 64] = __shfl_up_sync(0xffffffffu, x[t], 1);
        out[t + 128] = __shfl_down_sync(0xffffffffu, x[t], 2, 8);
        out[t + 192] = __shfl_xor_sync(0xffffffffu, x[t], 16);
        """,
    )
    dtype = {"float": np.float32, "double": np.float64, "int": np.int32}[real]
    x = np.arange(64, dtype=dtype)
    out = np.empty((4, 2, 32), dtype)
    run(source, "k", [x, out], block=(64, 1, 1), seed=seed)
    lane = np.arange(32)
    source_lanes = [
        np.full(32, 3),
        np.maximum(lane - 1, 0),
        np.where(lane % 8 < 6, lane + 2, lane),
        lane ^ 16,
    ]
    np.testing.assert_array_equal(out, [x.reshape(2, 32)[:, lanes] for lanes in source_lanes])


@pytest.mark.parametrize("seed", SEEDS)
def test_part_of_a_warp(seed):
    source = one_kernel(
        "int* out, unsigned* votes",
        """
        const int t = threadIdx.x;
        if (t >= 24) return;
        if (t < 8) out[t] = __shfl_sync(0x000000ffu, t, 7);
        else out[t] = __shfl_sync(0x00ffff00u, t, 8);
        __syncwarp();
        votes[t] = __ballot_sync(0xffffffffu, t % 2);
        """,
    )
    out, votes = np.zeros(24, np.int32), np.zeros(24, np.uint32)
    run(source, "k", [out, votes], block=(32, 1, 1), seed=seed)
    assert out.tolist() == [7] * 8 + [8] * 16
    assert (votes == 0xAAAAAA).all()


def test_a_lane_that_is_not_there_gives_nan():
    source = one_kernel("float* out", "out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1.0f, 1);")
    out = np.empty(20, np.float32)
    run(source, "k", [out], block=(20, 1, 1))
    np.testing.assert_array_equal(out, [1] * 19 + [np.nan])


def test_shared_memory_starts_as_nan_in_every_block():
    source = """
    template <int N> __device__ float* of_a_template() { __shared__ float x[N]; return x; }
    extern "C" __global__ void k(float* out) {
        extern __shared__ __align__(16) unsigned char bytes[];
        __shared__ float fixed[4];
        float* const rows[] = {(float*)bytes, fixed, of_a_template<4>(), of_a_template<8>()};
        for (int i = 0; i < 4; ++i) {
            out[blockIdx.x * 4 + i] = rows[i][3];
            rows[i][3] = 1;
        }
    }
    """
    out = np.zeros(8, np.float32)
    run(source, "k", [out], grid=(2, 1, 1), shared=16)
    assert np.isnan(out).all()


def test_shared_memory_starts_as_nan_in_every_thread_of_python():
    source = one_kernel("float* out", "__shared__ float x[1]; *out = x[0]; x[0] = 1;")
    out = np.zeros((3, 1), np.float32)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda row: run(source, "k", [row]), out))
    assert np.isnan(out).all()


def test_last_block_done():
    source = """
    extern "C" __global__ void k(const int* x, int* partial, unsigned* done, int* out) {
        __shared__ bool last;
        partial[blockIdx.x] = x[blockIdx.x];
        __threadfence();
        if (threadIdx.x == 0) last = atomicAdd(done, 1) == gridDim.x - 1;
        __syncthreads();
        if (last && threadIdx.x == 0)
            for (int i = 0; i < gridDim.x; ++i) *out += partial[i];
    }
    """
    for seed in SEEDS:
        out = np.zeros(1, np.int32)
        args = [np.arange(9, dtype=np.int32), np.zeros(9, np.int32), np.zeros(1, np.uint32), out]
        run(source, "k", args, grid=(9, 1, 1), block=(3, 1, 1), seed=seed)
        assert out[0] == 36


@pytest.mark.parametrize(("real", "dtype"), [("float", np.float32), ("double", np.float64)])
def test_functions_of_cuda(real, dtype):
    functions = {
        "exp(x)": np.exp,
        "log1p(x)": np.log1p,
        "tanh(x)": np.tanh,
        "rsqrt(x)": lambda x: 1 / np.sqrt(x),
        "pow(x, real(3))": lambda x: x**3,
        "copysign(x, -real(1))": lambda x: -x,
        "max(x, real(1))": lambda x: np.maximum(x, 1),
        "fmin(x, real(0) / real(0))": lambda x: x,
        "real(isfinite(x) && !isnan(x))": np.ones_like,
        "real(sizeof(exp(x)))": lambda x: np.full_like(x, x.itemsize),
    }
    lines = (f"out[{i} * n + t] = {text};" for i, text in enumerate(functions))
    body = "const int t = threadIdx.x; const real x = in[t];\n" + "\n".join(lines)
    source = f"typedef {real} real;\n" + one_kernel("const real* in, real* out, int n", body)
    x = np.linspace(0.1, 3, 7, dtype=dtype)
    out = np.empty((len(functions), 7), dtype)
    run(source, "k", [x, out, np.int32(7)], block=(7, 1, 1))
    expected = [f(x) for f in functions.values()]
    np.testing.assert_allclose(out, expected, rtol=4 * np.finfo(dtype).eps)

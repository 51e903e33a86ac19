"""The tools that stand in for a GPU must themselves be right: they judge every kernel."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from host import launcher as launcher_module
from host.launcher import HostLauncher, KernelError, unavailable_reason
from host.nvrtc import CompileError, compile_for, nvrtc_unavailable_reason

SEEDS = [None, 0, 1, 2]
ODD_SIZES = [1, 2, 31, 33, 1000]
ONE = (1, 1, 1)

ADD = """
typedef float real;
extern "C" __global__ void add(const real* __restrict__ x, const real* y, real* out, int n) {
    const int stride = gridDim.x * blockDim.x;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) out[i] = x[i] + y[i];
}
"""

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


@pytest.fixture(autouse=True)
def _compiler(request):
    if "nvrtc" in request.fixturenames:
        return
    if reason := unavailable_reason():
        pytest.skip(reason)


@pytest.fixture
def nvrtc():
    if reason := nvrtc_unavailable_reason():
        pytest.skip(reason)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def run(source, name, args, *, grid=ONE, block=ONE, shared=0, seed=None):
    HostLauncher(seed).launch(source, name, grid, block, args, shared)


def one_kernel(parameters, body):
    return f'extern "C" __global__ void k({parameters}) {{\n{body}\n}}'


# ---- results -------------------------------------------------------------------------------------


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


# ---- threads that do not meet --------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 40) __syncthreads();", r"waits in __syncthreads\(\) on line 2, but "),
        ("if (threadIdx.x > 40) return;\n__syncthreads();", r"on line 3, but .* has returned"),
        ("if (threadIdx.x % 2)\n__syncthreads();\nelse\n__syncthreads();", r"on line [35], but "),
        ("if (threadIdx.x % 2) __syncwarp();\n else __syncthreads();", r"with mask 0xffffffff"),
        ("if (threadIdx.x < 9) __syncwarp(0xff);", r"0x000000ff, which leaves it out"),
    ],
)
def test_divergence_is_reported(body, message, seed):
    source = one_kernel("", body)
    with pytest.raises(KernelError, match=message):
        run(source, "k", [], block=(64, 1, 1), seed=seed)
    run(ADD.replace("add", "k"), "k", [np.ones(1, np.float32)] * 3 + [np.int32(1)])


def test_the_next_launch_after_a_failed_one():
    source = one_kernel(
        "int stop, int* out", "if (!stop || threadIdx.x) __syncthreads(); *out = 1;"
    )
    out = np.zeros(1, np.int32)
    for _ in range(3):
        with pytest.raises(KernelError, match=r"'k' \(seed 5\), block \(0, 0, 0\): threads"):
            run(source, "k", [np.int32(1), out], block=(64, 1, 1), seed=5)
        assert out[0] == 0
    run(source, "k", [np.int32(0), out], block=(64, 1, 1))
    assert out[0] == 1


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_missing_bounds_check_is_reported(in_place, dtype):
    real = {np.float32: "float", np.float64: "double"}[dtype]
    body = "const int i = threadIdx.x; out[i] = 2 * x[i];"
    source = one_kernel(f"const {real}* x, {real}* out", body)
    x = np.ones(30, dtype)
    out = x if in_place else np.zeros(30, dtype)
    who = "argument 0 and 1" if in_place else "argument 1"
    with pytest.raises(KernelError, match=f"kernel 'k' writes past the end of {who}"):
        run(source, "k", [x, out], block=(32, 1, 1))
    assert (x == 1).all()


def test_neighbouring_views_are_kept_apart():
    source = one_kernel("float* w, float* b, int i", "w[i] = 5;")
    flat = np.zeros(10, np.float32)
    w, b = flat[:6], flat[6:]
    run(source, "k", [w, b, np.int32(5)])
    assert flat.tolist() == [0, 0, 0, 0, 0, 5, 0, 0, 0, 0]
    with pytest.raises(KernelError, match="past the end of argument 0"):
        run(source, "k", [w, b, np.int32(6)])
    with pytest.raises(KernelError, match="before the start of argument 0"):
        run(source, "k", [w, b, np.int32(-1)])


def test_overlapping_views_stay_one_memory():
    source = one_kernel(
        "const int* x, int* y, int n", "for (int i = 0; i < n; ++i) y[i] = x[i] + 1;"
    )
    x = np.zeros(9, np.int32)
    run(source, "k", [x, x[1:], np.int32(8)])
    assert x.tolist() == list(range(9))


def test_a_view_keeps_its_alignment():
    source = one_kernel("float* x", "x[0] = (unsigned long long)x % 16;")
    flat = np.zeros(8, np.float32)
    for start in range(8):
        run(source, "k", [flat[start:]])
        assert flat[start] == flat[start:].ctypes.data % 16


def test_without_guard_a_kernel_works_on_the_array_itself():
    source = one_kernel("unsigned long long* x", "x[0] = (unsigned long long)x;")
    x = np.zeros(1, np.uint64)
    HostLauncher(guard=False).launch(source, "k", ONE, ONE, [x])
    assert x[0] == x.ctypes.data


def test_a_read_only_array_is_not_written():
    x = np.zeros(3, np.int32)
    x.flags.writeable = False
    with pytest.raises(KernelError, match="argument 0, which is read-only"):
        run(one_kernel("int* x", "x[0] = 1;"), "k", [x])
    assert x[0] == 0


def test_a_read_out_of_bounds_gives_nan():
    source = one_kernel("const double* x, double* out", "out[0] = x[-1]; out[1] = x[3];")
    out = np.zeros(2)
    run(source, "k", [np.zeros(3), out])
    assert np.isnan(out).all()


def test_too_little_dynamic_shared_memory_is_reported():
    source = one_kernel("", "extern __shared__ double x[];\nx[threadIdx.x] = 1;")
    run(source, "k", [], block=(32, 1, 1), shared=256)
    with pytest.raises(KernelError, match="past the 248 bytes of dynamic shared memory"):
        run(source, "k", [], block=(32, 1, 1), shared=248)


def test_faults_are_errors_and_no_crash():
    source = one_kernel("int* x, int n", "__syncthreads(); x[threadIdx.x] = 7 / n;")
    with pytest.raises(KernelError, match=r"thread \(0, 0, 0\) touches memory at"):
        run(source, "k", [None, np.int32(1)], block=(2, 1, 1))
    with pytest.raises(KernelError, match="divides an integer by zero"):
        run(source, "k", [np.zeros(2, np.int32), np.int32(0)], block=(2, 1, 1))


def test_null_pointers():
    source = one_kernel("float* x, float* out", "*out = x ? 1 : 2;")
    out = np.zeros(1, np.float32)
    run(source, "k", [None, out])
    assert out[0] == 2


# ---- arguments and limits ------------------------------------------------------------------------

x4 = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([x4, x4, x4], "takes 4 arguments, not 3"),
        ([x4, x4, x4, np.int64(4)], "argument 3 of kernel 'add' is int64, its parameter is int32"),
        ([x4, x4, x4, np.float32(4)], "argument 3 .* is float32, its parameter is int32"),
        ([x4, x4.astype(float), x4, np.int32(4)], "argument 1 .* is a pointer to float64, its"),
        ([x4, np.float64(0), x4, np.int32(4)], "1 .* is float64, its parameter is a pointer to"),
        ([x4, x4, x4, None], "argument 3 .* is a pointer to anything, its parameter is int32"),
    ],
)
def test_arguments_must_match_the_parameters(args, message):
    with pytest.raises(TypeError, match=message):
        run(ADD, "add", args)


def test_every_type_of_scalar():
    source = one_kernel(
        "double* out, int a, long long b, float c, double d, unsigned e, bool f",
        "out[0] = a; out[1] = b; out[2] = c; out[3] = d; out[4] = e; out[5] = f;",
    )
    out = np.zeros(6)
    scalars = [np.int32(-1), np.int64(2**40), np.float32(0.5), np.float64(0.1), np.uint32(2**31)]
    run(source, "k", [out, *scalars, np.True_])
    assert out.tolist() == [-1, 2**40, 0.5, 0.1, 2**31, 1]


def test_strided_arrays_are_refused():
    with pytest.raises(ValueError, match="argument 0 of kernel 'add' is not C-contiguous"):
        run(ADD, "add", [np.zeros(8, np.float32)[::2], x4, x4, np.int32(4)])


@pytest.mark.parametrize(
    ("grid", "block", "shared"),
    [
        ((0, 1, 1), ONE, 0),
        ((2**31, 1, 1), ONE, 0),
        ((1, 65536, 1), ONE, 0),
        ((1, 1, 65536), ONE, 0),
        (ONE, (1025, 1, 1), 0),
        (ONE, (32, 33, 1), 0),
        (ONE, (1, 1, 65), 0),
        (ONE, (1, 0, 1), 0),
        (ONE, ONE, 48 * 1024 + 1),
    ],
)
def test_launch_limits(grid, block, shared):
    with pytest.raises(ValueError, match=r"grid|block|shared"):
        run(ADD, "add", [x4, x4, x4, np.int32(4)], grid=grid, block=block, shared=shared)


def test_the_largest_block():
    out = np.zeros(1024, np.int32)
    body = "__syncthreads(); out[threadIdx.x] = threadIdx.x; __syncthreads();"
    run(one_kernel("int* out", body), "k", [out], block=(1024, 1, 1), shared=48 * 1024)
    np.testing.assert_array_equal(out, np.arange(1024))


def test_a_source_that_does_not_compile_shows_its_line():
    with pytest.raises(KernelError, match=r"kernel\.cu:2:.*'nothing'"):
        run(one_kernel("float* x", "x[0] = nothing;"), "k", [None])


def test_atomics_on_floats_are_refused():
    with pytest.raises(KernelError, match="atomicAdd"):
        run(one_kernel("float* x", "atomicAdd(x, 1.0f);"), "k", [None])


def test_an_unknown_kernel_is_named():
    with pytest.raises(ValueError, match=r"no kernel 'sub' in the source, only \['add'\]"):
        run(ADD, "sub", [])


def test_binaries_are_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKPROP_GPU_HOST_CACHE", str(tmp_path / "cache"))
    source = one_kernel("int* x", f"x[0] = 1; // {tmp_path}")
    script = (
        "import sys, numpy as np; from host.launcher import HostLauncher; x = np.zeros(1, 'i4');"
        "HostLauncher().launch(sys.argv[1], 'k', (1, 1, 1), (1, 1, 1), [x]); assert x[0] == 1"
    )
    command = [sys.executable, "-c", script, source]
    testers = [subprocess.Popen(command, cwd=Path(__file__).parent) for _ in range(2)]
    assert [tester.wait() for tester in testers] == [0, 0]
    (binary,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(launcher_module, "compile_to", None)
    run(source, "k", [np.zeros(1, np.int32)])
    assert [*(tmp_path / "cache").iterdir()] == [binary]


# ---- NVRTC ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [75, 80, 86, 89, 90, 100, 120])
def test_nvrtc_compiles_for_every_architecture(arch, nvrtc):
    assert "registers" in compile_for(ADD, arch, "add")


def test_nvrtc_refuses_a_stack_frame(nvrtc):
    body = "float a[64]; for (int i = 0; i < 64; ++i) a[x[i]] = i; out[0] = a[x[0]];"
    with pytest.raises(
        CompileError, match=r"(?s)walk spills or has a stack frame on sm_90:.*256 b"
    ):
        compile_for(one_kernel("const int* x, float* out", body), 90, "walk")


def test_nvrtc_refuses_spills(nvrtc):
    body = """
    double a[64];
    #pragma unroll
    for (int i = 0; i < 64; ++i) a[i] = x[i * n];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < 64; ++i) x[i * n + 1] = a[63 - i] * a[i];
    """
    source = one_kernel("double* x, int n", body).replace(
        "void k", "void __launch_bounds__(1024) k"
    )
    with pytest.raises(CompileError, match=r"[1-9]\d* bytes spill stores"):
        compile_for(source, 80)


def test_nvrtc_shows_what_does_not_compile(nvrtc):
    with pytest.raises(CompileError, match=r'broken\.cu\(2\): error: identifier "nothing"'):
        compile_for(one_kernel("float* x", "x[0] = nothing;"), 90, "broken")


def test_nvrtc_refuses_a_source_without_kernels(nvrtc):
    with pytest.raises(CompileError, match="names no kernel"):
        compile_for("__device__ int x;", 90)

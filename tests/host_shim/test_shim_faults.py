"""What stands in for a GPU reports divergence and wrong accesses."""

import numpy as np
import pytest
from host.launcher import HostLauncher, KernelError
from one_launch import ADD, ONE, SEEDS, one_kernel, run

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

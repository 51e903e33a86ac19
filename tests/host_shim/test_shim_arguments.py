"""What stands in for a GPU checks arguments, launches and sources."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from host import launcher as launcher_module
from host.launcher import KernelError
from one_launch import ADD, ONE, one_kernel, run

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
        (ONE, ONE, 227 * 1024 + 1),
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
    testers = [subprocess.Popen(command, cwd=Path(__file__).parents[1]) for _ in range(2)]
    assert [tester.wait() for tester in testers] == [0, 0]
    (binary,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(launcher_module, "compile_to", None)
    run(source, "k", [np.zeros(1, np.int32)])
    assert [*(tmp_path / "cache").iterdir()] == [binary]

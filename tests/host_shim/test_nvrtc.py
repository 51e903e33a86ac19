"""NVRTC, on a machine without a GPU: what it compiles, and what is refused."""

import pytest
from host.nvrtc import CompileError, compile_for, nvrtc_unavailable_reason
from one_launch import ADD, one_kernel


@pytest.fixture
def nvrtc():
    if reason := nvrtc_unavailable_reason():
        pytest.skip(reason)


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

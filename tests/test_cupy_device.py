"""What the library asks of CuPy for its graphs, with a stand-in that writes it down."""

import ctypes
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from host.device import cublas_library
from host.needs import needs_gpp

from backprop_gpu.backends import cupy_device


@pytest.fixture
def asked(monkeypatch):
    """What was asked for, in order, of a CuPy that computes nothing."""
    asked = []

    class Stream:
        def __init__(self, non_blocking=False):
            asked.append(f"stream, non_blocking={non_blocking}")

        def __enter__(self):
            asked.append("enter")
            return self

        def __exit__(self, *_):
            asked.append("leave")

        def begin_capture(self):
            asked.append("begin")

        def end_capture(self):
            asked.append("end")
            return SimpleNamespace(launch=lambda: asked.append("launch"))

    cuda = SimpleNamespace(
        Stream=Stream,
        Device=lambda index: nullcontext(),
        get_current_stream=lambda: SimpleNamespace(ptr=7),
        runtime=SimpleNamespace(runtimeGetVersion=lambda: 13020),
    )
    cupy = SimpleNamespace(cuda=cuda, empty=np.empty, uint8=np.uint8)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return asked


def test_calls_are_captured_on_a_stream_of_their_own_and_launched_on_the_current_one(asked):
    launch = cupy_device.capture([lambda: asked.append("first"), lambda: asked.append("second")])
    captured = ["stream, non_blocking=True", "enter", "begin", "first", "second", "end", "leave"]
    assert asked == captured
    launch()
    assert asked == [*captured, "launch"]


def test_a_capture_ends_when_a_call_fails(asked, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        cupy_device.capture([lambda: 1 / 0])
    assert asked[-2:] == ["end", "leave"]

    def invalidated(stream):
        raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(sys.modules["cupy"].cuda.Stream, "end_capture", invalidated)
    with pytest.raises(ZeroDivisionError):
        cupy_device.capture([lambda: 1 / 0])


@needs_gpp
def test_a_gpu_is_opened_with_its_own_products(asked, monkeypatch):
    monkeypatch.setattr(cupy_device, "_libcublas", cublas_library)
    backend = cupy_device.open_gpu.__wrapped__(1, "tf32")
    assert (backend.device, backend.precision) == ("cuda:1", "tf32")
    A, out = np.full((1, 1), 1 + 2.0**-12, np.float32), np.empty((1, 1), np.float32)
    backend.gemm(A, A, out)
    assert out == 1
    assert cublas_library().stand_in_stream() == 7


@pytest.mark.parametrize("shared_bytes", [47 << 10, 200 << 10])
def test_dynamic_shared_memory_is_asked_for(shared_bytes, asked, monkeypatch):
    """Also where it is less than 48 KiB, which it shares with the static arrays of a kernel."""

    class RawKernel(SimpleNamespace):
        def __call__(self, grid, block, args, shared_mem):
            asked.append((self.max_dynamic_shared_size_bytes, shared_mem, args))

    monkeypatch.setattr(sys.modules["cupy"], "RawKernel", lambda *_, **__: RawKernel(), False)
    launcher = cupy_device.RawKernelLauncher()
    launcher.launch("source", "train", (1, 1, 1), (256, 1, 1), [None, np.int64(3)], shared_bytes)
    assert asked == [(shared_bytes, shared_bytes, (0, 3))]


@pytest.mark.parametrize(
    ("platform", "name"), [("linux", "libcublas.so.13"), ("win32", "cublas64_13.dll")]
)
def test_cublas_is_the_one_that_cupy_has_loaded(platform, name, asked, monkeypatch):
    loaded = SimpleNamespace(cublas=asked.append("cublas by CuPy"))
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", loaded)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: path)
    assert cupy_device._libcublas() == name

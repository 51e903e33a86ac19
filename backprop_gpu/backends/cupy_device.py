"""CuPy: the one module that imports it, and that only when a GPU is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from backprop_gpu.arrays import Array
from backprop_gpu.backends.cuda_backend import CudaBackend

INSTALL = (
    'pip install "backprop-gpu[cuda13]" (driver 580 or newer) or "backprop-gpu[cuda12]", never both'
)
DRIVER = (
    "an NVIDIA GPU is needed, and a driver that is new enough for this CuPy: 580 or newer for "
    "backprop-gpu[cuda13], 525 or newer for backprop-gpu[cuda12]"
)
OPTIONS = ("--std=c++17",)


@cache
def unusable(index: int = 0) -> str | None:
    """Return why CUDA device `index` can't be used, with a remedy, or None if it can.

    Looks at one thing after the other, so that the first that is missing is named: CuPy, the
    driver, the device, the compiler (one tiny kernel), cuBLAS (one 2 x 2 product).
    """
    try:
        import cupy
    except Exception as error:
        return f"CuPy can't be imported ({_short(error)}); {INSTALL}"
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except Exception as error:
        return f"CUDA finds no GPU ({_short(error)}); {DRIVER}"
    if count == 0:
        return f"CUDA finds no GPU; {DRIVER}"
    if index >= count:
        return f"there is no CUDA device {index}; the last of {count} is cuda:{count - 1}"
    try:
        with cupy.cuda.Device(index):
            source = 'extern "C" __global__ void two(float* x) { x[0] = 2; }'
            x = cupy.zeros((2, 2), dtype=cupy.float32)
            cupy.RawKernel(source, "two", options=OPTIONS)((1,), (1,), (x,))
            if float(x[0, 0]) != 2:
                return f"a test kernel on CUDA device {index} gave {float(x[0, 0])} in place of 2"
    except Exception as error:
        return f"a test kernel can't be compiled and run ({_short(error)}); {INSTALL}"
    try:
        with cupy.cuda.Device(index):
            if float(cupy.dot(x, x)[0, 0]) != 4:
                return f"a test matrix product on CUDA device {index} is wrong"
    except Exception as error:
        return f"cuBLAS can't be used ({_short(error)}); {INSTALL}"
    return None


@cache
def open_gpu(index: int) -> CudaBackend:
    """Return the backend of a usable CUDA device."""
    import cupy

    return CudaBackend(cupy, RawKernelLauncher(), f"cuda:{index}", lambda: cupy.cuda.Device(index))


class RawKernelLauncher:
    """Launches through CuPy, which compiles a source once and keeps the result on disk."""

    def __init__(self) -> None:
        self._kernels: dict[tuple[str, str], Any] = {}

    def launch(
        self,
        source: str,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: Sequence[Array | np.generic | None],
    ) -> None:
        kernel = self._kernels.get((source, name))
        if kernel is None:
            import cupy

            kernel = cupy.RawKernel(source, name, options=OPTIONS)
            self._kernels[source, name] = kernel
        kernel(grid, block, tuple(np.uint64(0) if arg is None else arg for arg in args))


def describe_gpus() -> list[str]:
    """Return a line for every GPU that CUDA sees."""
    if unusable() is not None:
        return []
    import cupy

    runtime = cupy.cuda.runtime
    lines = []
    for index in range(runtime.getDeviceCount()):
        properties = runtime.getDeviceProperties(index)
        memory = properties["totalGlobalMem"] / 2**30
        lines.append(
            f"cuda:{index}: {properties['name'].decode()}, sm_{properties['major']}"
            f"{properties['minor']}, {memory:.0f} GiB, driver for CUDA "
            f"{runtime.driverGetVersion() // 1000}, CuPy {cupy.__version__}"
        )
    return lines


def _short(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__

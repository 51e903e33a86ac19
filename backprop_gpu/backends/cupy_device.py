"""CuPy: the one module that imports it, and that only when a GPU is asked for."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array, on_gpu
from backprop_gpu.backends.cublas import WORKSPACE, Cublas
from backprop_gpu.backends.cuda_backend import CudaBackend
from backprop_gpu.backends.protocol import Precision
from backprop_gpu.backends.recording import Call
from backprop_gpu.errors import OutOfMemoryError, first_line
from backprop_gpu.text_table import as_bytes

INSTALL = (
    'pip install "backprop-gpu[cuda13]" (driver 580 or newer) or "backprop-gpu[cuda12]", never both'
)
DRIVER = (
    "an NVIDIA GPU is needed, and a driver that is new enough for this CuPy: 580 or newer for "
    "backprop-gpu[cuda13], 525 or newer for backprop-gpu[cuda12]"
)
OPTIONS = ("--std=c++17", "-prec-div=false", "-prec-sqrt=false")
NO_MEMORY = 2  # CUDA's status, of its runtime and of its driver
OF_EACH_THREAD = 2  # CUDA's name for a stream of every thread's own

_capturing = threading.local()  # `turn`, while this thread captures a graph


@cache
def unusable(index: int = 0) -> str | None:
    """Return why CUDA device `index` can't be used, with a remedy, or None if it can.

    Looks at one thing after the other, so that the first that is missing is named: CuPy, the
    driver, the device, the compiler (one tiny kernel), cuBLAS (one 2 x 2 product).
    """
    try:
        import cupy
    except Exception as error:
        return f"CuPy can't be imported ({first_line(error)}); {INSTALL}"
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except Exception as error:
        return f"CUDA finds no GPU ({first_line(error)}); {DRIVER}"
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
        return f"a test kernel can't be compiled and run ({first_line(error)}); {INSTALL}"
    try:
        with cupy.cuda.Device(index):
            if float(cupy.dot(x, x)[0, 0]) != 4:
                return f"a test matrix product on CUDA device {index} is wrong"
    except Exception as error:
        return f"cuBLAS can't be used ({first_line(error)}); {INSTALL}"
    return None


@cache
def open_gpu(index: int, precision: Precision) -> CudaBackend:
    """Return the backend of a usable CUDA device: the same one every time."""
    import cupy

    device = partial(on_device, index)
    workspace = partial(cupy.empty, WORKSPACE, cupy.uint8)
    with device():
        cublas = Cublas(_libcublas(), _streams, workspace, precision)
    return CudaBackend(
        cupy,
        RawKernelLauncher(),
        f"cuda:{index}",
        device,
        multiply=cublas.gemm,
        capture=capture,
        precision=precision,
        uploads=partial(CopyStream, device),
        descend=cublas.descend,
        turn=lambda: _streams()[1],
        send=Sender(),
    )


@contextmanager
def on_device(index: int) -> Iterator[None]:
    """Let CuPy use a device meanwhile; that its memory runs out is said in the library's words."""
    import cupy

    with cupy.cuda.Device(index):
        try:
            yield
        except (cupy.cuda.memory.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and getattr(error, "status", 0) != NO_MEMORY:
                raise
            free, total = cupy.cuda.runtime.memGetInfo()
            raise OutOfMemoryError(
                f"cuda:{index} has too little memory: {str(error).rstrip('.')}; {as_bytes(free)} "
                f"of {as_bytes(total)} are free. Take fewer samples at a time, by batch_size or as "
                "parts of x, or a smaller network, or free what else is on the GPU"
            ) from error


def capture(calls: Sequence[Call]) -> Call:
    """Make a CUDA graph of what calls ask of the device; they must not allocate there, or wait.

    It is captured on a stream of its own, and launched on the stream that is current then.
    """
    import cupy

    _capturing.turn = _streams()[1]
    try:
        with cupy.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                for call in calls:
                    call()
            except BaseException:
                with suppress(Exception):  # it would say no more than that something has failed
                    stream.end_capture()
                raise
            graph = stream.end_capture()
    finally:
        del _capturing.turn
    launch: Call = graph.launch
    return launch


class Sender:
    """Copies from the CPU, on the current stream, and waits for nothing.

    From memory that is not page-locked CUDA may wait for the stream before it copies, or read
    after it has returned.
    """

    def __init__(self) -> None:
        self._under_way: deque[tuple[Any, NDArray[Any]]] = deque()
        self._lock = threading.Lock()

    def __call__(self, values: NDArray[Any], out: Array) -> None:
        import cupy
        import cupyx

        locked = cupyx.empty_pinned(out.shape, out.dtype)
        locked[...] = values
        out.set(locked)
        copied = cupy.cuda.get_current_stream().record(cupy.cuda.Event(disable_timing=True))
        with self._lock:
            self._under_way.append((copied, locked))
            while self._under_way and self._under_way[0][0].done:
                self._under_way.popleft()


class CopyStream:
    """`Uploads` on a stream of their own, from page-locked memory.

    What computes is the stream that is current where this is made: it owns the memory on the
    device, so that nobody gets it again before that stream has done with it.

    Parameters
    ----------
    on_device : callable
        Returns a context in which CuPy uses the device.
    """

    def __init__(self, on_device: Callable[[], AbstractContextManager[Any]]) -> None:
        import cupy

        self._on_device = on_device
        self._computing = cupy.cuda.get_current_stream()
        if self._computing.ptr == OF_EACH_THREAD:
            # By that name, the thread that reads the data would find its own. The null stream waits
            # for every thread's, and is waited for by them.
            self._computing = cupy.cuda.Stream.null
        self._copying = cupy.cuda.Stream(non_blocking=True)

    def memory(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Array]:
        import cupy
        import cupyx

        with self._on_device(), self._computing:
            return cupyx.empty_pinned(shape, dtype), cupy.empty(shape, dtype)

    def mark(self) -> Any:
        with self._on_device():
            return self._computing.record()

    def upload(self, values: Array, device: Array, after: Any) -> None:
        import cupy

        with self._on_device():
            self._copying.wait_event(after)
            if on_gpu(values):
                self._copying.wait_event(cupy.cuda.get_current_stream().record())
                with self._copying:
                    device[...] = values
            else:
                device.set(values, self._copying)
            self._copying.synchronize()


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
        shared_bytes: int = 0,
    ) -> None:
        kernel = self._kernels.get((source, name))
        if kernel is None:
            import cupy

            kernel = cupy.RawKernel(source, name, options=OPTIONS)
            self._kernels[source, name] = kernel
        if shared_bytes:  # unless asked for, a block has 48 KiB of it, with what is static
            kernel.max_dynamic_shared_size_bytes = shared_bytes
        values = tuple(np.uint64(0) if arg is None else arg for arg in args)
        kernel(grid, block, values, shared_mem=shared_bytes)


def _libcublas() -> ctypes.CDLL:
    """Return the cuBLAS that CuPy uses, from wherever CuPy has found it."""
    import cupy
    from cupy_backends.cuda.libs import cublas  # noqa: F401  loads it

    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    windows = sys.platform == "win32"
    return ctypes.CDLL(f"cublas64_{major}.dll" if windows else f"libcublas.so.{major}")


def _streams() -> tuple[int, int]:
    """Return the current stream, and the one that is current where a graph will be launched."""
    import cupy

    stream = int(cupy.cuda.get_current_stream().ptr)
    turn = -threading.get_ident() if stream == OF_EACH_THREAD else stream
    return stream, getattr(_capturing, "turn", turn)


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

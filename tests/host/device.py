"""On the CPU, what of a CUDA device matters for graphs, and what stands for vendors' libraries."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backprop_gpu.backends.cublas import WORKSPACE, Cublas
from backprop_gpu.backends.cuda_backend import CudaBackend

from .launcher import HostLauncher, compiled


class CaptureError(RuntimeError):
    """Something was done that a stream refuses while it is captured."""


class StandInDevice:
    """Takes a `CudaBackend`'s kernels and matrix products.

    While a stream is captured they are written down, with their arguments as they are then;
    launching the graph runs them. The array module refuses to work meanwhile.

    Attributes
    ----------
    launches, allocations : int
        How many kernels and products were asked for one by one, and how many arrays.
    graphs : list of int
        How many kernels and products each graph has.
    graph_launches : int
    """

    def __init__(self) -> None:
        self._launcher = HostLauncher(guard=False)
        self._captured: list[Callable[[], None]] | None = None
        self.launches = self.allocations = self.graph_launches = 0
        self.graphs: list[int] = []

    def backend(
        self,
        multiply: Any = np.dot,
        capture: Any = None,
        precision: Any = "float32",
        descend: Any = None,
    ) -> CudaBackend:
        def asking(work: Any) -> Any:
            return work and (lambda *args: self._ask(lambda: work(*args)))

        return CudaBackend(
            *(Refusing(self), self, "cuda:0", lambda: np.errstate(all="ignore")),
            multiply=asking(multiply),
            capture=capture or self.capture,
            precision=precision,
            descend=asking(descend),
        )

    def launch(self, *args: Any) -> None:
        self._ask(lambda: self._launcher.launch(*args))

    def _ask(self, work: Callable[[], None]) -> None:
        if self._captured is None:
            self.launches += 1
            work()
        else:
            self._captured.append(work)

    def capture(self, calls: Sequence[Callable[[], None]]) -> Callable[[], None]:
        captured: list[Callable[[], None]] = []
        self._captured = captured
        try:
            for call in calls:
                call()
        finally:
            self._captured = None
        self.graphs.append(len(captured))

        def launch() -> None:
            self.graph_launches += 1
            for work in captured:
                work()

        return launch

    def allocating(self, name: str) -> None:
        if self._captured is not None:
            raise CaptureError(f"xp.{name} while the stream is captured")
        self.allocations += name.startswith("empty")


class Refusing:
    """NumPy in CuPy's place; tells the device of every function that is taken from it."""

    def __init__(self, device: StandInDevice) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        if name == "cuda":
            raise AttributeError(name)
        self._device.allocating(name)
        return getattr(np, name)


@functools.cache
def stand_in_library(source: str) -> ctypes.CDLL:
    """Compile what stands for a vendor's library, once; the rest of its folder is a part of it."""
    file = Path(__file__).parent / source
    included = [file, *sorted(file.parent.glob("*.hpp"))]
    library = compiled(f'#include "{file}"', "-pthread", "-Wall", "-Werror", included=included)
    return ctypes.CDLL(str(library))


def cublas_library() -> ctypes.CDLL:
    library = stand_in_library("gpu/cublas.cpp")
    for name in ("stand_in_stream", "stand_in_workspace"):
        getattr(library, name).restype = ctypes.c_void_p
    library.stand_in_products.restype = ctypes.c_long
    return library


def stand_in_cublas(precision: Any = "float32", stream: Callable[[], int] = lambda: 0) -> Cublas:
    def workspace() -> Any:
        return np.empty(WORKSPACE, np.uint8)

    return Cublas(cublas_library(), lambda: (stream(), stream()), workspace, precision)

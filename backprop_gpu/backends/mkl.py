"""Matrix products on the CPU by Intel's MKL, where it is installed (extra ``mkl``).

On Intel's processors it is faster with large matrices than the BLAS that NumPy has, and it can
update a matrix in one with the product that is added to it. The functions are those of its C
interface, by ctypes.
"""

from __future__ import annotations

import os
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import CDLL, Structure, c_double, c_float, c_int, c_void_p, cast
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from backprop_gpu.arrays import Array
from backprop_gpu.backends.recording import Call

OPENMP = "libiomp5.so"  # whose threads are MKL's

# Of mkl_cblas.h and mkl_service.h.
ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112
THREADS_OF_INTEL = 0

INTEL = "GenuineIntel"  # what a processor says of itself


class Team(Structure):
    """MKL's threads, for other work; see kernels/team.hpp."""

    _fields_: ClassVar = [(name, c_void_p) for name in ("parallel", "number", "count", "allowed")]


class Mkl:
    """Multiplies matrices; a product is made a call that can be repeated.

    Parameters
    ----------
    library : ctypes.CDLL
        libmkl_rt.
    openmp : ctypes.CDLL, optional
        What MKL has its threads from.

    Attributes
    ----------
    team : Team or None
        These threads.
    """

    def __init__(self, library: Any, openmp: Any = None) -> None:
        self._library = library
        self.team: Team | None = None
        if openmp is not None:
            functions = (
                *(openmp.GOMP_parallel, openmp.omp_get_thread_num, openmp.omp_get_num_threads),
                library.MKL_Get_Max_Threads,
            )
            self.team = Team(*(cast(function, c_void_p) for function in functions))
        self._functions = {}
        for dtype, name, real in (("float32", "s", c_float), ("float64", "d", c_double)):
            function = getattr(library, f"cblas_{name}gemm")
            matrix = c_void_p, c_int
            function.argtypes = [*[c_int] * 6, real, *matrix, *matrix, real, *matrix]
            function.restype = None
            self._functions[dtype] = function
        self._most_threads = library.MKL_Get_Max_Threads()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._be_alone)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_mkl, ()  # the process's own; None where it is not installed

    def gemm(self, A: Array, B: Array, out: Array) -> Call:
        """Return what makes out = A B; see `Backend.gemm`."""
        before, between, after = self._arguments(A, B, out)
        return partial(self._functions[out.dtype.name], *before, 1.0, *between, 0.0, *after)

    def descend(self, A: Array, B: Array, W: Array, numbers: Array) -> Call:
        """Return what makes W = numbers[3] W + numbers[2] A B; see `Backend.descend`."""
        before, between, after = self._arguments(A, B, W)
        function, number = self._functions[W.dtype.name], numbers.item

        def call() -> None:
            function(*before, number(2), *between, number(3), *after)

        return call

    @contextmanager
    def on_threads(self, count: int | None) -> Iterator[None]:
        """Let MKL have so many threads for the products of this thread; None: all there are."""
        most = self._most_threads
        before = self._library.MKL_Set_Num_Threads_Local(min(count or most, most))
        try:
            yield
        finally:
            self._library.MKL_Set_Num_Threads_Local(before)

    def _be_alone(self) -> None:
        """Take no other threads: those that were there before a fork would be waited for."""
        self._most_threads = 1

    def _arguments(self, A: Array, B: Array, out: Array) -> tuple[tuple[Any, ...], ...]:
        """Return cblas_gemm's arguments before alpha, between it and beta, and after beta."""
        (rows, columns), depth = out.shape, A.shape[1]
        (A_is, *A_at), (B_is, *B_at), (_, *out_at) = (_matrix(X) for X in (A, B, out))
        return (ROW_MAJOR, A_is, B_is, rows, columns, depth), (*A_at, *B_at), tuple(out_at)


def _matrix(X: Array) -> tuple[int, c_void_p, int]:
    """Return whether X is a transpose, its address, which keeps it alive, and its row's length."""
    address = X.ctypes.data_as(c_void_p)
    return (NO_TRANS, address, X.shape[1]) if X.flags.c_contiguous else (TRANS, address, X.shape[0])


@cache
def is_intels() -> bool:
    """Return whether the processor is Intel's."""
    with suppress(OSError):
        return INTEL in Path("/proc/cpuinfo").read_text()
    return INTEL in platform.processor()


@cache
def open_mkl() -> Mkl | None:
    """Return MKL, or None if it is not installed; warn if it is and can't be loaded."""
    try:
        files = metadata.distribution("mkl").files or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if re.fullmatch(r"libmkl_rt\.so\.\d+|mkl_rt\.\d+\.dll", file.name):
            try:
                path = Path(str(file.locate()))
                library = CDLL(str(path))
                library.MKL_Set_Threading_Layer(THREADS_OF_INTEL)
                openmp = path.with_name(OPENMP)
                return Mkl(library, CDLL(str(openmp)) if openmp.exists() else None)
            except (OSError, AttributeError) as error:
                warnings.warn(
                    f"MKL is installed and can't be used ({error}); NumPy multiplies matrices "
                    "instead, with the same result",
                    RuntimeWarning,
                    stacklevel=2,
                )
    return None

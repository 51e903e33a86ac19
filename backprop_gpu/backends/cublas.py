"""Matrix products by cuBLAS, called so that a CUDA graph can take them up.

CuPy refuses its own products while a stream is captured. cuBLAS itself does not mind, if it is
given its workspace: the functions here are those of NVIDIA's C interface, by ctypes.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import byref, c_double, c_float, c_int, c_size_t, c_void_p
from threading import Lock
from typing import Any

from backprop_gpu.arrays import Array
from backprop_gpu.backends.protocol import Precision
from backprop_gpu.errors import DeviceError

WORKSPACE = 32 << 20  # bytes; what NVIDIA recommends for Hopper

# Of cublas_api.h and library_types.h.
OP_N, OP_T = 0, 1
CUDA_R_32F, CUDA_R_64F, CUDA_R_16BF = 0, 1, 14
COMPUTE_64F = 70
COMPUTE_32F: dict[Precision, int] = {"float32": 68, "bf16": 75, "tf32": 77}
DEFAULT_ALGORITHM = -1
POINTERS_TO_HOST, POINTERS_TO_DEVICE = 0, 1
STATUS = {
    1: "not initialized",
    3: "allocation failed",
    7: "invalid value",
    8: "architecture mismatch",
    11: "mapping error",
    13: "execution failed",
    14: "internal error",
    15: "not supported",
    16: "license error",
}


class Cublas:
    """Multiplies matrices on one device.

    Parameters
    ----------
    library : ctypes.CDLL
        libcublas.
    streams : callable () -> (int, int)
        Returns the stream that the device works on now, and the one whose turn that work awaits:
        another where a graph is captured.
    allocate : callable () -> array
        Returns WORKSPACE bytes on the device. cuBLAS needs them on each stream, as two of them
        may compute at the same time.
    precision : {"float32", "tf32", "bf16"}
        What float32 entries are rounded to before they are multiplied, on tensor cores; sums are
        float32 all the same, and float64 is not touched.
    """

    def __init__(
        self,
        library: Any,
        streams: Callable[[], tuple[int, int]],
        allocate: Callable[[], Array],
        precision: Precision = "float32",
    ) -> None:
        self._library, self._streams, self._allocate = library, streams, allocate
        self._workspaces: dict[int, Array] = {}
        self._bound_to: tuple[int, int] | None = None
        self._handle = c_void_p()
        self._lock = Lock()  # a handle has one stream and one pointer mode for all threads
        self._check("cublasCreate_v2", byref(self._handle))
        # By the factors' dtype: the code of the entries, that of the arithmetic.
        self._types = {
            "float32": (CUDA_R_32F, COMPUTE_32F[precision]),
            "float64": (CUDA_R_64F, COMPUTE_64F),
            "uint16": (CUDA_R_16BF, COMPUTE_32F["float32"]),
        }
        self._one_and_zero = {
            "float32": (byref(c_float(1)), byref(c_float(0))),
            "float64": (byref(c_double(1)), byref(c_double(0))),
        }

    def gemm(self, A: Array, B: Array, out: Array) -> None:
        """out = A B, as `Backend.gemm`.

        cuBLAS reads a matrix column by column, so what is X here is X^T there, with as many
        entries from one of its columns to the next as X has columns. Hence it is asked for
        out^T = B^T A^T, and is told to transpose those that are a transpose here.

        Factors of uint16 hold the bits of bfloat16, for which NumPy has no dtype; `out` is float32.
        """
        with self._lock:
            self._gemm(A, B, out, *self._one_and_zero[out.dtype.name])

    def descend(self, A: Array, B: Array, W: Array, numbers: Array) -> None:
        """W = numbers[3] W + numbers[2] A B, as `Backend.descend`.

        cuBLAS reads the two numbers on the device when it multiplies, so that a graph of the call
        serves every learning rate.
        """
        alpha, beta = (c_void_p(_address(numbers[i:])) for i in (2, 3))
        with self._lock:
            self._check("cublasSetPointerMode_v2", self._handle, c_int(POINTERS_TO_DEVICE))
            try:
                self._gemm(A, B, W, alpha, beta)
            finally:
                self._check("cublasSetPointerMode_v2", self._handle, c_int(POINTERS_TO_HOST))

    def _gemm(self, A: Array, B: Array, out: Array, alpha: Any, beta: Any) -> None:
        factors, arithmetic = self._types[A.dtype.name]
        entries, _ = self._types[out.dtype.name]
        rows, columns = out.shape
        self._bind()
        self._check(
            "cublasGemmEx",
            self._handle,
            _operation(B),
            _operation(A),
            c_int(columns),
            c_int(rows),
            c_int(A.shape[1]),
            alpha,
            *_matrix(B, factors),
            *_matrix(A, factors),
            beta,
            *_matrix(out, entries),
            c_int(arithmetic),
            c_int(DEFAULT_ALGORITHM),
        )

    def close(self) -> None:
        """Give back what cuBLAS holds."""
        if self._handle:
            self._check("cublasDestroy_v2", self._handle)
            self._handle = c_void_p()
            self._workspaces.clear()

    def _bind(self) -> None:
        """Let cuBLAS work on the stream; whenever that is another, it forgets its workspace."""
        streams = stream, turn = self._streams()
        if streams == self._bound_to:
            return
        if turn not in self._workspaces:
            self._workspaces[turn] = self._allocate()
        workspace = self._workspaces[turn]
        self._bound_to = None
        self._check("cublasSetStream_v2", self._handle, c_void_p(stream))
        place = c_void_p(_address(workspace)), c_size_t(workspace.nbytes)
        self._check("cublasSetWorkspace_v2", self._handle, *place)
        self._bound_to = streams

    def _check(self, function: str, *args: Any) -> None:
        status = getattr(self._library, function)(*args)
        if status:
            raise DeviceError(
                f"cuBLAS: {function} failed with status {status}, {STATUS.get(status, 'unknown')}"
            )


def _operation(X: Array) -> c_int:
    return c_int(OP_N if X.flags.c_contiguous else OP_T)


def _matrix(X: Array, entries: int) -> tuple[c_void_p, c_int, c_int]:
    """Return the address of X, the code of its entries, and its leading dimension."""
    step = X.shape[1] if X.flags.c_contiguous else X.shape[0]
    return c_void_p(_address(X)), c_int(entries), c_int(step)


def _address(array: Array) -> int:
    return int(array.data.ptr if hasattr(array.data, "ptr") else array.ctypes.data)

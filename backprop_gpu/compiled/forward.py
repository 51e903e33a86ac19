"""A forward pass that is one call: made for one network, with the parameters it has then."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import weight_count
from backprop_gpu.compiled.compiler import load, zeros
from backprop_gpu.compiled.loop import FEW_BYTES, Floats, why_no_library
from backprop_gpu.compiled.source import MOST_THREADS, prediction_source
from backprop_gpu.compiled.threads import worth_waking
from backprop_gpu.errors import DomainError, check_count
from backprop_gpu.expressions import missing_function

MOST_FLOPS = 5e10  # of one call, half a second or so: it can't be interrupted


def why_not(
    layer_sizes: Sequence[int], activations: Sequence[Activation], dtype: Any
) -> str | None:
    """Return why `CompiledForward` can't compute this, in a sentence; None if it can."""
    return why_no_library(layer_sizes, dtype) or missing_function(activations)


def worth_it(layer_sizes: Sequence[int], dtype: Any, *, mkl: bool = False) -> bool:
    """Return whether the compiled pass is faster than NumPy with its BLAS, or with MKL."""
    # The time of net(x) over the predictor's, one thread each, for so many samples:
    #                           MB of weights      1      8     64   1024
    #     5-3-5-4             float64    0.0      3.7    4.3    4.1    3.4
    #     64-128-128-10       float32    0.1      3.1    3.5    2.2    2.7
    #     128-256-256-1       float32    0.4      2.5    4.7    1.8    1.9
    #     784-256-10          float32    0.8      2.3    4.1    1.5    1.1
    #     784-256-10          float64    1.6      1.7    2.1    1.2    1.1
    #     512-512-512         float32    2.0      1.6    4.0    1.5    1.1
    #     784-1024-10         float32    3.1      1.4    3.6    1.5    1.1
    #     512-512-512         float64    4.0      1.3    2.8    1.3    1.1
    #     784-1024-1024-10    float32    7.4      1.2    3.9    1.4    1.1
    # Two threads each, with many samples and with one: 784-2048-2048-10 1.2 and 0.9,
    # 2048-4096-4096-2048 1.1 to 1.3 and 0.9. (A fourth-generation EPYC, 23 November 2026; the table
    # is of before W^T lay in panels.)
    return not mkl or weight_count(layer_sizes) * int(np.dtype(dtype).itemsize) <= FEW_BYTES


class CompiledForward:
    """Forward passes, each one call of a library compiled for the network, or found in the cache.

    The call holds no lock of Python's, and nothing but its arguments is written: threads may run
    the same pass at once.

    Parameters
    ----------
    layer_sizes : sequence of int
        Nodes in every layer, the input's first.
    activations : sequence of Activation
        One for every layer but the input.
    parameters : ndarray, shape (size,)
        All weights, layer by layer, then all biases: float32 or float64. They have to stay as they
        are.
    threads : int
        How many share the samples, at most. It changes no bit of what comes out.

    Raises
    ------
    DomainError
        If `why_not` has a reason.
    CompileError
        With what the compiler says.
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activations: Sequence[Activation],
        parameters: Floats,
        threads: int = 1,
    ) -> None:
        self.dtype = parameters.dtype
        self.threads = min(check_count("threads", threads), MOST_THREADS)
        reason = why_not(layer_sizes, activations, self.dtype)
        if reason is not None:
            raise DomainError(f"there is no compiled forward pass: {reason}")
        self._inputs, self._outputs = layer_sizes[0], layer_sizes[-1]
        self._flops = 2.0 * weight_count(layer_sizes)
        self._most = max(1, int(MOST_FLOPS / self._flops))
        self._parameters = parameters
        library = load(prediction_source(layer_sizes, activations, self.dtype.name))
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        library.transposed_size.restype = integer
        library.freeze.argtypes = [pointer, pointer]
        self._predict = library.predict
        self._predict.argtypes = [*[pointer] * 4, integer, ctypes.c_int]
        self._transposed = zeros(library.transposed_size())
        self._frozen = self._parameters.ctypes.data, self._transposed.ctypes.data
        library.freeze(*self._frozen)

    def run(self, x: Any) -> Floats | None:
        """Return the prediction for x, shape (n, outputs).

        Parameters
        ----------
        x : ndarray, shape (n, inputs)
            Of the parameters' dtype, C-contiguous and finite; for anything else, return None.

        Raises
        ------
        MemoryError
        """
        if (
            type(x) is not np.ndarray
            or x.dtype != self.dtype
            or x.ndim != 2
            or x.shape[1] != self._inputs
            or not (x.size and x.flags.c_contiguous)
        ):
            return None
        output = np.empty((len(x), self._outputs), self.dtype)
        for start in range(0, len(x), self._most):
            rows = slice(start, start + self._most)
            if not self._run(x[rows], output[rows]):
                return None
        return output

    def _run(self, x: Floats, output: Floats) -> bool:
        threads = worth_waking(len(x) * self._flops, self.threads)
        arrays = *self._frozen, _address(x), _address(output)
        found: int = self._predict(*arrays, len(x), threads)
        if found < 0:
            raise MemoryError("there is too little memory for the compiled forward pass")
        return found > 0


def _address(array: Any) -> Any:
    """Return what ctypes passes on as the array's address."""
    if array.flags.writeable:  # in a third of the time
        return ctypes.byref(ctypes.c_char.from_buffer(array))
    return array.ctypes.data

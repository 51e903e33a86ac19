"""The elementwise work of training steps in C++: an operation is one pass through its arrays.

NumPy makes a pass for every call, and Adam's update is 14 of them. Products stay those of NumPy's
BLAS, or MKL's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import CDLL, byref, c_int64, c_void_p
from typing import Any

import numpy as np

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend
from backprop_gpu.backends.mkl import Mkl
from backprop_gpu.backends.numpy_backend import NumpyRecording
from backprop_gpu.compiled.compiler import load
from backprop_gpu.compiled.source import layer_source, output_source, update_source
from backprop_gpu.expressions import SLOTS
from backprop_gpu.losses import Loss
from backprop_gpu.optimizers import Optimizer


class FusedOperations:
    """What records steps of some entries as calls of libraries, compiled now or before.

    An entry has a library of its own, which serves every network. What has no C++ expression is
    done by NumPy.

    Parameters
    ----------
    activations : sequence of Activation
        One for every layer but the input.
    loss : Loss, optional
    optimizer : Optimizer, optional
    dtype : dtype

    Raises
    ------
    CompileError
        With what the compiler says.
    """

    def __init__(
        self,
        activations: Sequence[Activation],
        loss: Loss | None,
        optimizer: Optimizer | None,
        dtype: np.dtype[Any],
    ) -> None:
        self.layers = {g: _library(layer_source(g, dtype.name)) for g in dict.fromkeys(activations)}
        self.output = loss and _library(output_source(activations[-1], loss, dtype.name))
        self.optimizer = optimizer and _library(update_source(optimizer, dtype.name))

    def record(self, backend: Backend, work: Callable[[Any], None]) -> Callable[[], None]:
        """Return what does `work(backend)`, of a backend on the CPU; see `Backend.record`."""
        return _FusedRecording(self, getattr(backend, "mkl", None)).of(work)


class _FusedRecording(NumpyRecording):
    """Writes down one call where NumPy makes several."""

    def __init__(self, fused: FusedOperations, mkl: Mkl | None) -> None:
        super().__init__(mkl)
        self._fused = fused
        self._team = None if mkl is None or mkl.team is None else byref(mkl.team)

    def bias_activation(self, z: Array, b: Array, activation: Activation, a: Array) -> None:
        library = self._fused.layers[activation]
        if library is None:
            super().bias_activation(z, b, activation, a)
        else:
            self._call(library.bias_activation, self._team, *_places(z, b, a), *_sizes(*z.shape))

    def delta(
        self,
        dC_da: Array,
        activation: Activation,
        reference: Array,
        delta: Array,
        dC_db: Array,
    ) -> None:
        library = self._fused.layers[activation]
        if library is None:
            super().delta(dC_da, activation, reference, delta, dC_db)
            return
        arrays = dC_da, reference, delta, dC_db, np.empty_like(dC_db)
        self._call(library.delta, self._team, *_places(*arrays), *_sizes(*delta.shape))

    def output_delta(
        self,
        loss: Loss,
        activation: Activation,
        z: Array,
        a: Array,
        y: Array,
        C: Array,
        dC_da: Array | None = None,
        delta: Array | None = None,
    ) -> None:
        library = self._fused.output
        if library is None or delta is None or dC_da is not delta:
            super().output_delta(loss, activation, z, a, y, C, dC_da, delta)
            return
        terms = np.empty(a.shape[1], a.dtype)
        self._call(library.output_delta, *_places(z, a, y, C, delta, terms), *_sizes(*a.shape))

    def update(
        self,
        optimizer: Optimizer,
        parameters: Array,
        gradient: Array,
        state: Sequence[Array],
        numbers: Array,
        decayed: int,
    ) -> None:
        library = self._fused.optimizer
        if library is None:
            super().update(optimizer, parameters, gradient, state, numbers, decayed)
            return
        arrays = (
            *_places(parameters, gradient, *state),
            *[None] * (SLOTS - len(state)),
            *_places(numbers),
        )
        self._call(library.update, self._team, *arrays, *_sizes(parameters.size, decayed))


def _library(source: str | None) -> CDLL | None:
    return None if source is None else load(source)


def _places(*arrays: Array) -> list[c_void_p]:
    """Return the arrays' addresses, which keep them alive."""
    return [array.ctypes.data_as(c_void_p) for array in arrays]


def _sizes(*sizes: int) -> list[c_int64]:
    return list(map(c_int64, sizes))

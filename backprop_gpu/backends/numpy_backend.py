"""The NumPy backend: the specification of what every backend computes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from backprop_gpu.arrays import Array, on_gpu
from backprop_gpu.errors import DeviceError

if TYPE_CHECKING:
    from backprop_gpu.activations import Activation
    from backprop_gpu.losses import Loss
    from backprop_gpu.optimizers import Optimizer

# Elementwise work goes through an array in pieces that stay in a core's cache from one pass to
# the next: 256 KiB of float32. Measured best between 2^14 and 2^18 entries.
TILE = 1 << 16


# In a step of fewer FLOPs than this, BLAS's second thread costs more than it saves; on a machine
# that does other things, too, it costs many times as much, because the threads wait spinning.
SMALL = 5e7


class _OneThread:
    """Keeps BLAS on one thread while anybody is inside: its setting is the whole process's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            if self._inside == 1 and (blas := _blas()) is not None:
                self._limit = blas.limit(limits=1)
        try:
            with np.errstate(all="ignore"):
                yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0 and self._limit is not None:
                    self._limit.restore_original_limits()
                    self._limit = None


_quietly_on_one_thread = _OneThread()


@cache  # looking for the library takes as long as many small steps
def _blas() -> Any:
    """Return what limits NumPy's BLAS; without threadpoolctl, None: BLAS does as it likes."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController().select(user_api="blas")


def tiles(array: Array) -> list[slice]:
    """Return slices of rows that hold about TILE entries each."""
    step = max(1, TILE * len(array) // array.size)
    return [slice(start, start + step) for start in range(0, len(array), step)]


class NumpyBackend:
    """Arrays are `numpy.ndarray`, on the CPU."""

    device = "cpu"
    xp = np

    def computing(self, flops: float = math.inf) -> AbstractContextManager[Any]:
        return _quietly_on_one_thread() if flops < SMALL else np.errstate(all="ignore")

    def asarray(self, values: Any, dtype: np.dtype[Any]) -> Array:
        if on_gpu(values):
            raise DeviceError(
                f"an array ({type(values).__name__}) is in GPU memory and the network on the CPU; "
                "bring the array to the CPU first, or build the network with device='cuda'"
            )
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes an infinity
            return np.ascontiguousarray(values, dtype=dtype)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return np.empty(shape, dtype)

    def gemm(self, A: Array, B: Array, out: Array) -> None:
        A.dot(B, out)  # half the call overhead of np.dot

    def bias_activation(self, z: Array, b: Array, activation: Activation, a: Array) -> None:
        if z.size > TILE and len(z) > 1:
            for rows in tiles(z):
                self.bias_activation(z[rows], b, activation, a[rows])
            return
        z += b
        a[...] = activation.function(np, z)

    def delta(
        self,
        dC_da: Array,
        activation: Activation,
        reference: Array,
        delta: Array,
        dC_db: Array | None = None,
    ) -> None:
        if delta.size > TILE and len(delta) > 1:
            for rows in tiles(delta):
                self.delta(dC_da[rows], activation, reference[rows], delta[rows])
        else:
            activation.delta(np, dC_da, reference, delta)
        if dC_db is not None:
            self.column_sum(delta, dC_db)

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
        loss.output_delta(np, activation, z, a, y, C, dC_da, delta)

    def column_sum(self, array: Array, out: Array) -> None:
        if array.size <= TILE:
            np.add.reduce(array, 0, None, out)
            return
        out[...] = 0
        for rows in tiles(array):  # a sum of sums: shorter chains of rounding errors
            out += np.add.reduce(array[rows])

    def gather(self, rows: Array, index: Array, out: Array) -> None:
        np.take(rows, index, axis=0, out=out, mode="clip")  # "raise" would copy once more

    def update(
        self,
        optimizer: Optimizer,
        parameters: Array,
        gradient: Array,
        state: Sequence[Array],
        learning_rate: float,
        step: int,
        decayed: int,
    ) -> None:
        if parameters.size <= TILE:
            optimizer.update(np, parameters, gradient, state, learning_rate, step, decayed)
            return
        for part in tiles(parameters):
            slots = [slot[part] for slot in state]
            weights = max(0, decayed - part.start)
            optimizer.update(
                np, parameters[part], gradient[part], slots, learning_rate, step, weights
            )

    def synchronize(self) -> None:
        pass

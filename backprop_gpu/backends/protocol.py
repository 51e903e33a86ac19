"""What a backend is: where arrays live, and the steps of backpropagation on them.

NumPy's backend is the specification. A test holds every other one to its signatures and results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array, ArrayModule
from backprop_gpu.backends.uploads import Uploads
from backprop_gpu.losses import Loss
from backprop_gpu.optimizers import Optimizer

Precision = Literal["float32", "tf32", "bf16"]


class Backend(Protocol):
    """The operations that `network` and `training` are written with.

    Every array argument is C-contiguous (or, for `gemm`, the transpose of such an array), on the
    backend's device, and of one dtype. Results go into arrays that the caller owns.
    """

    @property
    def device(self) -> str:
        """The device's name: "cpu", "cuda:0", ..."""

    @property
    def xp(self) -> ArrayModule:
        """The array module, for what no method here does."""

    @property
    def precision(self) -> Precision:
        """How `gemm` takes float32."""

    @property
    def threads(self) -> int | None:
        """How many threads may compute on the CPU, at most; None leaves it open."""

    def computing(self, flops: float = math.inf) -> AbstractContextManager[Any]:
        """Return a context to compute in: on the right device, infinities arising quietly.

        `flops` is the work of one of many steps; small ones are not worth waking a thread for.
        """

    def asarray(self, values: Any, dtype: np.dtype[Any]) -> Array:
        """Bring values to the device, C-contiguous, in dtype; no copy if that is what they are."""

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """Bring an array to the CPU, and wait until it is computed."""

    def write(self, values: np.ndarray[Any, Any], out: Array) -> None:
        """out = values, which are on the CPU; those too large for its dtype become infinite."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Allocate an array, uninitialised."""

    def gemm(self, A: Array, B: Array, out: Array) -> None:
        """out = A B."""

    def descends(self, flops: float) -> bool:
        """Return whether `descend` is faster than `gemm` and `update`, in a step of such work."""

    def descend(self, A: Array, B: Array, W: Array, numbers: Array) -> None:
        """W = numbers[3] W + numbers[2] A B: plain gradient descent, in one with its gradient.

        `numbers` are those of `update`.
        """

    def bias_activation(self, z: Array, b: Array, activation: Activation, a: Array) -> None:
        """z += b; a = g(z). If `a` is `z`, only a is kept."""

    def delta(
        self,
        dC_da: Array,
        activation: Activation,
        reference: Array,
        delta: Array,
        dC_db: Array,
    ) -> None:
        """delta = dC/da * g' (equation 2); dC/db = sum of delta over the samples (equation 3).

        `reference` is a or z, as the activation's `derivative_from` says. `delta` may be `dC_da`
        or `reference`.
        """

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
        """C = (1/n) sum_i C_i, shape (1,); dC/da of it (equation 1); delta (equation 2).

        What is None is not computed. `delta` may be `dC_da`, or `a`, which are then lost. `z` is
        read only where the loss is canonical for the activation, or where g' needs it.
        """

    def penalize(self, C: Array, weights: Array, numbers: Array) -> None:
        """C += numbers[1] / 2 * sum of weights^2, whose factor is the weight decay of `update`."""

    def clip_values(self, gradient: Array, limit: float) -> None:
        """Clip every number of a flat gradient to [-limit, limit], in place."""

    def clip_norm(self, gradient: Array, limit: float) -> None:
        """Scale a flat gradient down to a norm of `limit`, in place, if it has a larger one.

        A number that is not finite makes others so.
        """

    def column_sum(self, array: Array, out: Array) -> None:
        """out[j] = sum_i array[i, j], in an order that the shape alone decides."""

    def gather(self, rows: Array, index: Array, out: Array) -> None:
        """out[i] = rows[index[i]]."""

    def shuffle(self, seeds: NDArray[np.uint64], first_epoch: int, out: Array) -> None:
        """out[s, e] = the order of the samples, by seeds[s], in epoch `first_epoch` + e.

        See `orders`, whose seeds are on the CPU; `out` is of int64.
        """

    def all_finite(self, arrays: Sequence[Array], out: Array) -> None:
        """out[0] = 1 if all numbers of all these flat arrays are finite, or else 0."""

    def copy_if(self, condition: Array, values: Array, out: Array) -> None:
        """out = values, flat arrays, if condition[0] is not 0."""

    def update(
        self,
        optimizer: Optimizer,
        parameters: Array,
        gradient: Array,
        state: Sequence[Array],
        numbers: Array,
        decayed: int,
    ) -> None:
        """Update the flat parameters in place; the gradient may be overwritten.

        `numbers`, shape (4,), are a row of `numbers_of`: the learning rate, the weight decay and
        two more. The first `decayed` parameters are weights.
        """

    def record(self, work: Callable[[Any], None]) -> Callable[[], None]:
        """Return what does `work(backend)`, which has to be on the same arrays every time."""

    def turn(self) -> int:
        """Return what tells apart work that the device may do at the same time."""

    def uploads(self) -> Uploads:
        """Return what copies data to the device beside what this thread asks of it."""

    def synchronize(self) -> None:
        """Wait until everything asked of the device is done."""

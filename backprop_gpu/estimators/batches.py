"""Where the estimators' batches come from: rows with weights, and rows of sparse matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array, dense, is_sparse
from backprop_gpu.backends import Backend
from backprop_gpu.checks import check_data as check_arrays
from backprop_gpu.data import is_streamed, new_room
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.passes import PIECE
from backprop_gpu.training.batches import ArrayBatches, Batches, batch_counts
from backprop_gpu.training.weighting import WeightedBatches, with_weights

NO_WEIGHT = (
    "Weights sum to zero, can't be normalized: those of a batch; leave out samples of weight 0, or "
    "raise batch_size"
)


@dataclass(frozen=True)
class Samples:
    """What is learned from.

    Attributes
    ----------
    x : array or sparse matrix, shape (n, inputs)
        An array on the device, or a sparse matrix in CSR format.
    y : array, shape (n, outputs)
        The targets, on the device.
    weights : ndarray or None, shape (n,)
        How much each sample counts, on the CPU.
    """

    x: Any
    y: Array
    weights: NDArray[np.float64] | None

    def __len__(self) -> int:
        return int(self.y.shape[0])

    def take(self, rows: NDArray[np.int64], backend: Backend) -> Samples:
        """Return some of the samples."""
        on_device = backend.asarray(rows, np.dtype(np.int64))
        x = self.x[rows if is_sparse(self.x) else on_device]
        weights = None if self.weights is None else self.weights[rows]
        return Samples(x, self.y[on_device], weights)

    def targets(self, backend: Backend) -> Array:
        """Return y, with the weights as one more column if there are any."""
        return self.y if self.weights is None else with_weights(self.y, self.weights, backend)

    def weight_sums(self, order: NDArray[np.int64], batch_size: int) -> NDArray[np.float64]:
        """Return how much the batches of an epoch count: as many samples, if there are no weights.

        Raises
        ------
        ZeroDivisionError
            If the weights of a batch sum to zero.
        """
        starts = np.arange(0, len(self), batch_size)
        if self.weights is None:
            return batch_counts(len(self), batch_size, np.arange(len(starts))).astype(np.float64)
        sums = np.add.reduceat(self.weights[order], starts)
        if not sums.all():
            raise ZeroDivisionError(NO_WEIGHT)
        return sums


def check_data(net: MLP, x: Any, y: Array, loss: Loss) -> tuple[Any, Array]:
    """Check inputs and targets; bring them to the network's device, but for sparse inputs."""
    if not is_sparse(x):
        return check_arrays(net, x, y, loss)
    y = net.backend.asarray(y, net.dtype)
    loss.check_targets(y, net.backend.xp)
    return x, y


def outputs_of(net: MLP, x: Any) -> Array:
    """Return a network's outputs; few rows of what is sparse or streamed are held at a time."""
    if not (is_sparse(x) or is_streamed(x)):
        return net(x)
    step = max(1, PIECE // x.shape[1])
    pieces = (x[start : start + step] for start in range(0, max(1, x.shape[0]), step))
    return np.concatenate([net(dense(piece)) for piece in pieces])


def held(values: Any) -> Any:
    """Return all of what is streamed as an array; an array of any kind as it is."""
    is_array = isinstance(values, np.ndarray)
    return np.asarray(values[0:]) if is_streamed(values) and not is_array else values


class SparseBatches:
    """Batches of a CSR matrix: the rows of one batch at a time are dense."""

    def __init__(
        self,
        x: Any,
        y: Array,
        batch_size: int,
        order: Callable[[int], NDArray[np.int64]],
        backend: Backend,
    ) -> None:
        self.x, self.y, self.batch_size, self._order = x, y, batch_size, order
        self.per_epoch: int | None = -(-x.shape[0] // batch_size)
        self._backend = backend
        shapes = (batch_size, x.shape[1]), (batch_size, y.shape[1])
        self._arrays = backend.empty(shapes[0], y.dtype), backend.empty(shapes[1], y.dtype)

    def arrays(self) -> tuple[Array, Array]:
        return self._arrays

    def load(self, step: int) -> int:
        epoch, i = divmod(step, self.per_epoch or 1)
        rows = self._order(epoch)[i * self.batch_size : (i + 1) * self.batch_size]
        x, y = (array[: len(rows)] for array in self._arrays)
        x[...] = self._backend.asarray(dense(self.x[rows]), y.dtype)
        self._backend.gather(self.y, self._backend.asarray(rows, rows.dtype), y)
        return len(rows)


class OneBatch:
    """The batch that the next step is made on: whichever was written here.

    Parameters
    ----------
    net : MLP
    columns : int
        Of y.
    """

    per_epoch = None

    def __init__(self, net: MLP, columns: int) -> None:
        self._new_arrays = new_room(net.backend, (net.layer_sizes[0], columns), net.dtype)
        self.batch_size, self._count = 1, 0
        self._arrays = self._new_arrays(1)

    def room(self, rows: int) -> tuple[Array, Array]:
        """Return where the next batch, of so many rows, is to be written."""
        if rows > self.batch_size:
            self.batch_size, self._arrays = rows, self._new_arrays(rows)
        self._count = rows
        x, y = self._arrays
        return x[:rows], y[:rows]

    def arrays(self) -> tuple[Array, Array]:
        return self._arrays

    def load(self, step: int) -> int:
        return self._count


def batches_of(
    samples: Samples,
    batch_size: int,
    order: Callable[[int], NDArray[np.int64]],
    backend: Backend,
) -> Batches:
    """Return the samples' batches, in the order that an epoch has."""
    batches: Batches
    if is_sparse(samples.x):
        batches = SparseBatches(samples.x, samples.targets(backend), batch_size, order, backend)
    else:

        def on_device(epoch: int) -> Array:
            return backend.asarray(order(epoch), np.dtype(np.int64))

        batches = ArrayBatches(samples.x, samples.targets(backend), batch_size, on_device, backend)
    return batches if samples.weights is None else WeightedBatches(batches)

"""Where the batches of a training run come from."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend
from backprop_gpu.shuffle import as_keys


class Batches(Protocol):
    """Where a run's batches come from.

    Attributes
    ----------
    batch_size : int
        Samples in a batch, at most.
    per_epoch : int or None
        Batches in an epoch; None where only its end tells.
    """

    @property
    def batch_size(self) -> int: ...

    @property
    def per_epoch(self) -> int | None: ...

    def arrays(self) -> tuple[Array, Array]:
        """Return the x and y that the steps compute on, with `batch_size` rows."""

    def load(self, step: int) -> int:
        """Bring the step's batch to the top of these arrays; return how many rows it has.

        0 rows say that the epoch is over. Larger arrays may take the place of `arrays`.
        """


def batch_counts(samples: int, batch_size: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of the samples of an epoch are in its batches of some numbers."""
    return np.minimum(batch_size, samples - batch_size * numbers)


class ArrayBatches:
    """Batches of arrays on the device.

    Parameters
    ----------
    x, y : array, shapes (n, inputs) and (n, outputs)
    batch_size : int
    order : callable (epoch) -> array of int, or None
        In which order an epoch takes the rows, which the next call may overwrite; None stands for
        theirs.
    """

    def __init__(
        self,
        x: Array,
        y: Array,
        batch_size: int,
        order: Callable[[int], Array | None],
        backend: Backend,
    ) -> None:
        self.x, self.y, self.backend, self.samples = x, y, backend, len(x)
        self.batch_size = min(batch_size, len(x))
        self.per_epoch: int = -(-len(x) // self.batch_size)
        self._order_of, self._epoch, self._order = order, -1, None
        self._places: Array | None = None
        # Batches are copied to where the first one lies, so that every step has the same arrays.
        self._arrays = x, y
        if self.per_epoch > 1:
            rows = self.batch_size
            self._arrays = (
                backend.empty((rows, x.shape[1]), x.dtype),
                backend.empty((rows, y.shape[1]), y.dtype),
            )

    def arrays(self) -> tuple[Array, Array]:
        return self._arrays

    def counts(self, steps: range) -> NDArray[np.int64]:
        """Return how many samples the batches of some steps have."""
        numbers = np.arange(steps.start, steps.stop) % self.per_epoch
        return batch_counts(len(self.x), self.batch_size, numbers)

    def load(self, step: int) -> int:
        if self.per_epoch == 1:
            return self.batch_size
        order, batch = self._rows(range(step, step + 1))
        count: int = batch.stop - batch.start
        if order is None:
            for rows, to in zip((self.x, self.y), self._arrays, strict=True):
                to[:count] = rows[batch]
        else:
            self.gather(self.backend, order[batch])
        return count

    def orders(self, steps: range) -> list[Array] | None:
        """Return the orders of the epochs that steps are in; None if rows stay in their places."""
        if self.per_epoch == 1:
            return None
        epochs = range(steps.start // self.per_epoch, (steps.stop - 1) // self.per_epoch + 1)
        orders = [self._order_of(epoch) for epoch in epochs]
        return None if orders[0] is None else orders

    def choose(self, steps: range, index: Array) -> None:
        """Write to the top of `index` which rows the batches of steps of one epoch take."""
        order, rows = self._rows(steps)
        xp = self.backend.xp
        if order is None:
            if self._places is None:
                self._places = xp.arange(len(self.x))
            order = self._places
        index[: rows.stop - rows.start] = order[rows]

    def gather(self, backend: Backend, index: Array) -> None:
        """Bring the rows of an index to the top of `arrays`."""
        for rows, to in zip((self.x, self.y), self._arrays, strict=True):
            backend.gather(rows, index, to[: len(index)])

    def _rows(self, steps: range) -> tuple[Array | None, slice]:
        """Return the order of the steps' epoch, and which part of it they take."""
        epoch, first = divmod(steps.start, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        stop = min((first + len(steps)) * self.batch_size, len(self.x))
        return self._order, slice(first * self.batch_size, stop)


def shuffled_batches(
    x: Array, y: Array, batch_size: int, seed: int | None, backend: Backend
) -> ArrayBatches:
    """Return batches in a new random order every epoch, or in that of the rows without a seed."""
    if seed is None:
        return ArrayBatches(x, y, batch_size, lambda epoch: None, backend)

    @cache  # compiled loops and single launches have orders of their own
    def room() -> Array:
        return backend.empty((1, 1, len(x)), np.dtype(np.int64))

    def shuffled(epoch: int) -> Array:
        backend.shuffle(as_keys([seed]), epoch, room())
        return room()[0, 0]

    return ArrayBatches(x, y, batch_size, shuffled, backend)

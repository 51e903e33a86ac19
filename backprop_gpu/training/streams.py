"""Batches of a stream, brought to where the training steps compute."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend
from backprop_gpu.data import IteratedBatches, StreamedBatches, is_streamed, new_room
from backprop_gpu.errors import DomainError, DtypeError
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP


class StreamBatches:
    """`Batches` from a stream (of `data`).

    Parameters
    ----------
    stream : StreamedBatches or IteratedBatches
    columns : (int, int)
        The inputs and the outputs of the network.
    backend : Backend
    dtype : dtype
    """

    def __init__(
        self,
        stream: StreamedBatches | IteratedBatches,
        columns: tuple[int, int],
        backend: Backend,
        dtype: np.dtype[Any],
    ) -> None:
        self.stream, self.samples = stream, stream.samples
        # Each of an iterable's batches has its own size, and each epoch its own number of them.
        self.per_epoch = None if stream.batch_size is None else stream.per_epoch
        # What is said of them, for schedules and progress.
        self.length = stream.length if isinstance(stream, IteratedBatches) else stream.per_epoch
        self._new_arrays = new_room(backend, columns, dtype)
        self.batch_size = stream.batch_size or 256  # or larger, when such a batch comes
        self._arrays = self._new_arrays(self.batch_size)
        self._iterator: Generator[Any, None, None] | None = None  # of batches, or of windows
        self._wanted = (0, 0)
        self._place: tuple[int, int] | None = None  # of the next batch
        self._window: tuple[Array, Array, Array]
        self._held = range(0)  # the steps whose batches are in the window

    def arrays(self) -> tuple[Array, Array]:
        return self._arrays

    def seek(self, epoch: int, batch: int) -> None:
        """Be told what is next, where the step alone does not say it."""
        self._wanted = epoch, batch

    def load(self, step: int) -> int:
        if self.per_epoch is not None:
            epoch, batch = divmod(step, self.per_epoch)
            self.seek(epoch, batch)
        if self._iterator is None or self._place != self._wanted:
            self.close()
            self._iterator = self.stream.epoch(*self._wanted, self._room)
            self._place = self._wanted
        pair = next(self._iterator, None)
        if pair is None:
            self._iterator = None
            return 0
        epoch, batch = self._wanted
        self._place = self._wanted = epoch, batch + 1
        return len(pair[0])

    def window(self, step: int) -> tuple[Array, Array, Array, int]:
        """Return the window of a stream that a step's batch is in, and where.

        Returns
        -------
        x, y, order : array
            See `StreamedBatches.windows`.
        batch : int
            The number of the batch in the window.
        """
        assert isinstance(self.stream, StreamedBatches)
        if step not in self._held:
            epoch, batch = divmod(step, self.stream.per_epoch)
            if self._iterator is None or batch == 0 or step != self._held.stop:
                self.close()
                self._iterator = self.stream.windows(epoch, batch)
            x, y, order, first = next(self._iterator)
            start = step - first
            self._held = range(start, start - (-len(order) // self.batch_size))
            self._window = x, y, order
        return *self._window, step - self._held.start

    def close(self) -> None:
        """Stop reading ahead."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator, self._place, self._held = None, None, range(0)

    def _room(self, rows: int) -> tuple[Array, Array]:
        if rows > self.batch_size:
            self.batch_size, self._arrays = rows, self._new_arrays(rows)
        x, y = self._arrays
        return x[:rows], y[:rows]


def stream_batches(
    net: MLP,
    x: Any,
    y: Any,
    loss: Loss,
    *,
    batch_size: int | None,
    epochs: int,
    seed: int | None,
) -> StreamBatches | None:
    """Return where batches come from if the data are streamed; None if they are arrays."""
    columns = net.layer_sizes[0], net.layer_sizes[-1]
    common: dict[str, Any] = {
        **{"columns": columns, "backend": net.backend, "dtype": net.dtype},
        "check_targets": loss.check_targets,
    }
    stream: StreamedBatches | IteratedBatches
    if y is None:
        if hasattr(x, "shape"):
            raise DtypeError(
                f"y is None; expected the targets of x, an array of real numbers of shape "
                f"(samples, {columns[1]}), or an iterable of batches (x, y) in the place of x"
            )
        stream = IteratedBatches(x, **common)
        if batch_size is not None:
            raise DomainError(
                f"batch_size is {batch_size}, and y is None: the data are pairs (x, y), of which "
                "each is a batch already"
            )
        if stream.once and epochs > 1:
            raise DomainError(
                f"the batches come from an iterator ({type(x).__name__}), which can be gone "
                f"through once, and epochs is {epochs}; give a list, or a function of the epoch "
                "that makes the iterator"
            )
    elif is_streamed(x) or is_streamed(y):
        if batch_size is None:
            raise DomainError(
                "batch_size is None, which is all of the samples; data that are read from files "
                "need one, for example batch_size=1024"
            )
        stream = StreamedBatches(x, y, batch_size, seed=seed, **common)
    else:
        return None
    return StreamBatches(stream, columns, net.backend, net.dtype)

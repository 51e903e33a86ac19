"""Batches of data that are read from files, a window at a time.

The rows are cut into blocks of consecutive rows, and the blocks are put in an order that the seed
and the epoch decide. A window is what comes next in that order: as many whole batches as fit. It
is read block by block, and its rows are put in an order that the seed, the epoch and the window
decide. So the number of a batch says where its rows lie in the files.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from backprop_gpu.arrays import Array, check_same_rows
from backprop_gpu.backends import Backend
from backprop_gpu.data.batches import CheckTargets, Room, new_room
from backprop_gpu.data.order import EpochOrder
from backprop_gpu.data.prefetch import prefetched
from backprop_gpu.data.rows import Rows
from backprop_gpu.data.staging import Staging
from backprop_gpu.errors import check_count

WINDOW_BYTES = 1 << 26

WINDOWS = 2  # one in use, one being read

# Blocks in a window, where chunks are not larger: more of them mix better, fewer read faster.
BLOCKS = 64


class StreamedBatches:
    """Batches of data that are read a window at a time.

    Parameters
    ----------
    x, y : streamed or array_like, shape (n, inputs) and (n, outputs)
        See `is_streamed`. What takes no more than a quarter of a window is read once and kept.
    batch_size : int
    columns : (int, int)
        The inputs and the outputs of the network.
    seed : int or None
        Decides the order of the samples in every epoch. None: as they come in the files.
    backend : Backend
    dtype : dtype
        The network's.
    check_targets : callable (y, xp, name)
        Raises if targets are outside the loss's domain: `Loss.check_targets`.
    window_bytes : int
        The size of a window in float32; float64 takes twice as much, so that the order is the
        same. Two are held at a time. A batch that is larger is a window by itself.

    Attributes
    ----------
    samples, per_epoch : int
        Rows, and batches, in an epoch.

    Raises
    ------
    ShapeError, DtypeError, DeviceError, FileFormatError, DomainError
        At once, from shapes and dtypes. What the values are is checked as they are read.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        batch_size: int,
        *,
        columns: tuple[int, int],
        seed: int | None,
        backend: Backend,
        dtype: np.dtype[Any],
        check_targets: CheckTargets,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        batch_size = check_count("batch_size", batch_size)
        kept_bytes = check_count("window_bytes", window_bytes) // 4
        self._x = Rows(x, "x", columns[0], dtype, kept_bytes)
        self._y = Rows(y, "y", columns[1], dtype, kept_bytes)
        check_same_rows(self._x, self._y)
        self.samples = len(self._x)
        self.batch_size = min(batch_size, self.samples)
        self.per_epoch = -(-self.samples // self.batch_size)
        self._columns, self._dtype, self._seed = columns, dtype, seed
        self._backend, self._check_targets = backend, check_targets

        batch_bytes = self.batch_size * sum(columns) * np.dtype(np.float32).itemsize
        self._window_rows = self.batch_size * max(1, window_bytes // batch_bytes)
        block_rows = max(1, self._window_rows // BLOCKS)
        # Where the two are chunked in different ways, cutting the larger chunks would cost more.
        cuts = self._x.block_starts(block_rows), self._y.block_starts(block_rows)
        self._block_starts = min(cuts, key=len)

    def epoch(
        self, epoch: int, start: int = 0, room: Room | None = None
    ) -> Generator[tuple[Array, Array], None, None]:
        """Go through the batches of an epoch, from batch number `start` on.

        Each is (x, y), checked, in the network's dtype on its device, C-contiguous; the arrays
        that `room` gave, or new ones. Batch k of an epoch is the same whatever `start` is. A
        background thread reads ahead; it ends when the iterator is exhausted or closed.
        """
        room = room or new_room(self._backend, self._columns, self._dtype)
        with closing(self.windows(epoch, start)) as windows:
            for x, y, order, number in windows:
                for first in range(number * self.batch_size, len(order), self.batch_size):
                    index = order[first : first + self.batch_size]
                    x_batch, y_batch = room(len(index))
                    with self._backend.computing():
                        self._backend.gather(x, index, x_batch)
                        self._backend.gather(y, index, y_batch)
                    yield x_batch, y_batch

    def windows(
        self, epoch: int, start: int = 0
    ) -> Generator[tuple[Array, Array, Array, int], None, None]:
        """Yield an epoch's windows, from that of batch number `start` on.

        Yields
        ------
        x, y, order : array
            Batch i of the window has the rows ``order[i * batch_size : (i + 1) * batch_size]``.
            They are there until the next window is asked for.
        first : int
            The first batch that is wanted of this window.
        """
        done, first = start, start * self.batch_size % self._window_rows // self.batch_size
        kinds = [*(((m,), self._dtype) for m in self._columns), ((), np.dtype(np.int64))]
        uploads, most = self._backend.uploads(), min(self._window_rows, self.samples)
        memory = [Staging(uploads, most, kinds) for _ in range(WINDOWS)]
        try:
            with closing(prefetched(self._read(epoch, start, memory), WINDOWS)) as windows:
                for window, rows in windows:
                    x, y, order = (array[:rows] for array in window.device)
                    yield x, y, order, first
                    window.release()
                    done, first = done - first - (-rows // self.batch_size), 0
        except Exception as error:
            error.add_note(f"Before it came {done} of {self.per_epoch} batches of epoch {epoch}.")
            raise

    def _read(
        self, epoch: int, start: int, memory: Sequence[Staging]
    ) -> Generator[tuple[Staging, int], None, None]:
        """Read the windows of an epoch, from that of batch number `start` on; and their rows."""
        order = EpochOrder(self._block_starts, self.samples, epoch, self._seed)
        size = self._window_rows
        for number in range(start * self.batch_size // size, -(-self.samples // size)):
            low, high = number * size, min((number + 1) * size, self.samples)
            window = memory[number % len(memory)]
            x, y, index = (array[: high - low] for array in window.host)
            for row, places in order.pieces(low, high):
                self._x.read(row, x[places])
                self._y.read(row, y[places])
                stop = row + places.stop - places.start
                self._check_targets(y[places], np, f"y[{row}:{stop}]")
            index[...] = order.within(number, high - low)
            window.upload(high - low)
            yield window, high - low

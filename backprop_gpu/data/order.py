"""The order of an epoch's rows: blocks in a random order, and random orders within windows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.shuffle import shuffled


class EpochOrder:
    """Which rows come when; the same whenever it is asked.

    Parameters
    ----------
    block_starts : ndarray of int
        The first row of every block, ascending from 0.
    samples : int
        Rows altogether.
    epoch : int
    seed : int or None
        None: every row in its own place.
    """

    def __init__(
        self, block_starts: NDArray[np.int64], samples: int, epoch: int, seed: int | None
    ) -> None:
        self._epoch, self._seed = epoch, seed
        sizes = np.diff(block_starts, append=samples)
        order = self._shuffled(len(sizes), 0)
        self._rows = block_starts[order]
        self._ends = np.cumsum(sizes[order])
        self._places = self._ends - sizes[order]

    def pieces(self, low: int, high: int) -> Iterator[tuple[int, slice]]:
        """Yield the first of consecutive rows, and where among places low to high they come."""
        first = np.searchsorted(self._ends, low, side="right")
        last = np.searchsorted(self._places, high, side="left")
        for row, place, end in zip(
            self._rows[first:last].tolist(),
            self._places[first:last].tolist(),
            self._ends[first:last].tolist(),
            strict=True,
        ):
            begin = max(low, place)
            yield row + begin - place, slice(begin - low, min(high, end) - low)

    def within(self, window: int, rows: int) -> NDArray[np.int64]:
        """Return the order of a window's rows."""
        return self._shuffled(rows, window + 1)

    def _shuffled(self, n: int, what: int) -> NDArray[np.int64]:
        if self._seed is None:
            return np.arange(n)
        order: NDArray[np.int64] = shuffled(n, what << 32 | self._epoch, self._seed)
        return order

"""Memory that a background thread fills while the device reads another such memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backprop_gpu.arrays import Array
from backprop_gpu.backends.uploads import Uploads


class Staging:
    """Some arrays with equally many rows: for the CPU to write, and for the device to read.

    Parameters
    ----------
    uploads : Uploads
    rows : int
        The most there is room for.
    kinds : sequence of (shape, dtype)
        Of a row of each array.

    Attributes
    ----------
    host, device : list of array
    """

    def __init__(
        self,
        uploads: Uploads,
        rows: int,
        kinds: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
    ) -> None:
        self._uploads, self.rows = uploads, rows
        pairs = [uploads.memory((rows, *shape), dtype) for shape, dtype in kinds]
        self.host, self.device = [host for host, _ in pairs], [device for _, device in pairs]
        self.release()

    def upload(self, rows: int) -> list[Array]:
        """Bring the first rows to the device, when it has done with those before them."""
        return self.take([host[:rows] for host in self.host])

    def take(self, arrays: Sequence[Array]) -> list[Array]:
        """Bring arrays to the device, as `upload` does; they may be there, but not their own."""
        taken = [device[: len(array)] for array, device in zip(arrays, self.device, strict=True)]
        for array, device in zip(arrays, taken, strict=True):
            self._uploads.upload(array, device, self._done_with)
        return taken

    def release(self) -> None:
        """Say that the device has been asked for the last time to read what is in `device`."""
        self._done_with = self._uploads.mark()

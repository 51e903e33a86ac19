"""What the training loop asks of data that come batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

import numpy as np

from backprop_gpu.arrays import Array, ArrayModule
from backprop_gpu.backends import Backend

Room = Callable[[int], tuple[Array, Array]]
"""Returns where a batch of so many rows goes: x and y."""

CheckTargets = Callable[[Array, ArrayModule, str], None]
"""Raises if targets are outside a loss's domain: (y, array module, what messages call y)."""


class Batches(Protocol):
    """A source of batches.

    Attributes
    ----------
    samples : int or None
        Rows in an epoch; None until that is known.
    batch_size : int or None
        Rows in every batch but an epoch's last; None where each batch has its own size.
    per_epoch : int or None
        Batches in an epoch; None until that is known.
    """

    @property
    def samples(self) -> int | None: ...
    @property
    def batch_size(self) -> int | None: ...
    @property
    def per_epoch(self) -> int | None: ...

    def epoch(
        self, epoch: int, start: int = 0, room: Room | None = None
    ) -> Generator[tuple[Array, Array], None, None]:
        """Go through the batches of an epoch, from batch number `start` on.

        Each is (x, y), checked, in the network's dtype on its device, C-contiguous; the arrays
        that `room` gave, or new ones. Batch k of an epoch is the same whatever `start` is. A
        background thread reads ahead; it ends when the iterator is exhausted or closed.
        """


def new_room(backend: Backend, columns: tuple[int, int], dtype: np.dtype[Any]) -> Room:
    """Return what allocates arrays for every batch."""

    def room(rows: int) -> tuple[Array, Array]:
        inputs, outputs = columns
        return backend.empty((rows, inputs), dtype), backend.empty((rows, outputs), dtype)

    return room

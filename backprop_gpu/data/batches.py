"""What the training loop asks of data that come batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Protocol

from backprop_gpu.arrays import Array, ArrayModule

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

    def epoch(self, epoch: int, start: int = 0) -> Generator[tuple[Array, Array], None, None]:
        """Go through the batches of an epoch, from batch number `start` on.

        Each is (x, y), checked, new arrays in the network's dtype on its device, C-contiguous.
        Batch k of an epoch is the same whatever `start` is. A background thread reads ahead; it
        ends when the iterator is exhausted or closed.
        """

"""What is asked of whoever takes batches: room for them, and a look at their targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from backprop_gpu.arrays import Array, ArrayModule
from backprop_gpu.backends import Backend

Room = Callable[[int], tuple[Array, Array]]
"""Returns where a batch of so many rows goes: x and y."""

CheckTargets = Callable[[Array, ArrayModule, str], None]
"""Raises if targets are outside a loss's domain: (y, array module, what messages call y)."""


def new_room(backend: Backend, columns: tuple[int, int], dtype: np.dtype[Any]) -> Room:
    """Return what allocates arrays for every batch."""

    def room(rows: int) -> tuple[Array, Array]:
        inputs, outputs = columns
        return backend.empty((rows, inputs), dtype), backend.empty((rows, outputs), dtype)

    return room

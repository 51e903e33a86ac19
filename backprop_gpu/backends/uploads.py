"""How data come to a device while it computes."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array


class Uploads(Protocol):
    """Copies to the device beside what it is asked to compute.

    One is made in the thread that computes, and used in another one, which reads the data, too.
    """

    def memory(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Array]:
        """Allocate an array for the CPU to write, and the one on the device that it is copied to.

        They are uninitialised; and the same, where the device is the CPU.
        """

    def mark(self) -> Any:
        """Return what stands for all that the device has been asked to compute so far."""

    def upload(self, values: Array, device: Array, after: Any) -> None:
        """Copy to the device once it has done what a mark stands for; return when it is copied.

        Values that are on the device are copied when what this thread has asked for is done.
        """


class NoUploads:
    """`Uploads` of which none is needed: what the CPU writes is what the device reads."""

    def memory(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Array]:
        array = np.empty(shape, dtype)
        return array, array

    def mark(self) -> None:
        return None

    def upload(self, values: Array, device: Array, after: None) -> None:
        pass

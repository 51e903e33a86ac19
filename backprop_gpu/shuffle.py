"""The order of the samples in an epoch: the same on every device, and from no state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array, ArrayModule

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15  # 2^64 / the golden ratio
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def shuffled(n: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """Return a permutation of 0 to n - 1 that depends on the epoch and the seed alone.

    The samples are sorted by SplitMix64's mixing of a counter (Steele, Lea and Flood, 2014). It
    is a bijection of 64 bits, so no two keys are equal and every sort gives the same order.
    """
    order: NDArray[np.int64] = orders(n, range(epoch, epoch + 1), as_keys([seed]), np)[0, 0]
    return order


def orders(n: int, epochs: range, seeds: NDArray[np.uint64], xp: ArrayModule) -> Array:
    """Return `shuffled` for every seed and epoch, shape (seeds, epochs, n)."""
    starts = _mixed(_mixed(seeds)[:, None] ^ np.array(epochs, np.uint64))
    keys = xp.arange(n, dtype=xp.uint64) * xp.uint64(_STEP) + xp.asarray(starts)[..., None]
    for shift, factor in _MIX:
        keys ^= keys >> xp.uint64(shift)
        keys *= xp.uint64(factor)
    keys ^= keys >> xp.uint64(31)
    # CuPy sorts one row digit by digit, several by comparing numbers and rows.
    order: Array = xp.argsort(keys.ravel() if keys.size == n else keys)
    return order.reshape(keys.shape)


def as_keys(seeds: Iterable[int]) -> NDArray[np.uint64]:
    """Return seeds of any size as `orders` takes them."""
    return np.array([int(seed) & _MASK for seed in seeds], np.uint64)


def _mixed(keys: Any) -> Any:
    for shift, factor in _MIX:
        keys = (keys ^ (keys >> shift)) * factor
    return (keys ^ (keys >> 31)) ^ _STEP

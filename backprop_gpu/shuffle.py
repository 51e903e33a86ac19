"""The order of the samples in an epoch: the same on every device, and from no state."""

from __future__ import annotations

from backprop_gpu.arrays import Array, ArrayModule

_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15  # 2^64 / the golden ratio
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def shuffled(n: int, epoch: int, seed: int, xp: ArrayModule) -> Array:
    """Return a permutation of 0 to n - 1 that depends on the epoch and the seed alone.

    The samples are sorted by SplitMix64's mixing of a counter (Steele, Lea and Flood, 2014). It
    is a bijection of 64 bits, so no two keys are equal and every sort gives the same order.
    """
    start = _mixed(_mixed(seed & _MASK) ^ (epoch & _MASK))
    keys = xp.arange(n, dtype=xp.uint64) * xp.uint64(_STEP) + xp.uint64(start)
    for shift, factor in _MIX:
        keys ^= keys >> xp.uint64(shift)
        keys *= xp.uint64(factor)
    keys ^= keys >> xp.uint64(31)
    return xp.argsort(keys)


def _mixed(key: int) -> int:
    for shift, factor in _MIX:
        key = ((key ^ (key >> shift)) * factor) & _MASK
    return (key ^ (key >> 31)) ^ _STEP

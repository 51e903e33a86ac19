"""Copies of arrays between guard zones, which tell who wrote beyond an array."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GUARD_BYTES = 4096
ALIGNMENT = 16


@dataclass
class Region:
    """The bytes of arrays that overlap, and where their one copy lies."""

    start: int
    stop: int
    itemsize: int
    arguments: list[int]
    writable: bool
    offset: int = 0

    @property
    def size(self) -> int:
        return self.stop - self.start


class GuardedArrays:
    """Holds the copies; `addresses` says where each argument's copy is."""

    def __init__(self, arrays: Mapping[int, NDArray[Any]], addresses: Mapping[int, int]) -> None:
        self._regions = merge(arrays, addresses)
        parts = []
        end = 0
        for tag, region in enumerate(self._regions):
            # A misaligned view stays misaligned: kernels choose vector loads by the address.
            padding = bytes((region.start - end) % ALIGNMENT)
            guard = pattern(region.itemsize, tag)
            parts += [padding, guard, ctypes.string_at(region.start, region.size), guard]
            region.offset = end + len(padding) + GUARD_BYTES
            end = region.offset + region.size + GUARD_BYTES
        self._memory = bytearray(b"".join(parts))
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) if parts else 0
        self.addresses = {
            index: self._base + region.offset + addresses[index] - region.start
            for region in self._regions
            for index in region.arguments
        }

    def violation(self) -> str | None:
        """What the kernel wrote that it must not, if anything."""
        for tag, region in enumerate(self._regions):
            guard = pattern(region.itemsize, tag)
            start, stop = region.offset, region.offset + region.size
            who = "argument " + " and ".join(map(str, region.arguments))
            if self._memory[stop : stop + GUARD_BYTES] != guard:
                return f"writes past the end of {who}"
            if self._memory[start - GUARD_BYTES : start] != guard:
                return f"writes before the start of {who}"
            unchanged = region.writable or (
                self._memory[start:stop] == ctypes.string_at(region.start, region.size)
            )
            if not unchanged:
                return f"writes to {who}, which is read-only"
        return None

    def copy_back(self) -> None:
        for region in self._regions:
            if region.writable:
                ctypes.memmove(region.start, self._base + region.offset, region.size)


def merge(arrays: Mapping[int, NDArray[Any]], addresses: Mapping[int, int]) -> list[Region]:
    """Arrays that only touch, as the views of one flat buffer do, stay apart."""
    regions: list[Region] = []
    for index in sorted(arrays, key=addresses.__getitem__):
        array, start = arrays[index], addresses[index]
        stop = start + array.nbytes
        if regions and start < regions[-1].stop:
            last = regions[-1]
            last.stop = max(last.stop, stop)
            last.arguments.append(index)
            last.writable |= array.flags.writeable
        else:
            regions.append(Region(start, stop, array.itemsize, [index], array.flags.writeable))
    return regions


@functools.cache
def pattern(itemsize: int, tag: int) -> bytes:
    """Guard bytes that read as NaN, and that no kernel writes by reading a guard.

    A kernel without a bounds check copies guard to guard. So each region has its own tag, and the
    NaN is a signalling one: arithmetic, even on itself in place, turns it into a quiet one.
    """
    if itemsize == 8:
        word = np.array([0xFFF4_0000_0000_0001 + (tag << 32)], np.uint64)
    else:
        word = np.array([0xFFA0_0001 + tag], np.uint32)
    return word.tobytes() * (GUARD_BYTES // word.nbytes)

"""How many threads compute."""

from __future__ import annotations

import os


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worth_waking(flops: float, most: int) -> int:
    """Return how many threads share so much work: waking one costs what it does in 30 us."""
    return max(1, min(most, int(flops // 2e7)))

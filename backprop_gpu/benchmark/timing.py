"""How long calls take, compared in turn.

What is to be compared is timed in one process, a block of calls of each after the other, again
and again: whatever else the machine does then slows all of them alike. A result is the median of
its blocks. A block ends when the device has done the work, not when it has been asked to.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

LEAST_BLOCKS = 3
BLOCKS = 20  # of a quick call, or some more
LEAST_SECONDS = 0.02  # of a block, so that what starts and ends it is next to nothing
WARM_SECONDS = 1.0  # a first call that is shorter may be mostly compiling, and is not counted on

Repeat = Callable[[int], object]
"""Makes a call so many times."""

Timer = Callable[["Block", Callable[[], None], int], Sequence[float]]
"""Given a block, what to do before each time, and how many times: the seconds of each."""


class Block:
    """As many calls in a row as take about `seconds`, until the device has done them all.

    It is `least` calls or more, unless a call takes more than a second: so many that what `repeat`
    does once is little of it.

    Attributes
    ----------
    calls : int
    times : sequence of float
        The seconds of every block.
    """

    def __init__(
        self, repeat: Repeat, seconds: float, synchronize: Callable[[], None], least: int = 1
    ) -> None:
        self.repeat, self.synchronize = repeat, synchronize
        self.calls = 1
        self.times: Sequence[float] = []
        self.estimate = self.timed()
        if self.estimate < WARM_SECONDS:
            self.calls = least
            while (estimate := min(self.timed(), self.timed())) < seconds / 2:
                self.calls *= 2
            self.estimate = estimate

    def __call__(self) -> None:
        self.repeat(self.calls)
        self.synchronize()

    def timed(self) -> float:
        """Return how long the block takes."""
        started = time.perf_counter()
        self()
        return time.perf_counter() - started

    @property
    def seconds(self) -> float:
        """The time of one call: the median of the blocks."""
        return statistics.median(self.times) / self.calls

    @property
    def spread(self) -> float:
        """How far the middle half of the blocks lies apart, as a fraction of the median."""
        low, middle, high = np.quantile(self.times, (0.25, 0.5, 0.75))
        return float((high - low) / middle)


def time_plainly(block: Block, before: Callable[[], None], rounds: int) -> list[float]:
    """Time a block so many times; the plain `Timer`."""
    times = []
    for _ in range(rounds):
        before()
        times.append(block.timed())
    return times


def measure(
    calls: Mapping[str, Repeat],
    seconds: float,
    synchronize: Callable[[], None],
    timer: Timer = time_plainly,
    least: int = 1,
) -> dict[str, Block]:
    """Warm up and time calls that are to be compared, in turn.

    Parameters
    ----------
    calls : mapping of str to Repeat
        `timer` times the first; the others are timed between its blocks.
    seconds : float
        About how long to time each. A call that takes longer is timed three times all the same.
    synchronize : callable
        Waits for the device.
    timer : Timer
    least : int
        Calls in a block of the first, unless they take more than a second each.
    """
    length = max(LEAST_SECONDS, seconds / BLOCKS)
    blocks = {
        name: Block(repeat, length, synchronize, 1 if i else least)
        for i, (name, repeat) in enumerate(calls.items())
    }
    first, *others = blocks.values()
    times: list[list[float]] = [[] for _ in others]

    def time_others() -> None:
        for block, own in zip(others, times, strict=True):
            own.append(block.timed())

    once = sum(block.estimate for block in blocks.values())
    rounds = max(LEAST_BLOCKS, int(seconds * len(blocks) / once))
    first.times = timer(first, time_others, rounds)
    for block, own in zip(others, times, strict=True):
        block.times = own
    return blocks

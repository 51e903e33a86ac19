"""Where one path becomes faster than another, as a run's rows have it."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from backprop_gpu.arrays import weight_count
from backprop_gpu.training.crossovers import Crossover, Name
from benchmarks.gpu.contestants import OWN
from benchmarks.gpu.rows import BLOCK, GRAPHS, WARP, Found, Row

Point = tuple[float, float, float]
"""What a rule looks at, the seconds of what it takes up to its limit, and those of the other."""

AS_GOOD = 1.05  # times as long as the best


def crossovers_of(
    found: Found, before: Mapping[Name, Crossover], source: str
) -> dict[Name, Crossover]:
    """Return the crossovers that a run gives, and those from before where it has too little.

    Of a contestant that was stopped nothing is taken: what it was timed on first are the smallest
    networks and graphs, and a limit would be theirs.
    """
    done = Counter(row.implementation for row in found.rows if row.batch)
    whole = [name for name in (WARP, BLOCK, GRAPHS) if done[name] >= len(OWN[name].cases)]
    found = replace(found, rows=[row for row in found.rows if row.implementation in whole])
    savings = [
        other.seconds - own.seconds
        for _, own, other in _pairs(found, (WARP, BLOCK), GRAPHS)
        if own.seconds < other.seconds
    ]
    compiling = [own.first - other.first for _, own, other in _pairs(found, (WARP, BLOCK), GRAPHS)]
    values: dict[Name, float | None] = {
        "warp_batch": limit(_points(found, WARP, BLOCK, _batch)),
        "warp_alone_batch": limit(_points(found, WARP, GRAPHS, _batch)),
        "block_work": limit(_points(found, BLOCK, GRAPHS, _work, "float32")),
        "block_work_tf32": limit(_points(found, BLOCK, GRAPHS, _work, "tf32")),
        "seconds_saved": statistics.median(savings) if savings else None,
        "seconds_compiling": max(0.0, statistics.median(compiling)) if compiling else None,
        "graph_steps": graph_steps(found.rows),
    }
    return {
        name: before[name] if value is None else Crossover(float(f"{value:.3g}"), source)
        for name, value in values.items()
    }


def limit(points: Sequence[Point]) -> float | None:
    """Return up to where to take the one rather than the other, so that least time is lost.

    What a wrong choice loses is the logarithm of how many times as long it takes, summed up over
    all points. Where the one never wins, that is 0; None if there are no points.
    """

    def lost(up_to: float) -> float:
        return sum(
            abs(math.log(own / other))
            for feature, own, other in points
            if (feature <= up_to) != (own <= other)
        )

    return min([0.0, *sorted({feature for feature, *_ in points})], key=lost) if points else None


def graph_steps(rows: Sequence[Row]) -> float | None:
    """Return the fewest steps of a graph that are as good as the best, on every network."""
    ordered = sorted(
        (row for row in rows if row.window and row.seconds), key=lambda row: row.network
    )
    wanted = []
    for _, group in groupby(ordered, lambda row: row.network):
        seconds = {row.window: row.seconds for row in group}
        best = AS_GOOD * min(seconds.values())
        wanted.append(min(window for window, each in seconds.items() if each <= best))
    return max(wanted, default=None)


def _pairs(found: Found, names: Sequence[str], other: str) -> Iterator[tuple[str, Row, Row]]:
    """Yield what was timed both ways: the precision, and the two rows."""
    for (_, _, precision), group in found.timed().items():
        for name in names:
            if name in group and other in group:
                yield precision, group[name], group[other]


def _points(
    found: Found,
    name: str,
    other: str,
    feature: Callable[[Row], float],
    precision: str | None = None,
) -> list[Point]:
    return [
        (feature(one), one.seconds, two.seconds)
        for own, one, two in _pairs(found, (name,), other)
        if precision in (None, own)
    ]


def _batch(row: Row) -> float:
    return row.batch


def _work(row: Row) -> float:
    return row.batch * weight_count(row.layer_sizes)

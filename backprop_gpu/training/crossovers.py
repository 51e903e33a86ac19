"""Where one way to train on a GPU becomes faster than another: every number, and its source.

`crossovers.json` holds them. ``python -m benchmarks.gpu --crossovers FILE.json`` writes it anew,
from what a GPU was measured to do. The CPU's are where they decide, with what was measured.

The estimates take 30 us for a step in a graph, a third of a microsecond for a sample in a warp, and
30 us in a block where the samples times the weights are 1.7 million: 64-128-128-10, 64 samples. A
launch of a graph takes a few microseconds, and so do the copies before and after it. Networks that
share a launch are judged by the same numbers, and by how many a GPU trains at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, get_args

Name = Literal[
    "warp_batch",  # samples of a batch up to which a warp is faster than a block
    "warp_alone_batch",  # up to which a warp is faster than graphs
    "block_work",  # samples times weights up to which a block is faster than graphs
    "block_work_tf32",  # the same with precision="tf32"
    "seconds_saved",  # that a step takes less in one launch than in a graph
    "seconds_compiling",  # that the first launch takes longer than the first graph
    "graph_steps",  # steps that a graph has at most
]

FILE = Path(__file__).with_name("crossovers.json")


class Crossover(NamedTuple):
    """A number that decides, and where it comes from: "estimate", or a file of results."""

    value: float
    source: str

    def __str__(self) -> str:
        return "an estimate" if self.source == "estimate" else f"measured: {self.source}"


def of_json(text: str) -> dict[Name, Crossover]:
    """Return what `to_json` wrote."""
    content = json.loads(text)
    return {name: Crossover(**content[name]) for name in get_args(Name)}


def to_json(crossovers: Mapping[Name, Crossover]) -> str:
    """Return crossovers as JSON, a line for each."""
    lines = [f' "{name}": {json.dumps(entry._asdict())}' for name, entry in crossovers.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


CROSSOVERS = of_json(FILE.read_text())

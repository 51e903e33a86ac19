"""What a race found: as rows, as JSON, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from backprop_gpu.benchmark.speed import NETWORKS, Network
from backprop_gpu.text_table import aligned, as_bytes
from benchmarks.pages import digits
from benchmarks.peers.contestants import CONTESTANTS, OWN

GEMM = "matrix products"
PARTS = {"step": "step", "inference": "forward"}  # what is timed, and what its FLOPs are


@dataclass(frozen=True)
class Timed:
    """How long a call takes.

    Attributes
    ----------
    seconds, spread : float
        The median of the blocks; how far the middle half of them lies apart, as a fraction of it.
    blocks, calls : int
        How many blocks of how many calls.
    cores : float
        Seconds of work of all cores, spinning included, for each second.
    """

    seconds: float
    spread: float
    blocks: int
    calls: int
    cores: float


@dataclass(frozen=True)
class Row:
    """A contestant on a network, or GEMM: the matrix products with nothing around them.

    Attributes
    ----------
    network, contestant : str
    note : str
        Why it was not timed.
    step, inference : Timed or None
        A step of training; a prediction for the same batch.
    memory : int or None
        The bytes that training takes at its peak.
    """

    network: str
    contestant: str
    note: str = ""
    step: Timed | None = None
    inference: Timed | None = None
    memory: int | None = None

    def record(self) -> dict[str, Any]:
        """Return the row for JSON, with what follows from it."""
        record = asdict(self)
        for part in PARTS:
            if record[part] is not None:
                record[part]["gflops"] = self.gflops(part)
        return record

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Row:
        """Return the row that `record` made."""
        timed = {part: record[part] and dict(record[part]) for part in PARTS}
        for part in filter(None, timed.values()):
            del part["gflops"]
        return cls(**{**record, **{part: v and Timed(**v) for part, v in timed.items()}})

    def gflops(self, part: str) -> float:
        """Return the rate of one of PARTS, of which FLOPs are those of the matrix products."""
        network, timed = NETWORKS[self.network], getattr(self, part)
        return network.flops(PARTS[part], network.batch) / timed.seconds / 1e9


def floor(network: Network) -> int:
    """Return the bytes that training needs at least.

    They are those of the parameters, their gradient, and every a and delta of a batch; plain SGD
    has no state.
    """
    sizes, itemsize = network.layer_sizes, np.dtype(network.dtype).itemsize
    parameters = sum((inputs + 1) * nodes for inputs, nodes in pairwise(sizes))
    return itemsize * 2 * (parameters + network.batch * sum(sizes[1:]))


def report(about: Mapping[str, str], rows: Sequence[Row]) -> str:
    """Return the machine, the times, what they don't say, and the memory."""
    return "\n\n".join(
        filter(None, (aligned(list(about.items())), times(rows), notes(rows), memory(rows)))
    )


def times(rows: Sequence[Row]) -> str:
    """Return a line for every contestant on every network."""
    heading = ["network", "batch", "", "us/step", "spread", "x ours", "GFLOP/s", "of GEMM", "cores"]
    heading += ["us/inference", "spread", "x ours", "of GEMM"]
    lines = []
    for network, group in groupby(rows, lambda row: row.network):
        of_network = {row.contestant: row for row in group}
        own, gemm = of_network.get(OWN), of_network[GEMM]
        for row in of_network.values():
            step, inference = _cells(row, "step", own, gemm), _cells(row, "inference", own, gemm)
            cells = [network, str(NETWORKS[network].batch), shown(row.contestant)]
            lines.append(cells + step + inference[:3] + inference[4:5])
    return aligned(lines, heading)


def _cells(row: Row, part: str, own: Row | None, gemm: Row) -> list[str]:
    timed, ours, products = (other and getattr(other, part) for other in (row, own, gemm))
    if timed is None:
        return ["-"] * 6
    return [
        digits(timed.seconds * 1e6),
        f"{timed.spread:.0%}",
        digits(timed.seconds / ours.seconds) if ours else "-",
        digits(row.gflops(part)),
        f"{products.seconds / timed.seconds:.0%}",
        f"{timed.cores:.1f}",
    ]


def notes(rows: Sequence[Row]) -> str:
    """Return who was left out, and who computes something else."""
    missing = list(dict.fromkeys((row.contestant, row.note) for row in rows if row.note))
    lines = []
    for contestant, note in missing:
        on = [row.network for row in rows if (row.contestant, row.note) == (contestant, note)]
        lines.append(f"{contestant} is left out of {', '.join(on)}: {note}")
    for name in dict.fromkeys(row.contestant for row in rows if row.step is not None):
        if name in CONTESTANTS and (activations := CONTESTANTS[name].activations):
            hidden, last = activations
            lines.append(f"{shown(name)} has {hidden} in all hidden layers, {last} in the last")
    return "\n".join(lines)


def memory(rows: Sequence[Row]) -> str:
    """Return what training takes at its peak, beside what it needs at least."""
    lines = []
    for row in rows:
        if row.memory is not None:
            least = floor(NETWORKS[row.network])
            cells = [as_bytes(row.memory), as_bytes(least), digits(row.memory / least)]
            lines.append([row.network, *cells])
    return aligned(lines, ["network", "memory", "least", "x least"]) if lines else ""


def shown(contestant: str) -> str:
    """Return a name, marked if there is more to know."""
    entry = CONTESTANTS.get(contestant)
    return f"{contestant} *" if entry and entry.activations else contestant

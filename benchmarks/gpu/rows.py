"""What is timed on a GPU, and what was found: as rows, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from backprop_gpu.benchmark.speed import NETWORKS, Network

GRAPHS, SINGLY, TRAIN = "backprop_gpu, graphs", "backprop_gpu, single launches", "backprop_gpu"
WARP, BLOCK = "backprop_gpu, one launch by warps", "backprop_gpu, one launch by blocks"
MANY, GEMM = "backprop_gpu, train_many", "matrix products alone"
PATHS = {SINGLY: "single launches", GRAPHS: "graphs", WARP: "a warp", BLOCK: "a block"}


@dataclass(frozen=True)
class Case:
    """What a contestant is timed on: full batches of one network, or of many alike.

    Attributes
    ----------
    window : int, optional
        Steps of a CUDA graph. Default: as many as the library takes.
    """

    network: Network
    precision: str
    networks: int = 1
    window: int | None = None

    @property
    def key(self) -> str:
        """Which cases have the same losses."""
        return f"{self.network.name}, {self.network.batch}, {self.network.dtype}"


@dataclass(frozen=True)
class Row:
    """One measurement, or why there is none.

    Attributes
    ----------
    plan : str
        The way the implementation takes.
    seconds : float or None
        Of a step of one network, from asking for a block of them until it is done: the median of
        the blocks.
    spread : float
        How far the middle half of the blocks lies apart, as a fraction of the median.
    asked : float or None
        The part of the seconds in which the host was asking.
    on_device : float or None
        The seconds between CUDA's events around the block.
    first : float or None
        Seconds until the first steps were done: of the block, not of a step, compiling included.
    error : float or None
        How far the losses of the first steps are from NumPy's in float64; None where not checked.
    note : str
        Why there is no time.
    """

    network: str
    batch: int
    precision: str
    implementation: str
    layer_sizes: Sequence[int] = ()
    networks: int = 1
    window: int | None = None
    plan: str = ""
    seconds: float | None = None
    spread: float = 0.0
    asked: float | None = None
    on_device: float | None = None
    first: float | None = None
    error: float | None = None
    note: str = ""

    @classmethod
    def of(cls, name: str, case: Case, note: str = "") -> Row:
        """Return the row of a contestant in a case, without a time."""
        network = case.network
        return cls(
            network.name,
            network.batch,
            case.precision,
            name,
            network.layer_sizes,
            case.networks,
            case.window,
            note=note,
        )

    @classmethod
    def about(cls, name: str, note: str) -> Row:
        """Return what there is to say about a contestant in all that it was not timed on."""
        return cls("-", 0, "-", name, note=note)

    @property
    def flops(self) -> int:
        """The FLOPs of a step's matrix products."""
        return Network(self.network, tuple(self.layer_sizes), self.batch).flops("step", self.batch)

    def record(self) -> dict[str, Any]:
        """Return the row for JSON, with what follows from it."""
        record = asdict(self)
        if self.seconds is not None:
            record["throughput"] = self.batch / self.seconds  # samples a second
            record["flop_rate"] = self.flops / self.seconds
        return record

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Row:
        """Return the row that `record` made."""
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Found:
    """All that a run has found until now.

    Attributes
    ----------
    machine : dict
        What the figures depend on: date, device, driver, versions.
    checks : list of dict
        Tests, and tools that watch tests: what was run, and whether it passed.
    rates : dict
        What the device does at most: FLOP/s of large products, bytes/s of a copy.
    rows : list of Row
    """

    machine: dict[str, str]
    checks: list[dict[str, Any]]
    rates: dict[str, float]
    rows: list[Row]

    def timed(self) -> dict[tuple[str, int, str], dict[str, Row]]:
        """Return the rows of single networks by network, batch and precision, and by name."""
        groups: dict[tuple[str, int, str], dict[str, Row]] = {}
        for row in self.rows:
            if row.seconds is not None and row.networks == 1 and row.window is None:
                group = groups.setdefault((row.network, row.batch, row.precision), {})
                group[row.implementation] = row
        return groups

    def to_json(self) -> str:
        """Return it as JSON, a line for each row; of a number the four digits that count."""
        head = {"machine": self.machine, "rates": _rounded(self.rates), "checks": self.checks}
        lines = ",\n".join("  " + json.dumps(_rounded(row.record())) for row in self.rows)
        text = json.dumps(head, indent=1).removesuffix("\n}")
        return f'{text},\n "rows": [\n{lines}\n ]\n}}\n'

    @classmethod
    def of_json(cls, text: str) -> Found:
        """Return what `to_json` wrote."""
        content = json.loads(text)
        return cls(**{**content, "rows": [Row.of_record(record) for record in content["rows"]]})


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in values.items()
    }


MATCHES = [*NETWORKS.values(), replace(NETWORKS["large"], batch=16_384)]
PRECISIONS = {
    "textbook": ("float64",),
    "small": ("float32", "tf32"),
    "tabular": ("float32", "tf32"),
    "wide": ("float32", "tf32", "bf16"),
    "large": ("float32", "tf32", "bf16"),
}

# In the order of their turns, for time may run out: the precisions one after the other.
MAIN = [
    Case(network, precision)
    for precision in ("float64", "float32", "tf32", "bf16")
    for network in MATCHES
    if precision in PRECISIONS[network.name]
]
OWN_PRECISION = [case for case in MAIN if case.precision == case.network.dtype]
SMALL = [case for case in MAIN if case.network.name in ("textbook", "small", "tabular")]

# Where one path becomes faster than another.
SWEPT = [
    Case(Network("-".join(map(str, sizes)), sizes, batch), precision)
    for precision, kinds in (
        ("float32", ((5, 3, 5, 4), (32, 32, 10), (64, 64, 10), (64, 128, 128, 10))),
        ("tf32", ((64, 64, 10), (64, 128, 128, 10))),
    )
    for sizes in kinds
    for batch in (1, 4, 16, 64, 256)
]
WINDOWS = [
    Case(NETWORKS[name], NETWORKS[name].dtype, window=window)
    for name in ("textbook", "small")
    for window in (1, 4, 16, 64, 256)
]

# One launch gives a network of the first kind to a warp, and one of the second to a block.
ENSEMBLES = [
    Case(replace(network, dtype="float32"), "float32", networks)
    for network in (NETWORKS["textbook"], NETWORKS["small"])
    for networks in (1, 8, 64, 512, 2048, 8192)
]

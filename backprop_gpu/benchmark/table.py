"""What a benchmark found, on what machine: as rows, as JSON, as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
from typing import Any

from backprop_gpu.text_table import aligned

PARTS = ("forward", "backward", "step")
"""What is measured of a network: its passes, and whole training steps."""


@dataclass(frozen=True)
class Row:
    """One measurement, or, where `seconds` is None, that there is no such device.

    Attributes
    ----------
    network, batch, part, device
        Of what.
    flops : int
        Floating-point operations of the part's matrix products.
    seconds : float or None
        The time of one call.
    spread : float or None
        How far the middle half of the blocks lies apart, as a fraction of the median.
    blocks, calls : int
        How many blocks of how many calls.
    gemm_seconds : float or None
        The time of the part's matrix products alone.
    rivals : mapping of str to float
        The time that others take for the same.
    """

    network: str
    batch: int
    part: str
    device: str
    flops: int
    seconds: float | None = None
    spread: float | None = None
    blocks: int = 0
    calls: int = 0
    gemm_seconds: float | None = None
    rivals: Mapping[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the row for JSON, with what follows from it."""
        record = asdict(self)
        if self.seconds is not None and self.gemm_seconds is not None:
            record["samples_per_second"] = self.batch / self.seconds
            record["gflops"] = self.flops / self.seconds / 1e9
            record["gemm_gflops"] = self.flops / self.gemm_seconds / 1e9
            record["gemm_fraction"] = self.gemm_seconds / self.seconds
        return record

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Row:
        """Return the row that `record` made."""
        return cls(**{f.name: record[f.name] for f in fields(cls)})


def to_json(about: Mapping[str, str], rows: Iterable[Row]) -> str:
    """Return a machine and its measurements as JSON, a line for each."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(entry) for key, entry in value.items()}
        return float(f"{value:.4g}") if isinstance(value, float) else value

    head = json.dumps(dict(about), indent=4).replace("\n}", "\n  }")
    lines = ",\n".join("    " + json.dumps(rounded(row.record())) for row in rows)
    return f'{{\n  "machine": {head},\n  "rows": [\n{lines}\n  ]\n}}\n'


def of_json(text: str, kind: type[Any] = Row) -> tuple[dict[str, str], list[Any]]:
    """Return the machine and the rows, of some kind, that `to_json` wrote."""
    content = json.loads(text)
    return content["machine"], [kind.of_record(record) for record in content["rows"]]


def report(about: Mapping[str, str], rows: Sequence[Row]) -> str:
    """Return a machine and its measurements as text."""
    return f"{aligned(list(about.items()))}\n\n{table(rows)}"


def table(rows: Sequence[Row]) -> str:
    """Return a line for every measurement, and one for every network that a GPU is missing for."""
    networks = list(dict.fromkeys(row.network for row in rows))
    rivals = list(dict.fromkeys(name for row in rows for name in row.rivals))
    on_cpu = {(row.network, row.batch, row.part): row for row in rows if row.device == "cpu"}
    heading = ["network", "batch", "pass", "device", "us/call", "spread", "samples/s", "GFLOP/s"]
    heading += ["of GEMM", *(f"vs {name}" for name in rivals), "cupy/numpy"]

    def place(row: Row) -> tuple[int, str, int, int, str]:
        missing = row.device if row.seconds is None else ""
        return (
            *(networks.index(row.network), missing, row.batch),
            *(PARTS.index(row.part), row.device),
        )

    lines = []
    for (network, missing), group in groupby(
        sorted(rows, key=place), lambda row: (row.network, row.seconds is None and row.device)
    ):
        if missing:
            cells = [network, "-", "-", f"{missing}: no GPU"]
            lines.append(cells + ["-"] * (len(heading) - len(cells)))
            continue
        for row in group:
            numpy = on_cpu.get((row.network, row.batch, row.part))
            lines.append(_cells(row, numpy, rivals))
    return aligned(lines, heading)


def _cells(row: Row, numpy: Row | None, rivals: Sequence[str]) -> list[str]:
    seconds, gemm_seconds = row.seconds or math.nan, row.gemm_seconds or math.nan
    times = {**(numpy.rivals if numpy else {}), **row.rivals}  # the plain script is on the CPU

    def ratio(other: float | None) -> str:
        return f"{other / seconds:.2f}" if other else "-"

    return [
        *(row.network, str(row.batch), row.part, row.device),
        _digits(seconds * 1e6),
        f"{row.spread or 0:.0%}",
        _digits(row.batch / seconds),
        _digits(row.flops / seconds / 1e9),
        f"{gemm_seconds / seconds:.0%}",
        *(ratio(times.get(name)) for name in rivals),
        "-" if numpy is None or numpy is row else ratio(numpy.seconds),
    ]


def _digits(value: float) -> str:
    """Return a number with the three digits that count."""
    places = 2 - math.floor(math.log10(value))
    return f"{round(value, places):,.{max(0, places)}f}"

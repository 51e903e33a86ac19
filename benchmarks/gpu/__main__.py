"""Checks and times the library on a GPU, unattended: ``python -m benchmarks.gpu --help``.

First whether the numbers are right, then how fast they come: what is wrong is not timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import backprop_gpu as bp
from backprop_gpu.training import crossovers as own_crossovers
from benchmarks.gpu.crossovers import crossovers_of
from benchmarks.gpu.measure import ROOT, measure
from benchmarks.gpu.page import publish, report
from benchmarks.gpu.race import CONTESTANTS, race, rates
from benchmarks.gpu.rows import Found

LATEST = ROOT / "benchmarks/results/gpu-latest.json"


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, default=LATEST, help="the results, as JSON")
    parser.add_argument("--minutes", type=float, default=8.5, help="when to have ended")
    parser.add_argument(
        "--go-on", action="store_true", help="measure only what the results lack, in --output"
    )
    parser.add_argument(
        "--contestants",
        nargs="+",
        metavar="NAME",
        choices=CONTESTANTS,
        default=[*CONTESTANTS],
        help=f"who is timed: {', '.join(map(repr, CONTESTANTS))}",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.json", help="measure nothing; write docs/gpu.md's part"
    )
    parser.add_argument(
        "--crossovers",
        type=Path,
        metavar="FILE.json",
        help="measure nothing; write where the library changes its path",
    )
    for hidden in ("--contestant", "--references", "--first"):  # of this script's own processes
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--rates", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)

    if options.rates:
        print(json.dumps(rates()), flush=True)
        return 0
    if options.contestant:
        cases = CONTESTANTS[options.contestant].cases[int(options.first) :]
        references = json.loads(Path(options.references).read_text())
        for row in race(options.contestant, cases, references):
            print(json.dumps(row.record()), flush=True)
        return 0
    if options.report:
        publish(options.report, root)
    if options.crossovers:
        found = Found.of_json(options.crossovers.read_text())
        path = root / own_crossovers.FILE.relative_to(ROOT)
        chosen = crossovers_of(found, own_crossovers.CROSSOVERS, options.crossovers.name)
        path.write_text(own_crossovers.to_json(chosen))
    if options.report or options.crossovers:
        return 0

    from backprop_gpu.backends.cupy_device import unusable

    if reason := unusable():
        print(f"nothing is measured: {reason}", file=sys.stderr)
        return 1
    try:
        found = measure(options.output, options.minutes, options.contestants, options.go_on)
    except bp.DomainError as reason:
        print(f"nothing is measured: {reason}", file=sys.stderr)
        return 1
    print(report(found))
    return 0 if all(check["passed"] is not False for check in found.checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

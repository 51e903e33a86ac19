"""Runs the benchmarks and prints a table of what they found: ``python -m benchmarks --help``."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from backprop_gpu.benchmark.speed import NETWORKS
from backprop_gpu.benchmark.table import Row, of_json, report, to_json
from benchmarks.pages import put_into

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- python -m benchmarks --publish -->\n```text\n", "```\n<!-- end -->"


def rows_of(suite):
    """Return the machine and the rows of pytest-benchmark's JSON, and rows for a missing GPU."""
    rows = [Row.of_record(entry["extra_info"]) for entry in suite["benchmarks"]]
    if not any(row.device.startswith("cuda") for row in rows):
        keys = [(row.network, row.batch, row.part) for row in rows]
        rows += [Row(*key, "cuda", row.flops) for key, row in zip(keys, rows, strict=True)]
    return suite["machine_info"]["backprop_gpu"], rows


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--quick", action="store_true", help="own batch sizes only, for seconds")
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "latest.json", help="pytest-benchmark's JSON"
    )
    parser.add_argument(
        "--publish",
        metavar="NAME",
        help="also write results/NAME.json, compact, and the table of docs/benchmarks.md",
    )
    options = parser.parse_args(arguments)

    options.output.parent.mkdir(parents=True, exist_ok=True)
    status = pytest.main(
        [
            *(str(HERE), "-q", "-p", "no:cacheprovider", "-o", "timeout=0"),
            *("--benchmark-quiet", f"--benchmark-json={options.output}"),
            f"--networks={','.join(options.networks)}",
            *(["--quick"] if options.quick else []),
        ]
    )
    if status != pytest.ExitCode.OK:
        return status
    found = to_json(*rows_of(json.loads(options.output.read_text())))
    text = report(*of_json(found))
    if options.publish:
        (RESULTS / f"{options.publish}.json").write_text(found)
        put_into(PAGE, BEGIN, text + "\n", END)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Times the library and what a user could take instead: ``python -m benchmarks.peers --help``."""

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from backprop_gpu.benchmark.machine import machine
from backprop_gpu.benchmark.speed import NETWORKS
from backprop_gpu.benchmark.table import of_json, to_json
from benchmarks.pages import put_into
from benchmarks.peers.contestants import CONTESTANTS, OWN
from benchmarks.peers.picture import svg
from benchmarks.peers.race import peak_memory, race
from benchmarks.peers.rows import Row, report

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- python -m benchmarks.peers --publish -->\n```text\n", "```\n<!-- end -->"
SECONDS, QUICK_SECONDS = 0.4, 0.05
QUICK = ("textbook", "small", "tabular", "wide")


def head(names):
    """Return what the figures depend on: the machine, and the contestants' versions."""
    about = machine()
    for package in dict.fromkeys(CONTESTANTS[name].package for name in names):
        if package != "numpy":  # machine() has it
            try:
                about[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                about[package] = "not installed"
    return about


def run(networks, names, seconds):
    """Yield the rows of each network; it and its memory are measured in processes of their own."""
    start_afresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, start_afresh, max_tasks_per_child=1) as processes:
        for name in networks:
            memory = processes.submit(peak_memory, NETWORKS[name]).result()
            for row in processes.submit(race, NETWORKS[name], names, seconds).result():
                yield replace(row, memory=memory) if row.contestant == OWN else row


def publish(name, found, root):
    """Write a run's JSON, its picture, and its table into the page between the markers."""
    (root / "benchmarks" / "results" / f"peers-{name}.json").write_text(found)
    about, rows = of_json(found, Row)
    (root / "docs" / "performance.svg").write_text(svg(rows), encoding="utf-8", newline="\n")
    put_into(root / "docs" / "performance.md", BEGIN, report(about, rows) + "\n", END)


def main(arguments, root=ROOT):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, metavar="NAME")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="few blocks, and not the largest")
    parser.add_argument(
        "--publish",
        metavar="NAME",
        help="also write results/peers-NAME.json, and the table and picture of docs/performance.md",
    )
    options = parser.parse_args(arguments)
    networks = options.networks or (QUICK if options.quick else NETWORKS)
    names = [name for name in CONTESTANTS if name in (OWN, *(options.contestants or CONTESTANTS))]

    about = head(names)
    rows = list(run(networks, names, QUICK_SECONDS if options.quick else SECONDS))
    found = to_json(about, rows)
    if options.publish:
        publish(options.publish, found, root)
    print(report(*of_json(found, Row)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

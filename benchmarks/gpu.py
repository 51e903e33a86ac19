"""Checks and times the library on a GPU, unattended: ``python -m benchmarks.gpu --help``.

First whether the numbers are right, then how fast they come: what is wrong is not timed. Every
contestant runs in a process of its own, so that none can spoil the others' figures, and what has
been found is written after each, so that little is lost if time runs out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import backprop_gpu as bp
from backprop_gpu.backends import Backend
from backprop_gpu.benchmark import NETWORKS, Network
from backprop_gpu.benchmark_table import machine
from backprop_gpu.text_table import aligned
from benchmarks import gpu_contestants
from benchmarks.gpu_contestants import CONTESTANTS, Contestant, precisions_of

ROOT = Path(__file__).parents[1]
MATCHES = [*NETWORKS.values(), replace(NETWORKS["large"], batch=16_384)]

STEPS_CHECKED = 3
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}  # of the loss
CHECKED_FLOPS = 2e12  # a step with more takes the CPU too long
BLOCK_SECONDS, BLOCKS = 0.05, 7
MOST_STEPS = 100_000  # in a block
SECONDS_EACH = 80  # for a contestant on all networks
TESTS = ("tests/test_backends.py", "tests/test_graphs.py", "tests/training")
SANITIZED = ("tests/test_backends.py", "-k", "test_update or test_gather or column or 33-31")


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes
    ----------
    seconds : float or None
        Of a step, from asking for a block of them until it is done: the median of the blocks.
    spread : float
        How far the middle half of the blocks lies apart, as a fraction of the median.
    asked : float or None
        The part of the seconds in which the host was asking.
    on_device : float or None
        Seconds between CUDA's events around the block.
    error : float or None
        How far the losses of the first steps are from NumPy's in float64; None where not checked.
    note : str
        Why there is no time.
    """

    contestant: str
    network: str
    batch: int
    precision: str
    seconds: float | None = None
    spread: float = 0.0
    asked: float | None = None
    on_device: float | None = None
    error: float | None = None
    note: str = ""


# ---- a contestant's process ----------------------------------------------------------------------


def race(name: str, networks: Sequence[Network], references: dict[str, Any]) -> Iterator[Row]:
    """Yield a row for every network and precision; one that fails says why."""
    for network in networks:
        net, x, y = network.build("cpu", network.batch)
        for precision in precisions_of(name, network.layer_sizes, network.dtype):
            row = Row(name, network.name, network.batch, precision)
            try:
                contestant = CONTESTANTS[name](net, x, y, precision)
                yield timed(contestant, row, references.get(key(network)))
            except Exception as error:  # whatever it is, the others go on
                text = " ".join(f"{type(error).__name__}: {error}".split())
                yield replace(row, note=text[:200])


def timed(contestant: Contestant, row: Row, reference: Sequence[float] | None) -> Row:
    """Check a contestant's first losses, and time its steps."""
    losses = contestant.ask(STEPS_CHECKED)
    if reference is not None and losses is not None:
        error = relative_error(losses, reference)
        row = replace(row, error=error)
        if not error < TOLERANCE[row.precision]:
            return replace(row, note="its losses are wrong, so it is not timed")
    times = block_size(contestant)
    blocks = [block(contestant, times) for _ in range(BLOCKS)]
    totals, asked, on_device = zip(*blocks, strict=True)
    low, middle, high = np.quantile(totals, (0.25, 0.5, 0.75))
    return replace(
        row,
        seconds=float(middle) / times,
        spread=float((high - low) / middle),
        asked=statistics.median(asked) / times,
        on_device=None if None in on_device else statistics.median(on_device) / times,
    )


def relative_error(losses: Any, reference: Sequence[float]) -> float:
    found = np.array([loss if isinstance(loss, float) else loss.item() for loss in losses])
    return float(np.abs(found / np.asarray(reference)[: len(found)] - 1).max())


def block_size(contestant: Contestant) -> int:
    """Return how many steps take about BLOCK_SECONDS; warm up with so many, twice."""
    times = contestant.least
    for _ in range(2):
        block(contestant, times)
        each = block(contestant, times)[0] / times
        wanted = min(MOST_STEPS, BLOCK_SECONDS / each)
        times = contestant.least * max(1, round(wanted / contestant.least))
    for _ in range(2):
        block(contestant, times)
    return times


def block(contestant: Contestant, times: int) -> tuple[float, float, float | None]:
    """Return how long steps took, how long asking for them did, and what the events say."""
    contestant.wait()
    began = contestant.mark() if contestant.mark else None
    started = time.perf_counter()
    contestant.ask(times)
    asked = time.perf_counter() - started
    ended = contestant.mark() if contestant.mark else None
    contestant.wait()
    total = time.perf_counter() - started
    between = contestant.between
    return total, asked, None if between is None else between(began, ended) / 1000


def rates(backend: Backend, side: int = 8192) -> Iterator[tuple[str, float]]:
    """Yield what the device does at most: FLOP/s of a large product, bytes/s of a copy."""
    dtype = np.dtype("float32")
    A, B, out = (backend.empty((side, side), dtype) for _ in range(3))
    for array in (A, B):
        array[...] = 1

    def multiply(times: int) -> None:
        with backend.computing():
            for _ in range(times):
                backend.gemm(A, B, out)

    def copy(times: int) -> None:
        with backend.computing():
            for _ in range(times):
                backend.xp.copyto(out, A)

    for what, ask, amount in (
        ("FLOP/s", multiply, 2.0 * side**3),
        ("bytes/s", copy, 2.0 * A.nbytes),
    ):
        contestant = gpu_contestants.of_backend(backend, ask)
        times = block_size(contestant)
        totals = [block(contestant, times)[0] for _ in range(BLOCKS)]
        yield what, amount * times / statistics.median(totals)


def all_rates() -> dict[str, float]:
    found: dict[str, float] = {}
    for precision in ("float32", "tf32", "bf16"):
        for what, rate in rates(gpu_contestants.open_backend(precision)):
            found[f"{what} of a {precision} product" if "FLOP" in what else f"{what} copied"] = rate
    return found


# ---- the process that runs the others ------------------------------------------------------------


def key(network: Network) -> str:
    return f"{network.name}, {network.batch}"


def references_of(networks: Sequence[Network]) -> dict[str, list[float]]:
    """Return the losses of the first steps, by NumPy in float64."""
    found = {}
    for network in networks:
        if network.flops("step", network.batch) < CHECKED_FLOPS:
            net, x, y = network.build("cpu", network.batch)
            net, optimizer = net.copy(dtype="float64"), bp.SGD(gpu_contestants.LEARNING_RATE)
            options: dict[str, Any] = {"optimizer": optimizer, "path": "steps"}
            found[key(network)] = bp.train(net, x, y, epochs=STEPS_CHECKED, **options).loss
    return found


def checks(seconds: float) -> Iterator[dict[str, Any]]:
    """Run the GPU's tests, and some of them under compute-sanitizer, if it is there."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    yield checked("tests on the GPU", [*pytest, *TESTS], seconds / 2)
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    for tool in ("memcheck", "racecheck"):
        if not Path(sanitizer).exists():
            yield {"check": tool, "passed": None, "note": "there is no compute-sanitizer"}
            continue
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
        yield checked(tool, [*command, *pytest, *SANITIZED], seconds / 4)


def checked(name: str, command: Sequence[str], seconds: float) -> dict[str, Any]:
    started = time.perf_counter()
    output, status = run(command, seconds)
    return {
        "check": name,
        "passed": None if status is None else status == 0,
        "seconds": round(time.perf_counter() - started, 1),
        "note": "stopped, for time ran out" if status is None else "",
        "output": output.splitlines()[-12:],
    }


def run(command: Sequence[str], seconds: float) -> tuple[str, int | None]:
    """Run a command; return what it printed until then, and its status, or None when stopped."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        try:
            status = subprocess.run(
                command,
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=max(1.0, seconds),
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
        file.seek(0)
        return file.read(), status


def contestants_rows(name: str, references: Path, seconds: float) -> list[dict[str, Any]]:
    """Return what a contestant's process found; where it ended early, with a row that says so."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--contestant", name]
    output, status = run([*command, "--references", str(references)], seconds)
    lines = output.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith('{"contestant"')]
    if status != 0:
        last = lines[-1][:200] if lines and not lines[-1].startswith("{") else ""
        ended = "stopped, for time ran out" if status is None else f"ended with {status}: {last}"
        rows.append(asdict(Row(name, "-", 0, "-", note=ended)))
    return rows


def about_gpu() -> dict[str, str]:
    about = dict(machine())
    query = "name,driver_version,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu"
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        about["nvidia-smi"] = run(command, 10)[0].strip()
    return about


def report(found: dict[str, Any]) -> str:
    """Return what was found as text."""
    parts = [aligned([(name, str(text)) for name, text in found["machine"].items()])]
    verdict = {True: "passed", False: "FAILED", None: "not run"}
    parts.append(
        aligned([(c["check"], verdict[c["passed"]], c.get("note", "")) for c in found["checks"]])
    )
    parts.append(aligned([(what, f"{rate:.3e}") for what, rate in found["rates"].items()]))
    heading = ["network", "batch", "precision", "contestant", "us/step", "spread", "asking", "GPU"]
    lines = []
    order = [key(network) for network in MATCHES]
    for row in sorted(found["rows"], key=lambda row: place(row, order)):
        cells = [row["network"], str(row["batch"]), row["precision"], row["contestant"]]
        if row["seconds"] is None:
            lines.append([*cells, row["note"] or "-", "-", "-", "-"])
        else:
            micro = [row["seconds"], row["asked"], row["on_device"]]
            whole, asked, device = ("-" if t is None else f"{t * 1e6:,.2f}" for t in micro)
            lines.append([*cells, whole, f"{row['spread']:.0%}", asked, device])
    parts.append(aligned(lines, heading))
    return "\n\n".join(parts)


def place(row: dict[str, Any], order: Sequence[str]) -> int:
    where = f"{row['network']}, {row['batch']}"
    return order.index(where) if where in order else len(order)


def measure(output: Path, minutes: float, names: Sequence[str]) -> dict[str, Any]:
    """Check and time everything that there is time for; write it down again and again."""
    deadline = time.monotonic() + 60 * minutes
    found: dict[str, Any] = {"machine": about_gpu(), "checks": [], "rates": {}, "rows": []}

    def save() -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(found, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        references = Path(folder) / "references.json"
        references.write_text(json.dumps(references_of(MATCHES)))
        save()
        for check in checks((deadline - time.monotonic()) * 0.35):
            found["checks"].append(check)
            save()
        printed, _ = run([sys.executable, "-m", "benchmarks.gpu", "--contestant", "rates"], 60)
        found["rates"] = next(
            (json.loads(line) for line in printed.splitlines() if line.startswith('{"FLOP')), {}
        )
        for name in names:
            left = deadline - time.monotonic()
            if left < 5:
                note = asdict(Row(name, "-", 0, "-", note="no time was left"))
                found["rows"].append(note)
            else:
                seconds = min(left, SECONDS_EACH)
                found["rows"] += contestants_rows(name, references, seconds)
            save()
    save()
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/gpu-latest.json")
    parser.add_argument("--minutes", type=float, default=8.5, help="when to have ended")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--references", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)

    if options.contestant == "rates":
        print(json.dumps(all_rates()), flush=True)
        return 0
    if options.contestant:
        given = json.loads(options.references.read_text()) if options.references else {}
        for row in race(options.contestant, MATCHES, given):
            print(json.dumps(asdict(row)), flush=True)
        return 0

    from backprop_gpu.backends.cupy_device import unusable

    if reason := unusable():
        print(f"nothing is measured: {reason}", file=sys.stderr)
        return 1
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    found = measure(options.output, options.minutes, options.contestants)
    print(report(found))
    return 0 if all(check["passed"] is not False for check in found["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Checks, and a process for every contestant, within a budget of time.

No contestant can spoil the others' figures, or end them: one that fails is gone on with in a new
process. What has been found is written after each, so that little is lost if time runs out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from backprop_gpu.benchmark_table import machine
from benchmarks.gpu.race import CONTESTANTS, references_of
from benchmarks.gpu.rows import Found, Row

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "benchmarks.gpu"]

CHECKS_SHARE, RATES_SECONDS = 0.3, 40.0
MOST_SECONDS = 80.0  # of one contestant
IN_VAIN = 2  # processes of a contestant, in which nothing was timed, before it is given up
OUT_OF_TIME = "stopped, for time ran out"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
SMALL_TESTS = ("tests/test_on_a_gpu.py", "tests/test_backends.py")
TESTS = (*SMALL_TESTS, "tests/test_graphs.py", "tests/training")
SANITIZED = (*SMALL_TESTS, "-k", "small or 33-31", "-p", "benchmarks.gpu.unpooled")


def measure(output: Path, minutes: float, names: Sequence[str]) -> Found:
    """Check and time everything that there is time for; write it down again and again."""
    deadline = time.monotonic() + 60 * minutes
    found = Found(about_gpu(), [], {}, [])

    def save() -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(found.to_json())

    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUPY_CACHE_DIR"] = folder  # so that `first` has all compiling in it
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        references = Path(folder) / "references.json"
        cases = [case for name in names for case in CONTESTANTS[name].cases]
        references.write_text(json.dumps(references_of(cases)))
        save()
        for check in checks((deadline - time.monotonic()) * CHECKS_SHARE):
            found.checks.append(check)
            save()
        printed, _ = run([*PROGRAM, "--rates"], min(RATES_SECONDS, deadline - time.monotonic()))
        found.rates.update(*lines_of(printed)[:1])
        for i, name in enumerate(names):
            left = deadline - time.monotonic()
            seconds = min(MOST_SECONDS, left, 2 * left / (len(names) - i))
            found.rows.extend(contestants_rows(name, references, seconds))
            save()
    return found


def about_gpu() -> dict[str, str]:
    """Return what the figures depend on."""
    about = machine()
    query = "name,driver_version,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu"
    about["driver"] = "no nvidia-smi to ask"
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        about["driver"] = f"{run(command, 10)[0].strip()} ({query})"
    for package in ("cupy", "torch", "jax"):
        about[package] = version(package)
    return about


def version(module: str) -> str:
    """Return the version of what is installed as a module, whatever its package is called."""
    packages = metadata.packages_distributions().get(module, [])
    return ", ".join(f"{name} {metadata.version(name)}" for name in packages) or "not installed"


def checks(seconds: float) -> Iterator[dict[str, Any]]:
    """Run the GPU's tests, and the small ones under compute-sanitizer, if it is there."""
    yield checked("tests on the GPU", [*PYTEST, *TESTS], seconds / 2)
    places = [f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin", os.environ.get("PATH", "")]
    sanitizer = shutil.which("compute-sanitizer", path=os.pathsep.join(places))
    for tool in ("memcheck", "racecheck"):
        if sanitizer is None:
            yield {"check": tool, "passed": None, "note": "there is no compute-sanitizer"}
            continue
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
        yield checked(tool, [*command, *PYTEST, *SANITIZED], seconds / 4)


def checked(name: str, command: Sequence[str], seconds: float) -> dict[str, Any]:
    started = time.perf_counter()
    output, status = run(command, seconds)
    return {
        "check": name,
        "passed": None if status is None else status == 0,
        "seconds": round(time.perf_counter() - started, 1),
        "note": OUT_OF_TIME if status is None else "",
        "output": output.splitlines()[-12:],
    }


def run(command: Sequence[str], seconds: float) -> tuple[str, int | None]:
    """Run a command; return what it printed until then, and its status, or None when stopped."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status: int | None = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            process.wait()
        file.seek(0)
        return file.read(), status


def contestants_rows(name: str, references: Path, seconds: float) -> list[Row]:
    """Return what a contestant's processes found, a row for each of its cases or for the rest."""
    entry, deadline = CONTESTANTS[name], time.monotonic() + seconds
    if find_spec(entry.module) is None:
        return [Row.about(name, f"{entry.module} is not installed")]
    rows: list[Row] = []
    in_vain = 0
    while len(rows) < len(entry.cases):
        left = deadline - time.monotonic()
        if left < 1:
            return [*rows, Row.about(name, OUT_OF_TIME)]
        command = [*PROGRAM, "--contestant", name, "--first", str(len(rows))]
        output, status = run([*command, "--references", str(references)], left)
        found = [Row.of_record(record) for record in lines_of(output)]
        rows += found
        if status is None:
            return [*rows, Row.about(name, OUT_OF_TIME)]
        if status != 0 and len(rows) < len(entry.cases):
            ended = f"ended with {status}: {(output.splitlines() or [''])[-1][:200]}"
            found.append(Row.of(name, entry.cases[len(rows)], ended))
            rows.append(found[-1])
        in_vain = 0 if any(row.seconds for row in found) else in_vain + 1
        if in_vain == IN_VAIN and len(rows) < len(entry.cases):
            return [*rows, Row.about(name, "given up, for nothing could be timed")]
    return rows


def lines_of(output: str) -> list[dict[str, Any]]:
    """Return the records that a process printed, between whatever else it did."""
    return [json.loads(line) for line in output.splitlines() if line.startswith('{"')]

"""Checks, and a process for every contestant, within a budget of time.

No contestant can spoil the others' figures, or end them: one that fails is gone on with in a new
process. What has been found is written after each, so that little is lost if time runs out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import backprop_gpu as bp
from backprop_gpu import kernels
from backprop_gpu.benchmark.machine import machine
from backprop_gpu.files import write_atomically
from benchmarks.gpu.race import CONTESTANTS, references_of
from benchmarks.gpu.rows import Found, Row

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "benchmarks.gpu"]

ON_GPU = "tests on the GPU"
CHECKS_SHARE, RATES_SECONDS = 0.35, 40.0
SUMMARY_SECONDS = 5.0  # for tests that are stopped to say what failed until then
HEAD, TAIL = 100, 60  # lines kept of a check: a tool speaks first, and pytest last
CACHES = ("CUPY_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
IN_VAIN = 2  # processes of a contestant, in which nothing was timed, before it is given up
OUT_OF_TIME = "stopped, for time ran out"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short"]
PYTEST += ["-W", "ignore::DeprecationWarning"]  # of versions that are newer than constraints.txt's
SIDE_BY_SIDE = ["-n", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
SMALL_TESTS = ("tests/test_on_a_gpu.py", "tests/test_backends.py")
TESTS = (*SMALL_TESTS, "tests/test_graphs.py", "tests/test_gradients.py")
TESTS += ("tests/test_cupy_device.py", "tests/test_data_uploads.py", "tests/training")
SANITIZED = (*SMALL_TESTS, "-k", "small or 33-31", "-p", "benchmarks.gpu.unpooled")
SANITIZER = ("--error-exitcode=9", "--check-exit-code=no")
SANITIZER += ("--show-backtrace=device", "--print-limit=5")
# Errors of CUDA's functions are exceptions of CuPy's, and it asks for functions in vain on purpose.
MEMCHECK = ("--report-api-errors=no",)  # which is no option of another tool


def measure(output: Path, minutes: float, names: Sequence[str], go_on: bool = False) -> Found:
    """Check and time everything that there is time for; write it down again and again.

    Parameters
    ----------
    output : Path
        The results, as JSON.
    minutes : float
        When to have ended.
    names : sequence of str
        Who is timed.
    go_on : bool
        Whether to leave out what `output` has already.

    Raises
    ------
    DomainError
        If `output` is of another GPU, driver or CuPy.
    """
    deadline = time.monotonic() + 60 * minutes
    found = Found(about_gpu(), [], {}, [])
    if go_on and output.exists():
        found = gone_on_with(Found.of_json(output.read_text()), found.machine, names)

    def save() -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, found.to_json().encode())  # whenever it is killed

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        references = Path(folder) / "references.json"
        cases = [case for name in names for case in CONTESTANTS[name].cases]
        references.write_text(json.dumps(references_of(cases)))
        save()
        known = [check["check"] for check in found.checks]
        for check in checks((deadline - time.monotonic()) * CHECKS_SHARE, known):
            found.checks.append(check)
            save()
        for cache in CACHES:  # now: checks that are gone on with need not compile again
            os.environ[cache] = folder  # so that `first` has all compiling in it
        if not found.rates:
            printed, _ = run([*PROGRAM, "--rates"], min(RATES_SECONDS, deadline - time.monotonic()))
            found.rates.update(*lines_of(printed)[:1])
            if not found.rates:
                why = {"note": "failed, or took too long", "output": printed.splitlines()[-TAIL:]}
                found.checks.append({"check": "rates", "passed": None, **why})
            save()
        done = Counter(row.implementation for row in found.rows)
        waiting = [name for name in names if done[name] < len(CONTESTANTS[name].cases)]
        for i, name in enumerate(waiting):
            left = deadline - time.monotonic()
            seconds = left * 2 / (len(waiting) - i + 1)
            found.rows.extend(contestants_rows(name, references, seconds, done[name]))
            save()
    return found


def gone_on_with(found: Found, machine: dict[str, str], names: Sequence[str]) -> Found:
    """Return what an earlier run found, without what it says about what it has not found."""
    if found.machine["GPU"] != machine["GPU"]:
        raise bp.DomainError(
            f"the results are of {found.machine['GPU']}, and here is {machine['GPU']}; "
            "leave out --go-on to measure everything anew"
        )
    checks = [check for check in found.checks if check["passed"] is not None]
    rows = [row for row in found.rows if row.batch or row.implementation not in names]
    return replace(found, checks=checks, rows=rows)


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


def checks(seconds: float, known: Container[str] = ()) -> Iterator[dict[str, Any]]:
    """Run the GPU's tests, and the small ones under compute-sanitizer, if it is there."""
    deadline = time.monotonic() + seconds
    places = [f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin", os.environ.get("PATH", "")]
    sanitizer = shutil.which("compute-sanitizer", path=os.pathsep.join(places))
    own = [f"--kernel-name=kne={name}" for name in kernel_names()]
    for name, options in ((ON_GPU, ()), ("memcheck", MEMCHECK), ("racecheck", own)):
        if name in known:
            continue
        command = [*PYTEST, *(SIDE_BY_SIDE if find_spec("xdist") else ()), *TESTS]
        if name != ON_GPU:
            if sanitizer is None:
                yield {"check": name, "passed": None, "note": "there is no compute-sanitizer"}
                continue
            watch = [sanitizer, f"--tool={name}", *SANITIZER, *options]
            command = [*watch, *PYTEST, *SANITIZED]
        left = deadline - time.monotonic()
        yield checked(name, command, left if name == "racecheck" else left / 2)


def kernel_names() -> list[str]:
    """Return the names of the project's kernels."""
    kernel = re.compile(r"__global__ void (?:__launch_bounds__\(.*?\)\s+)?(\w+)\(")
    sources = [file for file in files(kernels).iterdir() if file.name.endswith((".cu", ".cuh"))]
    return sorted(name for file in sources for name in kernel.findall(file.read_text("utf-8")))


def checked(name: str, command: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run tests, and say how they ended; those that are not done in time have no verdict."""
    started = time.perf_counter()
    limit = f"--session-timeout={max(1.0, seconds - SUMMARY_SECONDS):.0f}"
    output, status = run([*command, limit], seconds)
    lines = output.splitlines()
    counts = next((line for line in reversed(lines) if re.match(r"\d+ .* in [\d.]+s", line)), "")
    last = counts or "".join(lines[-1:])
    stopped = status is None or (
        status in (1, 2) and "session-timeout: " in output and not re.search("failed|error", counts)
    )
    return {
        "check": name,
        "passed": None if stopped else status == 0 and "passed" in counts,  # not all were skipped
        "seconds": round(time.perf_counter() - started, 1),
        "note": ", ".join(filter(None, [last, OUT_OF_TIME if stopped else ""])),
        "output": lines if len(lines) <= HEAD + TAIL else [*lines[:HEAD], "...", *lines[-TAIL:]],
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


def contestants_rows(name: str, references: Path, seconds: float, done: int = 0) -> list[Row]:
    """Return what a contestant's processes found, a row for each of its cases or for the rest.

    Some have been done already.
    """
    entry, deadline = CONTESTANTS[name], time.monotonic() + seconds
    if find_spec(entry.module) is None:
        return [Row.about(name, f"{entry.module} is not installed")]
    rows: list[Row] = []
    in_vain = 0
    while (first := done + len(rows)) < len(entry.cases):
        left = deadline - time.monotonic()
        if left < 1:
            return [*rows, Row.about(name, OUT_OF_TIME)]
        command = [*PROGRAM, "--contestant", name, "--first", str(first)]
        output, status = run([*command, "--references", str(references)], left)
        found = [Row.of_record(record) for record in lines_of(output)]
        rows += found
        if status is None:
            return [*rows, Row.about(name, OUT_OF_TIME)]
        if status != 0 and done + len(rows) < len(entry.cases):
            ended = f"ended with {status}: {(output.splitlines() or [''])[-1][:200]}"
            found.append(Row.of(name, entry.cases[done + len(rows)], ended))
            rows.append(found[-1])
        in_vain = 0 if any(row.seconds for row in found) else in_vain + 1
        if in_vain == IN_VAIN and done + len(rows) < len(entry.cases):
            return [*rows, Row.about(name, "given up, for nothing could be timed")]
    return rows


def lines_of(output: str) -> list[dict[str, Any]]:
    """Return the records that a process printed, between whatever else it did."""
    records = []
    for line in output.splitlines():
        if line.startswith('{"'):
            with suppress(json.JSONDecodeError):  # it was stopped meanwhile
                records.append(json.loads(line))
    return records

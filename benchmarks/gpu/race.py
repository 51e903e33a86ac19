"""A contestant's process: whether its numbers are right, then how fast they come."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import backprop_gpu as bp
from backprop_gpu.backends import Backend
from benchmarks.gpu import contestants
from benchmarks.gpu.contestants import OWN, Contestant, Entry
from benchmarks.gpu.peers import PEERS
from benchmarks.gpu.rows import GEMM, MANY, TRAIN, Case, Row

STEPS_CHECKED = 3
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}  # of the loss
CHECKED_FLOPS = 2e12  # a step with more takes the CPU too long
BLOCK_SECONDS, BLOCKS = 0.05, 7
LONG_SECONDS, LONG_BLOCKS = 0.5, 3
LONG = 0.3  # seconds of a block that is long
MOST_STEPS = 1_000_000  # in a block
SIDES = {"float32": 8192, "tf32": 8192, "bf16": 8192, "float64": 4096}  # of the products timed

# In the order of their turns, for time may run out: first what the goals are about.
CONTESTANTS: dict[str, Entry] = {name: OWN[name] for name in (TRAIN, GEMM, MANY)} | PEERS | OWN


def race(name: str, cases: Sequence[Case], references: Mapping[str, Any]) -> Iterator[Row]:
    """Yield a row for every case. The first that fails, and says why, is the last of them.

    After an error of CUDA's, nothing in the process works any more.
    """
    for case in cases:
        row = Row.of(name, case)
        try:
            build = partial(CONTESTANTS[name].build, case)
            row = timed(build, row, references.get(case.key))
        except bp.DomainError as reason:  # it does not take such networks
            row = replace(row, note=str(reason))
        except Exception as error:
            yield replace(row, note=" ".join(f"{type(error).__name__}: {error}".split())[:200])
            return
        yield row


def timed(build: Callable[[], Contestant], row: Row, reference: Sequence[float] | None) -> Row:
    """Build a contestant, check its first losses, and time its steps."""
    started = time.perf_counter()
    contestant = build()
    losses = contestant.ask(STEPS_CHECKED)
    contestant.wait()
    row = replace(row, plan=contestant.plan, first=time.perf_counter() - started)
    if reference is not None and losses is not None:
        row = replace(row, error=relative_error(losses, reference))
        if not row.error < TOLERANCE[row.precision]:
            return replace(row, note="its losses are wrong, so it is not timed")
    times, blocks = block_size(contestant)
    totals, asked, on_device = zip(*(block(contestant, times) for _ in range(blocks)), strict=True)
    low, middle, high = np.quantile(totals, (0.25, 0.5, 0.75))
    steps = times * row.networks
    return replace(
        row,
        seconds=float(middle) / steps,
        spread=float((high - low) / middle),
        asked=statistics.median(asked) / steps,
        on_device=None if None in on_device else statistics.median(on_device) / steps,
    )


def relative_error(losses: Any, reference: Sequence[float]) -> float:
    found = np.array([loss if isinstance(loss, float) else loss.item() for loss in losses])
    return float(np.abs(found / np.asarray(reference)[: len(found)] - 1).max())


def block_size(contestant: Contestant) -> tuple[int, int]:
    """Warm up; return how many steps a block has, and how many blocks to time."""
    times = contestant.least
    seconds = LONG_SECONDS if contestant.long else BLOCK_SECONDS
    for _ in range(2):
        block(contestant, times)
        total = block(contestant, times)[0]
        if total > LONG:
            return times, LONG_BLOCKS
        wanted = min(MOST_STEPS, seconds * times / total)
        times = contestant.least * max(1, round(wanted / contestant.least))
    total = max(block(contestant, times)[0] for _ in range(2))
    return times, LONG_BLOCKS if total > LONG else BLOCKS


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


def references_of(cases: Sequence[Case]) -> dict[str, list[float]]:
    """Return the losses of the first steps, by NumPy in float64."""
    found: dict[str, list[float]] = {}
    for case in cases:
        network = case.network
        if case.key not in found and network.flops("step", network.batch) < CHECKED_FLOPS:
            net, x, y = network.build("cpu", network.batch)
            net, optimizer = net.copy(dtype="float64"), bp.SGD(contestants.LEARNING_RATE)
            options: dict[str, Any] = {"optimizer": optimizer, "path": "steps"}
            found[case.key] = bp.train(net, x, y, epochs=STEPS_CHECKED, **options).loss
    return found


def rates() -> dict[str, float]:
    """Return what the device does at most: FLOP/s of a large product, bytes/s of a copy."""
    found = {}
    for precision, side in SIDES.items():
        backend = contestants.open_backend(precision)
        found[f"FLOP/s, {precision}"] = product_rate(backend, side, precision)
    backend = contestants.open_backend("float32")
    return {**found, "bytes/s, copied": copy_rate(backend, SIDES["float32"])}


def product_rate(backend: Backend, side: int, precision: str) -> float:
    """Return the FLOP/s of a product; in bf16, of factors that are stored as bf16."""
    dtype = np.dtype("float64" if precision == "float64" else "float32")
    random = np.random.default_rng(0).standard_normal((side, side), np.float32)
    factors = bfloat16_bits(random) if precision == "bf16" else random.astype(dtype)
    A, out = backend.asarray(factors, factors.dtype), backend.empty((side, side), dtype)
    return 2.0 * side**3 / _seconds_of(backend, lambda: backend.gemm(A, A, out))


def bfloat16_bits(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16, to even in the middle; return their bits."""
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def copy_rate(backend: Backend, side: int) -> float:
    A, out = (backend.empty((side, side), np.dtype("float32")) for _ in range(2))
    A[...] = 1
    return 2.0 * A.nbytes / _seconds_of(backend, lambda: backend.xp.copyto(out, A))


def _seconds_of(backend: Backend, call: Callable[[], Any]) -> float:
    def ask(times: int) -> None:
        with backend.computing():
            for _ in range(times):
                call()

    seconds = timed(
        lambda: contestants.of_backend(backend, ask), Row("-", 0, "-", "-"), None
    ).seconds
    assert seconds is not None
    return seconds

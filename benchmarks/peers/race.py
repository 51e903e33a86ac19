"""The race: see that all do the same work, then time them in turn."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.benchmark.speed import EPOCHS, Network, products
from backprop_gpu.benchmark.timing import LEAST_BLOCKS, Block, Repeat
from benchmarks.peers.contestants import (
    CONTESTANTS,
    Contestant,
    Skipped,
    usual_path,
    with_activations,
)
from benchmarks.peers.rows import GEMM, Row, Timed

LEARNING_RATE = 0.01
TOLERANCE = {"float32": 1e-3, "float64": 1e-9}  # of an array's root mean square

# An input within rounding of a kink falls on this side or on that, and moves a node's gradient
# by its sample's share: among 16 million, some do. What is wrong is wrong in more entries.
AGREEING = 0.99
BLOCK_SECONDS = 0.03
LONG, LONG_BLOCKS = 10, 3  # seconds for a block of each, from which on a few have to do
LONG_CALLS = 3  # in such a block, if starting them is not to count for much

IDLE_SECONDS, IDLE_FRACTION = 0.02, 0.05


class Disagreement(Exception):
    """A contestant computes something else."""


def race(network: Network, names: Sequence[str], seconds: float) -> list[Row]:
    """Return a row for each contestant, and one for the matrix products with nothing around them.

    Parameters
    ----------
    network : Network
    names : sequence of str
        Of CONTESTANTS. One that can't take part has a row that says why.
    seconds : float
        About how long to time each, training and then predicting; three blocks at least.
    """
    net, x, y = network.build(NumpyBackend(), network.batch)
    running, notes = {}, {}
    for name in names:
        try:
            running[name] = checked(name, net, x, y)
        except Skipped as reason:
            notes[name] = str(reason)
        except Exception as error:  # whatever it is, the others go on
            notes[name] = " ".join(f"{type(error).__name__}: {error}".split())[:100]
    gemm = products(net, x, y)
    steps = {name: partial(_train, contestant) for name, contestant in running.items()}
    predictions = {
        name: partial(_predict, contestant)
        for name, contestant in running.items()
        if contestant.predict is not None
    }
    step = in_turn({**steps, GEMM: gemm["step"]}, seconds, EPOCHS)
    inference = in_turn({**predictions, GEMM: gemm["forward"]}, seconds)
    return [
        Row(network.name, name, notes.get(name, ""), step.get(name), inference.get(name))
        for name in (*names, GEMM)
    ]


def checked(name: str, net: bp.MLP, x: np.ndarray, y: np.ndarray) -> Contestant:
    """Return a contestant of which another has made a step, and the right one.

    The step is so long that it changes parameters by as much as they are large, so that the
    gradient can be read from the change. After it, sigmoids are so close to 0 and 1 that deltas
    are denormal numbers, with which processors take up to nine times as long; so the one that is
    timed has not made it.

    Raises
    ------
    Disagreement
        If the prediction, the loss or a gradient is not that of backpropagation.
    ModuleNotFoundError
    """
    entry = CONTESTANTS[name]
    if find_spec(entry.module) is None:
        raise ModuleNotFoundError(f"{entry.package} is not installed")
    net = with_activations(net, entry)
    trace = net.forward(x)
    gradients = net.backward(trace, y, "mse", input_gradient=False)
    arrays = [*gradients.weights, *gradients.biases]
    long_rate = float(np.abs(net.parameters).max() / np.abs(gradients.flat).max())
    L = len(net.layers)
    names = [f"dC/d{part} of layer {l}" for part in "Wb" for l in range(1, L + 1)]

    contestant = entry.build(net, x, y)
    if contestant.predict is not None:
        _agree("prediction", np.asarray(contestant.predict()), trace.output)
    before = contestant.parameters()
    losses = contestant.train(1, long_rate)
    _agree("loss", np.asarray(losses, net.dtype), gradients.C)
    after = contestant.parameters()
    for what, array, old, new in zip(names, arrays, before, after, strict=True):
        _agree(what, (old - new) / long_rate, array)
    return entry.build(net, x, y)


def _agree(what: str, found: np.ndarray, expected: np.ndarray) -> None:
    if found.shape != expected.shape:
        raise Disagreement(f"{what} has shape {found.shape} instead of {expected.shape}")
    error = np.quantile(np.abs(found - expected), AGREEING) / np.sqrt(np.mean(expected**2))
    if not error < TOLERANCE[expected.dtype.name]:
        raise Disagreement(f"{what} is off by {error:.1e} of its root mean square")


def in_turn(calls: Mapping[str, Repeat], seconds: float, least: int = 1) -> dict[str, Timed]:
    """Time a block of each, and again and again; each when all is quiet.

    Parameters
    ----------
    calls : mapping of str to Repeat
    seconds : float
        About how long to time each.
    least : int
        Calls in a block; LONG_CALLS, if they take more than a second each.
    """
    blocks = {}
    for name, repeat in calls.items():
        settle()
        blocks[name] = block = Block(repeat, BLOCK_SECONDS, lambda: None, least)
        if block.calls < least:  # they are so long that it left it at one
            block.calls, block.estimate = LONG_CALLS, LONG_CALLS * block.estimate
    once = sum(block.estimate for block in blocks.values())
    times: dict[str, list[float]] = {name: [] for name in blocks}
    busy = dict.fromkeys(blocks, 0.0)
    least_blocks = LEAST_BLOCKS if once < LONG else LONG_BLOCKS
    for _ in range(max(least_blocks, int(seconds * len(blocks) / once))):
        for name, block in blocks.items():
            settle()
            cpu = time.process_time()
            times[name].append(block.timed())
            busy[name] += time.process_time() - cpu
    for name, block in blocks.items():
        block.times = times[name]
    return {
        name: Timed(
            block.seconds,
            block.spread,
            len(block.times),
            block.calls,
            cores=busy[name] / sum(block.times),
        )
        for name, block in blocks.items()
    }


def settle() -> None:
    """Wait until no thread of this process is busy.

    BLAS, OpenMP and XLA have threads of their own, which go on spinning when their work is done,
    in case there is more: on cores that the next contestant wants. OpenBLAS's were seen to spin
    for 100 to 130 ms, libgomp's for 10 to 30, XLA's not at all.
    """
    while True:
        before = time.process_time()
        time.sleep(IDLE_SECONDS)
        if time.process_time() - before < IDLE_FRACTION * IDLE_SECONDS:
            return


def _train(contestant: Contestant, times: int) -> None:
    contestant.train(times, LEARNING_RATE)


def _predict(contestant: Contestant, times: int) -> None:
    for _ in range(times):
        contestant.predict()


def peak_memory(network: Network) -> int | None:
    """Return the bytes that it takes to build and train a network, data not counted.

    Run it in a process of its own. Where Linux does not say, return None.
    """
    random, dtype = np.random.default_rng(0), np.dtype(network.dtype).type
    x = random.standard_normal((network.batch, network.layer_sizes[0]), dtype)
    y = random.random((network.batch, network.layer_sizes[-1]), dtype)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the mark forgets what importing took
    except OSError:
        return None
    before = _resident("VmRSS")
    net, *_ = network.build(NumpyBackend(), 1)
    bp.train(net, x, y, epochs=2, path=usual_path(net, len(x)))
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    [kilobytes] = re.findall(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return 1024 * int(kilobytes)

"""Who is timed on a GPU: this library, each of its paths by itself.

A contestant makes steps of full-batch gradient descent on the mean squared error, with data and
parameters of its own on the device. Asking for steps and waiting until they are done are two
calls, so that the host's time and the device's can be told apart. Nobody reads anything back
meanwhile but `train` and `train_many`, which return losses.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import numpy as np

import backprop_gpu as bp
from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend
from backprop_gpu.benchmark.speed import Products
from backprop_gpu.checks import check_data, check_loss
from backprop_gpu.losses import Loss
from backprop_gpu.network import feed_forward, propagate_back
from backprop_gpu.optimizers import numbers_of
from backprop_gpu.passes import new_gradients, new_trace
from backprop_gpu.training.batches import shuffled_batches
from backprop_gpu.training.paths import graphs, one_launch
from backprop_gpu.training.paths.graphs import MOST
from backprop_gpu.training.paths.single_steps import Steps
from backprop_gpu.training.paths.workspace import Workspace
from benchmarks.gpu import rows
from benchmarks.gpu.rows import Case

LEARNING_RATE = 0.01
HEAVY = 1e11  # FLOPs of a step
LONG = 10**9  # epochs of a training for which compiling is worth it
LONG_MANY, MANY_FLOPS = 1000, 1e13  # a training of many networks: steps at least; FLOPs at most


@dataclass(frozen=True)
class Contestant:
    """Does the work.

    Attributes
    ----------
    ask : callable (times) -> losses
        Ask for so many steps. The losses may be on the device.
    wait : callable () -> None
        Wait until all is done.
    plan : str
        The way it takes.
    least : int
        Steps that are asked for at once, at least.
    long : bool
        Whether a call begins with work that would count too much in a short block.
    mark, between : callable, optional
        Record an event in the stream; the milliseconds between two of them.
    """

    ask: Callable[[int], Any]
    wait: Callable[[], None]
    plan: str = ""
    least: int = 1
    long: bool = False
    mark: Callable[[], Any] | None = None
    between: Callable[[Any, Any], float] | None = None


@dataclass(frozen=True)
class Entry:
    """A contestant that can be built.

    Attributes
    ----------
    build : callable (case) -> Contestant
    cases : sequence of Case
        What it is timed on.
    module : str
        What has to be installed.
    """

    build: Callable[[Case], Contestant]
    cases: Sequence[Case]
    module: str = "cupy"


def open_backend(precision: str) -> Backend:
    from backprop_gpu.backends.cupy_device import open_gpu

    return open_gpu(0, "float32" if precision == "float64" else precision)


def of_backend(
    backend: Backend,
    ask: Callable[[int], Any],
    plan: str = "",
    least: int = 1,
    long: bool = False,
) -> Contestant:
    """Return a contestant on a backend; CUDA's events come from CuPy, where that is below."""
    cuda = getattr(backend.xp, "cuda", None)
    if cuda is None:
        return Contestant(ask, backend.synchronize, plan, least, long)

    def mark() -> Any:
        event = cuda.Event()
        event.record()
        return event

    elapsed = cuda.get_elapsed_time
    return Contestant(ask, backend.synchronize, plan, least, long, mark, elapsed)


def on_gpu(case: Case) -> tuple[bp.MLP, Array, Array, Loss]:
    """Return a case's network and data on the device, and the loss."""
    net, x, y = case.network.build("cpu", case.network.batch)
    net = net.copy(device=open_backend(case.precision))
    loss = check_loss(net, "mse")
    return net, *check_data(net, x, y, loss), loss


def at_once(case: Case) -> int:
    """Return how many steps to ask for at once, at least: few, where one takes milliseconds."""
    return MOST if case.network.flops("step", case.network.batch) < HEAVY else 2


def single_steps(case: Case, captured: bool) -> Contestant:
    """Return the library's steps as CUDA graphs, or each of their kernels launched from Python."""
    net, x, y, loss = on_gpu(case)
    optimizer, window = bp.SGD(LEARNING_RATE), case.window or MOST
    plan = f"CUDA graphs of up to {window} steps"
    if not captured:
        backend, plan = copy(net.backend), "each kernel launched from Python"
        backend._capture = None
        net = net.copy(device=backend)
    elif (obstacle := graphs.why_not_captured(net, loss, optimizer)) is not None:
        raise bp.DomainError(f"there is no graph, for {obstacle}")
    batches = shuffled_batches(x, y, len(x), None, net.backend)
    step = Steps(net, batches, loss, optimizer)._step
    with patch.object(graphs, "MOST", window):
        path = graphs.StepGraphs(batches, Workspace(net, loss, x, y), step)

    @cache
    def room(times: int) -> Array:
        return net.backend.empty((times,), net.dtype)

    def ask(times: int) -> Any:
        run = range(times)
        numbers = numbers_of(optimizer, run, np.zeros(times))
        with (
            net.backend.computing(),
            patch.object(graphs, "MOST", window),
            warnings.catch_warnings(action="error", category=RuntimeWarning),  # no graph was made
        ):
            if path.run(run, numbers, room(times)) < times:
                raise MemoryError("there is too little memory for graphs")
        return room(times)

    return of_backend(net.backend, ask, plan, case.window or at_once(case))


def in_one_launch(case: Case, file: str) -> Contestant:
    """Return training in one launch, by a kernel whether it is the best one or not."""
    net, x, y, loss = on_gpu(case)
    optimizer, xp = bp.SGD(LEARNING_RATE), net.backend.xp
    forced = {"train_warp": 10**9, "train_block": 0}[file]
    with patch.object(one_launch, "WARP_BATCH", forced):
        kernel = one_launch.kernel_for(net, loss, optimizer, len(x))
        launch = one_launch.OneLaunch(net, loss, optimizer, len(x))  # raises if there is none
    if kernel.file != file:
        raise bp.DomainError(f"{file} can't train this network; {kernel.file} can")
    with net.backend.computing():
        parameters = xp.stack([net.parameters] * case.networks)

    @cache
    def room(times: int) -> Array:
        return net.backend.empty((case.networks, times), net.dtype)

    def ask(times: int) -> Any:
        run = range(times)
        numbers = numbers_of(optimizer, run, np.zeros(times))[None]
        with net.backend.computing():
            launch.run(parameters, [], x, y, steps=run, numbers=numbers, losses=room(times))
        return room(times)[0]

    least = at_once(case) if case.networks == 1 else 1
    return of_backend(net.backend, ask, f"one launch: {kernel.file}", least)


def trained(case: Case) -> Contestant:
    """Return `train` itself, with all that it does around the steps, as in a long training."""
    net, x, y, _ = on_gpu(case)
    options: dict[str, Any] = {"optimizer": bp.SGD(LEARNING_RATE)}
    plan = bp.plan(net, samples=len(x), epochs=LONG, **options)

    def ask(times: int) -> list[float]:
        return bp.train(net, x, y, epochs=times, path=plan.path, **options).loss

    return of_backend(net.backend, ask, str(plan), at_once(case), long=True)  # captures graphs


def trained_together(case: Case) -> Contestant:
    """Return `train_many` itself, with all that it does around the launches."""
    net, x, y, _ = on_gpu(case)
    nets = [net.copy() for _ in range(case.networks)]
    options: dict[str, Any] = {"optimizers": bp.SGD(LEARNING_RATE), "path": "one launch"}
    flops = case.networks * case.network.flops("step", len(x))

    def ask(times: int) -> list[float]:
        return bp.train_many(nets, x, y, epochs=times, **options)[0].loss

    least = max(MOST, min(LONG_MANY, int(MANY_FLOPS / flops)))
    return of_backend(net.backend, ask, "one launch", least)


def products(case: Case) -> Contestant:
    """Return the matrix products of a step with nothing around them: the floor."""
    net, x, y, loss = on_gpu(case)
    trace, gradients = new_trace(net, x), new_gradients(net, len(x))
    written: Any = Products()
    unit = at_once(case)
    with net.backend.computing():
        for backend in (net.backend, written):  # the first, so that there are numbers to multiply
            feed_forward(backend, net.layers, trace)
            propagate_back(backend, net.layers, trace, y, loss, gradients)

    def many(backend: Backend) -> None:
        for A, B, out in written.operands * unit:
            backend.gemm(A, B, out)

    repeat = net.backend.record(many)

    def ask(times: int) -> None:
        with net.backend.computing():
            for _ in range(times // unit):
                repeat()

    return of_backend(net.backend, ask, f"a CUDA graph of the products of {unit} steps", unit)


OWN: dict[str, Entry] = {
    rows.TRAIN: Entry(trained, rows.MAIN),
    rows.GEMM: Entry(products, rows.MAIN),
    rows.MANY: Entry(trained_together, rows.ENSEMBLES),
    rows.GRAPHS: Entry(
        partial(single_steps, captured=True), [*rows.MAIN, *rows.WINDOWS, *rows.SWEPT]
    ),
    rows.WARP: Entry(
        partial(in_one_launch, file="train_warp"),
        [*rows.SMALL, *rows.SWEPT, *rows.ENSEMBLES],
    ),
    rows.BLOCK: Entry(
        partial(in_one_launch, file="train_block"),
        [*rows.SMALL, *rows.SWEPT, *rows.ENSEMBLES],
    ),
    rows.SINGLY: Entry(partial(single_steps, captured=False), [*rows.MAIN, *rows.SWEPT]),
}

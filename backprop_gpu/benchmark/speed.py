"""Benchmarks: forward, backward and training steps, beside the machine's own matrix products.

FLOPs are those of the matrix products alone. A FLOP rate, divided by the rate of the very same
products with nothing around them, is then the fraction of the time that goes into what has to be
done; the rest is biases, activations, losses, updates and Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from backprop_gpu import MLP, LeakyReLU, train
from backprop_gpu.arrays import Array, step_flops
from backprop_gpu.backends import Backend, choose_backend
from backprop_gpu.benchmark.machine import machine
from backprop_gpu.benchmark.table import PARTS, Row, of_json, report, to_json
from backprop_gpu.benchmark.timing import Repeat, Timer, measure, time_plainly
from backprop_gpu.checks import check_loss
from backprop_gpu.errors import DeviceError, UnknownNameError, check_count, check_positive
from backprop_gpu.files import write_atomically
from backprop_gpu.network import feed_forward, propagate_back
from backprop_gpu.passes import new_gradients, new_trace

EPOCHS = 10  # of a training run that is timed, or more: starting one takes as long as some epochs

Contestant = Callable[[MLP, Array, Array], Mapping[str, Repeat]]
"""Given a network and data on its device, returns what does each of PARTS on them, or those that
it can do."""


@dataclass(frozen=True)
class Network:
    """A network that is timed: leaky ReLU 0.1, then sigmoids; mean squared error; plain SGD."""

    name: str
    layer_sizes: tuple[int, ...]
    batch: int
    dtype: str = "float32"

    def flops(self, part: str, n: int) -> int:
        """Return the FLOPs of the matrix products; a multiplication and its addition are 2.

        With P weights, P_1 of them in the first layer:

            forward     2 n P               a[l-1] W[l]^T in every layer
            backward    2 n (2 P - P_1)     delta[l]^T a[l-1] in every layer, and delta[l] W[l] in
                                            all but the first: training needs no dC/dx
            step        2 n (3 P - P_1)     both
        """
        weights = [inputs * nodes for inputs, nodes in pairwise(self.layer_sizes)]
        P, P_1 = sum(weights), weights[0]
        return 2 * n * {"forward": P, "backward": 2 * P - P_1, "step": 3 * P - P_1}[part]

    def build(self, device: str | Backend, n: int) -> tuple[MLP, Array, Array]:
        """Return the network and n samples, the same in every run, on a device."""
        random = np.random.default_rng(0)
        activations = [LeakyReLU(0.1)] + ["sigmoid"] * (len(self.layer_sizes) - 2)
        net = MLP(self.layer_sizes, activations, device=device, dtype=self.dtype)
        x = random.standard_normal((n, self.layer_sizes[0]), net.dtype.type)
        y = random.random((n, self.layer_sizes[-1]), net.dtype.type)
        return net, net.backend.asarray(x, net.dtype), net.backend.asarray(y, net.dtype)


NETWORKS = {
    network.name: network
    for network in (
        Network("textbook", (5, 3, 5, 4), 1, "float64"),
        Network("small", (64, 128, 128, 10), 64),
        Network("tabular", (128, 256, 256, 1), 1024),
        Network("wide", (784, 1024, 1024, 10), 1024),
        Network("large", (2048, 4096, 4096, 2048), 4096),
    )
}
USUAL = [name for name in NETWORKS if name != "large"]  # which takes longer than all the others


def library(net: MLP, x: Array, y: Array) -> dict[str, Repeat]:
    """Return the library's passes, recorded as training has them, and steps of `train`."""
    loss = check_loss(net, "mse")
    trace, gradients = new_trace(net, x), new_gradients(net, len(x))

    def forward(backend: Backend) -> None:
        feed_forward(backend, net.layers, trace)

    def backward(backend: Backend) -> None:
        propagate_back(backend, net.layers, trace, y, loss, gradients)

    def repeated(work: Callable[[Backend], None]) -> Repeat:
        replay = net.backend.record(work)
        replay()
        return partial(_repeated, replay, net, len(x))

    def step(times: int) -> None:
        train(net, x, y, loss=loss, epochs=times, path="steps")

    return {"forward": repeated(forward), "backward": repeated(backward), "step": step}


def products(net: MLP, x: Array, y: Array) -> dict[str, Repeat]:
    """Return the matrix products of the library's passes, on the same arrays; nothing else."""
    loss = check_loss(net, "mse")
    trace, gradients = new_trace(net, x), new_gradients(net, len(x))
    forward, backward = Products(), Products()
    backend: Any
    for backend in (net.backend, forward):
        feed_forward(backend, net.layers, trace)
    for backend in (net.backend, backward):
        propagate_back(backend, net.layers, trace, y, loss, gradients)

    def repeated(operands: Sequence[tuple[Array, Array, Array]]) -> Repeat:
        def multiply(backend: Backend) -> None:
            for A, B, out in operands:
                backend.gemm(A, B, out)

        return partial(_repeated, net.backend.record(multiply), net, len(x))

    return {
        "forward": repeated(forward.operands),
        "backward": repeated(backward.operands),
        "step": repeated(forward.operands + backward.operands),
    }


class Products:
    """Stands for a backend: writes down the products that are asked of it, computes nothing."""

    def __init__(self) -> None:
        self.operands: list[tuple[Array, Array, Array]] = []

    def gemm(self, A: Array, B: Array, out: Array) -> None:
        self.operands.append((A, B, out))

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def _repeated(replay: Callable[[], None], net: MLP, n: int, times: int) -> None:
    """Repeat as `train` does: with as many threads, so that parts add up."""
    with net.backend.computing(step_flops(net.layer_sizes, n)):
        for _ in range(times):
            replay()


class Case:
    """A network with data on a device, ready to be measured beside its products and rivals."""

    def __init__(
        self,
        network: Network,
        batch: int,
        device: str | Backend,
        rivals: Mapping[str, Contestant],
    ) -> None:
        self.network, self.batch = network, batch
        net, x, y = network.build(device, batch)
        self.backend = net.backend
        contestants = {"library": library, "gemm": products, **rivals}
        with self.backend.computing():
            self.passes = {name: entry(net, x, y) for name, entry in contestants.items()}

    def measure(self, part: str, seconds: float, timer: Timer = time_plainly) -> Row:
        """Measure one of PARTS."""
        calls = {name: passes[part] for name, passes in self.passes.items() if part in passes}
        least = EPOCHS if part == "step" else 1
        with self.backend.computing():
            blocks = measure(calls, seconds, self.backend.synchronize, timer, least)
        own, gemm = blocks.pop("library"), blocks.pop("gemm")
        return Row(
            self.network.name,
            self.batch,
            part,
            self.backend.device,
            flops=self.network.flops(part, self.batch),
            seconds=own.seconds,
            spread=own.spread,
            blocks=len(own.times),
            calls=own.calls,
            gemm_seconds=gemm.seconds,
            rivals={name: block.seconds for name, block in blocks.items()},
        )


def run_benchmark(
    networks: Sequence[str] | None = None,
    batches: Sequence[int] | None = None,
    devices: Sequence[str] = ("cpu", "cuda"),
    seconds: float = 1.0,
    output: Path | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> str:
    """Measure forward and backward passes and training steps; return a table.

    Parameters
    ----------
    networks : sequence of str, optional
        Names from NETWORKS. Default: USUAL.
    batches : sequence of int, optional
        Batch sizes. Default: each network's own.
    devices : sequence of str
        "cpu", "cuda", "cuda:1", ... Of a GPU that is not there the table says so.
    seconds : float
        About how long to time each pass, and again what it is compared with.
    output : Path, optional
        A JSON file to write.
    say : callable
        Is told of every measurement as it starts.
    """
    check_positive("seconds", seconds)
    for batch in batches or ():
        check_count("batch", batch)
    for name in networks or ():
        if name not in NETWORKS:
            raise UnknownNameError("network", name, NETWORKS)
    absent = {device for device in devices if is_absent(device)}
    about, rows = machine(), []
    wanted = [
        (NETWORKS[name], batch, device)
        for name in networks or USUAL
        for batch in batches or [NETWORKS[name].batch]
        for device in devices
    ]
    for network, batch, device in wanted:
        case = None
        for part in PARTS:
            row = Row(network.name, batch, part, device, network.flops(part, batch))
            if device not in absent:
                say(f"timing {network.name}, batch {batch:,}, {part}, on {device}")
                case = case or Case(network, batch, device, {})
                row = case.measure(part, seconds)
            rows.append(row)
    found = to_json(about, rows)
    if output is not None:
        write_atomically(output, found.encode())
    return report(*of_json(found))


def is_absent(device: str) -> bool:
    """Return whether a device is a GPU that can't be used; an unknown name raises."""
    try:
        choose_backend(device)
    except DeviceError:
        if re.fullmatch(r"cuda(:\d+)?", device):
            return True
        raise
    return False

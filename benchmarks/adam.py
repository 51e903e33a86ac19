"""Steps of Adam on mini-batches: this library's ways on the CPU, and PyTorch's, in turn.

    python -m benchmarks.adam [--seconds 3]

Leaky ReLU, then sigmoids, mean squared error; an epoch of shuffled batches is a call. PyTorch draws
its batches by `randperm`, as its users do. Before anything is timed, the losses of one epoch, not
shuffled, have to agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

import backprop_gpu as bp
from backprop_gpu.benchmark.speed import Network
from backprop_gpu.text_table import aligned
from benchmarks.peers.race import in_turn
from benchmarks.torch_network import sequential

CASES = (
    Network("", (64, 128, 128, 10), 64),
    Network("", (784, 256, 10), 128),
    Network("", (784, 1024, 1024, 10), 64),
    Network("", (784, 1024, 1024, 10), 256),
    Network("", (784, 1024, 1024, 10), 1024),
)
BATCHES = 50  # an epoch; of fewer, what a call of `train` begins with would count as steps
RATE = 1e-4

Epochs = Callable[[int, bool], Sequence[float]]
"""Train for so many epochs, shuffled or not; return the loss of each."""


def own(net: bp.MLP, x: np.ndarray, y: np.ndarray, batch_size: int, path: str) -> Epochs:
    def train(epochs: int, shuffle: bool) -> Sequence[float]:
        options = {"batch_size": batch_size, "epochs": epochs, "shuffle": shuffle, "path": path}
        return bp.train(net, x, y, optimizer=bp.Adam(RATE), **options).loss

    net = net.copy()
    return train


def in_torch(net: bp.MLP, x: np.ndarray, y: np.ndarray, batch_size: int, fused: bool) -> Epochs:
    import torch

    model, x, y = sequential(net), torch.from_numpy(x), torch.from_numpy(y)
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=fused)

    def train(epochs: int, shuffle: bool) -> Sequence[float]:
        losses = []
        for _ in range(epochs):
            order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
            sums = 0.0
            for rows in order.split(batch_size):
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(model(x[rows]), y[rows])
                loss.backward()
                optimizer.step()
                sums += loss.item() * len(rows)
            losses.append(sums / len(x))
        return losses

    return train


def chosen_path(network: Network) -> str:
    """Return what a long training takes."""
    net, *_ = network.build("cpu", 1)
    sizes = {"samples": BATCHES * network.batch, "batch_size": network.batch}
    return bp.plan(net, optimizer=bp.Adam(RATE), epochs=10**6, **sizes).path


def contestants(network: Network) -> dict[str, Epochs]:
    """Return who is timed, each with a network of its own that has made one epoch."""
    net, x, y = network.build("cpu", BATCHES * network.batch)
    build = {
        "chosen": partial(own, path=chosen_path(network)),
        "steps": partial(own, path="steps"),
        "PyTorch": partial(in_torch, fused=False),
        "PyTorch, fused=True": partial(in_torch, fused=True),
    }
    made = {name: make(net, x, y, network.batch) for name, make in build.items()}
    losses = {name: train(1, False)[0] for name, train in made.items()}
    for name, loss in losses.items():
        if abs(loss / losses["steps"] - 1) > 1e-4:
            raise SystemExit(f"{name} has the loss {loss}, and {losses['steps']} was expected")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each case and contestant")
    options = parser.parse_args(arguments)
    rows = []
    for network in CASES:
        calls = {
            name: lambda times, train=train: train(times, True)
            for name, train in contestants(network).items()
        }
        found = in_turn(calls, options.seconds)
        first, *others = (timed.seconds / BATCHES for timed in found.values())
        sizes, path = "-".join(map(str, network.layer_sizes)), chosen_path(network)
        ratios = [f"{other / first:.2f}" for other in others]
        rows.append((sizes, f"{network.batch}", path, f"{1e6 * first:,.0f}", *ratios))
    head = ["network", "batch", "path", "us a step", "steps", "PyTorch", "PyTorch, fused=True"]
    print(bp.backends.choose_backend("cpu")[1])
    print(aligned(rows, head))


if __name__ == "__main__":
    main()

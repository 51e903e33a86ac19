"""What each of the NumPy backend's tricks gains: the step with it, and without it, in turn.

    python -m benchmarks.tricks [--seconds 2]

A trick is taken away by replacing the one function that has it. The ratio is that of medians of
interleaved blocks: 1.30 says that the step without the trick takes 1.30 times as long.
"""

import argparse
import statistics
import time
from contextlib import contextmanager
from functools import partial
from unittest import mock

import numpy as np

from backprop_gpu.activations import Activation
from backprop_gpu.backends import numpy_backend
from backprop_gpu.backends.numpy_backend import NumpyBackend
from backprop_gpu.benchmark.speed import NETWORKS
from backprop_gpu.losses import Loss
from backprop_gpu.training.train import train


def not_recorded(self, work):
    return partial(work, self)


def sum_rows_plainly(self, array, out):
    self._call(np.add.reduce, array, 0, None, out)


def by_name(self, name):
    function = getattr(np, name)

    def write_down(*args, out):
        self._calls.append(partial(function, *args, out=out))

    return write_down


TRICKS = {
    "calls recorded and repeated": (NumpyBackend, "record", not_recorded),
    "`out` by position, numbers as arrays": (numpy_backend._Recorder, "__getattr__", by_name),
    "activations into given arrays": (Activation, "in_place", False),
    "loss and gradient in one, in place": (Loss, "in_place", None),
    "bias gradients by BLAS": (NumpyBackend, "_sum_rows", sum_rows_plainly),
    "elementwise work in tiles": (numpy_backend, "TILE", 1 << 40),
    "one BLAS thread for small steps": (numpy_backend, "SMALL", 0.0),
}


@contextmanager
def without(trick):
    owner, name, replacement = TRICKS[trick]
    with mock.patch.object(owner, name, replacement):
        yield


def block(network, data, steps):
    net, x, y = data
    start = time.perf_counter()
    train(net, x, y, epochs=steps, path="steps")
    return (time.perf_counter() - start) / steps


def measure(name, seconds):
    """Return, for every trick, how many times as long a step takes without it."""
    network = NETWORKS[name]
    data = network.build("cpu", network.batch)
    once = block(network, data, 3)
    steps = max(2, int(0.05 / once))
    rounds = max(5, int(seconds / (2 * steps * once)))
    ratios = {}
    for trick in TRICKS:
        own, bare = [], []
        for _ in range(rounds):
            own.append(block(network, data, steps))
            with without(trick):
                bare.append(block(network, data, steps))
        ratios[trick] = statistics.median(bare) / statistics.median(own)
    return ratios


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each trick and network")
    parser.add_argument("--networks", nargs="+", default=["textbook", "small", "tabular", "wide"])
    options = parser.parse_args(arguments)
    found = {name: measure(name, options.seconds) for name in options.networks}
    print("| without | " + " | ".join(found) + " |")
    print("|---" * (len(found) + 1) + "|")
    for trick in TRICKS:
        print(f"| {trick} | " + " | ".join(f"{found[name][trick]:.2f}" for name in found) + " |")


if __name__ == "__main__":
    main()

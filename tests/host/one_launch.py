"""Small networks, trained by NumPy's steps and in one launch."""

from __future__ import annotations

import numpy as np

import backprop_gpu as bp
from backprop_gpu import one_launch
from backprop_gpu.batches import shuffled_batches
from backprop_gpu.losses import find_loss
from backprop_gpu.one_launch_steps import OneLaunchSteps
from backprop_gpu.optimizers import numbers_of
from backprop_gpu.steps import Steps

from .backend import emulated_backend
from .launcher import HostLauncher

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def force(file, monkeypatch, tile=4):
    monkeypatch.setattr(one_launch, "WARP_BATCH", 10**9 if file == "train_warp" else 0)
    monkeypatch.setattr(one_launch, "TILE", tile)
    return file


class Case:
    """A network, data, and how it is trained; by NumPy's steps, and in one launch."""

    def __init__(
        self,
        sizes,
        activations,
        loss="mse",
        optimizer=None,
        *,
        dtype="float64",
        n=7,
        batch_size=3,
        steps=5,
        first_step=0,
        seed=None,
    ):
        self.net = bp.MLP(sizes, activations, device="cpu", dtype=dtype, seed=3)
        self.loss, self.optimizer = find_loss(loss), optimizer or bp.SGD(0.1)
        self.batch_size, self.seed = batch_size, seed
        self.steps = range(first_step, first_step + steps)
        random = np.random.default_rng(4)
        self.x = random.normal(size=(n, sizes[0])).astype(dtype)
        self.y = random.uniform(size=(n, sizes[-1])).astype(dtype)
        self.y /= self.y.sum(axis=1, keepdims=True)  # a distribution
        self.net.parameters[...] += random.normal(size=self.net.parameters.size) / 50
        self.state = [abs(self.net.parameters) / (9 + i) for i in range(self.optimizer.slots)]
        passed = np.array(self.steps) / -(-n // batch_size)
        self.numbers = numbers_of(self.optimizer, self.steps, passed)

    def run(self, make, backend, finite=True, dtype=None):
        """Return losses, parameters and state after the steps."""
        net = self.net.copy(device=backend, dtype=dtype or self.net.dtype)
        x, y = self.x.astype(net.dtype), self.y.astype(net.dtype)
        with net.backend.computing():
            batches = shuffled_batches(x, y, self.batch_size, self.seed, net.backend)
            steps = make(net, batches)
            for slot, start in zip(steps.state, self.state, strict=True):
                slot[...] = start
            losses, counts = steps.run(self.steps, self.numbers)
        if finite:
            assert counts.tolist() == batches.counts(self.steps).tolist()
        return losses, net.parameters, *steps.state

    def by_numpy(self, dtype=None):
        return self.run(lambda net, b: Steps(net, b, self.loss, self.optimizer), "cpu", dtype=dtype)

    def in_one_launch(self, backend=None, finite=True):
        return self.run(
            lambda net, b: OneLaunchSteps(net, b, self.loss, self.optimizer, self.seed),
            backend or emulated_backend(),
            finite,
        )

    def check(self):
        tolerance = TOLERANCE[self.net.dtype.name]
        for ours, numpys in zip(self.in_one_launch(), self.by_numpy(), strict=True):
            np.testing.assert_allclose(ours, numpys, tolerance, tolerance * abs(numpys).max())


class MutantLauncher(HostLauncher):
    """Replaces something in a source: the first, second, ... of its kind."""

    def __init__(self, seed, old, new, which):
        super().__init__(seed)
        self.old, self.new, self.which = old, new, which

    def launch(self, source, *rest):
        pieces = source.split(self.old)
        head, tail = pieces[: self.which + 1], pieces[self.which + 1 :]
        assert tail
        super().launch(self.old.join(head) + self.new + self.old.join(tail), *rest)

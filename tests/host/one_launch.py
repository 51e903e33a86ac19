"""Small networks, trained by NumPy's steps and in one launch."""

from __future__ import annotations

from cases import TrainingCase

from backprop_gpu.training.batches import shuffled_batches
from backprop_gpu.training.paths import one_launch
from backprop_gpu.training.paths.one_launch_steps import OneLaunchSteps
from backprop_gpu.training.paths.single_steps import Steps

from .backend import emulated_backend


def force(file, monkeypatch, tile=4):
    monkeypatch.setattr(one_launch, "WARP_BATCH", 10**9 if file == "train_warp" else 0)
    monkeypatch.setattr(one_launch, "TILE", tile)
    return file


class Case(TrainingCase):
    """A training by NumPy's steps, and in one launch."""

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
        given = self.loss, self.optimizer
        return self.run(
            lambda net, b: Steps(net, b, *given, limits=self.limits), "cpu", dtype=dtype
        )

    def in_one_launch(self, backend=None, finite=True):
        return self.run(
            lambda net, b: OneLaunchSteps(
                *(net, b, self.loss, self.optimizer, self.seed, self.limits)
            ),
            backend or emulated_backend(),
            finite,
        )

    def check(self):
        self.check_close(self.in_one_launch(), self.by_numpy())

"""Training steps on a GPU, a chunk a launch: what `Steps` does."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.batches import ArrayBatches
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.one_launch import OneLaunch, most_steps
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.steps import Safe, SafePoint, first_bad_layer


class OneLaunchSteps:
    """The steps of one training run of a small network on a GPU.

    Parameters
    ----------
    net, batches, loss, optimizer
        As of `Steps`.
    seed : int or None
        What shuffles the batches.
    """

    reads_all = True

    def __init__(
        self, net: MLP, batches: ArrayBatches, loss: Loss, optimizer: Optimizer, seed: int | None
    ) -> None:
        self.net, self.batches, self.optimizer = net, batches, optimizer
        self._seeds = None if seed is None else [seed]
        self._launch = OneLaunch(net, loss, optimizer, batches.batch_size)
        self.state = [net.backend.xp.zeros_like(net.parameters) for _ in range(optimizer.slots)]
        self.safe = SafePoint(net, self.state)
        self._last = 0

    def run(
        self, steps: range, numbers: NDArray[np.float64], safe: Safe = "nothing"
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Run steps; see `Steps.run`."""
        before = self.net.parameters.copy(), [slot.copy() for slot in self.state]
        losses: NDArray[np.float64] = np.empty(0)
        while len(losses) < len(steps) and np.isfinite(losses[-1:]).all():
            piece = slice(len(losses), len(losses) + self._most_steps())
            found, ran = self._launch.run(
                *(self.net.parameters[None], [slot[None] for slot in self.state]),
                *(self.batches.x, self.batches.y),
                steps=steps[piece],
                numbers=numbers[None, piece],
                seeds=self._seeds,
            )
            losses = np.append(losses, found[0, : ran[0]])
        self._last = steps[len(losses) - 1]
        if safe != "nothing" and math.isfinite(losses[0]):
            parameters, state = before
            self.safe.accept(steps.start, parameters, state if safe == "everything" else None)
        return losses, self.batches.counts(steps[: len(losses)])

    def first_bad_layer(self) -> int | None:
        """Return the first layer with NaN or infinity in it, on the batch of the last step."""
        count = self.batches.load(self._last)
        x, _ = self.batches.arrays()
        return first_bad_layer(self.net, x[:count])

    def _most_steps(self) -> int:
        return most_steps(len(self.batches.x), self.batches.batch_size, 1)

"""Training steps on a GPU, a chunk a launch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.batches import ArrayBatches
from backprop_gpu.chunk_steps import ChunkSteps
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.one_launch import OneLaunch, most_steps
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.step import NO_LIMITS, Limits


class OneLaunchSteps(ChunkSteps):
    """The steps of one training run of a small network on a GPU.

    Parameters
    ----------
    net, batches, loss, optimizer, limits
        As of `Steps`.
    seed : int or None
        What shuffles the batches.
    """

    batches: ArrayBatches

    def __init__(
        self,
        net: MLP,
        batches: ArrayBatches,
        loss: Loss,
        optimizer: Optimizer,
        seed: int | None,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._seeds = None if seed is None else [seed]
        self._launch = OneLaunch(net, loss, optimizer, batches.batch_size, limits)
        super().__init__(net, batches, optimizer)

    def _run(
        self, steps: range, numbers: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        most = most_steps(len(self.batches.x), self.batches.batch_size, 1)
        losses: NDArray[np.float64] = np.empty(0)
        while len(losses) < len(steps) and np.isfinite(losses[-1:]).all():
            piece = slice(len(losses), len(losses) + most)
            found, ran = self._launch.run(
                *(self.net.parameters[None], [slot[None] for slot in self.state]),
                *(self.batches.x, self.batches.y),
                steps=steps[piece],
                numbers=numbers[None, piece],
                seeds=self._seeds,
            )
            losses = np.append(losses, found[0, : ran[0]])
        return losses, self.batches.counts(steps[: len(losses)])

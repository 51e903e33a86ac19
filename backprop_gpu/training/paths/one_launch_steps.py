"""Training steps on a GPU, a chunk a launch."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.training.batches import ArrayBatches
from backprop_gpu.training.paths.chunk_steps import ChunkSteps
from backprop_gpu.training.paths.one_launch import OneLaunch, most_steps
from backprop_gpu.training.paths.step import NO_LIMITS, Limits


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

    def _run(self, steps: range, numbers: NDArray[np.float64], losses: Array) -> NDArray[np.int64]:
        most = most_steps(len(self.batches.x), self.batches.batch_size, 1)
        ran = 0
        while ran < len(steps) and (ran == 0 or math.isfinite(losses[ran - 1])):
            piece = slice(ran, ran + most)
            self._launch.run(
                self.net.parameters[None],
                [slot[None] for slot in self.state],
                self.batches.x,
                self.batches.y,
                steps=steps[piece],
                numbers=numbers[None, piece],
                losses=losses[None, piece],
                seeds=self._seeds,
            )
            ran += len(steps[piece])
        return self.batches.counts(steps[:ran])

"""Training steps by the compiled loop."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.batches import ArrayBatches
from backprop_gpu.chunk_steps import ChunkSteps
from backprop_gpu.compiled import CompiledLoop
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer


class CompiledSteps(ChunkSteps):
    """The steps of one training run, compiled for it.

    Parameters
    ----------
    net, batches, loss, optimizer
        As of `Steps`.
    seed : int or None
        What shuffles the batches.
    threads : int
        How many share a batch.
    """

    def __init__(
        self,
        net: MLP,
        batches: ArrayBatches,
        loss: Loss,
        optimizer: Optimizer,
        seed: int | None,
        threads: int,
    ) -> None:
        self._seed = seed
        self._loop = CompiledLoop(
            *(net.layer_sizes, net.activations, loss, optimizer, net.dtype),
            *(batches.batch_size, threads),
        )
        super().__init__(net, batches, optimizer)

    def _run(self, steps: range, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        losses = np.empty(len(steps), self.net.dtype)
        ran = self._loop.run(
            *(self.net.parameters, self.state, self.batches.x, self.batches.y),
            first_step=steps.start,
            numbers=np.ascontiguousarray(numbers),
            losses=losses,
            seed=self._seed,
        )
        return losses[:ran].astype(np.float64)

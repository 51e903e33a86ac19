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

MOST_FLOPS = 5e9  # of one call, which Ctrl-C waits for: a second or so for the slowest steps


class CompiledSteps(ChunkSteps):
    """The steps of one training run, compiled for it.

    Parameters
    ----------
    net, batches, loss, optimizer
        As of `Steps`.
    seed : int or None
        What shuffles the batches; without it they know their orders.
    threads : int
        How many share a batch.
    penalizes : bool
        As of `Steps`.
    """

    def __init__(
        self,
        net: MLP,
        batches: ArrayBatches,
        loss: Loss,
        optimizer: Optimizer,
        seed: int | None,
        threads: int,
        *,
        penalizes: bool = False,
    ) -> None:
        self._seed = seed
        flops = 6.0 * batches.batch_size * net.weight_count
        self._most_steps = max(1, int(MOST_FLOPS / flops))
        self._loop = CompiledLoop(
            *(net.layer_sizes, net.activations, loss, optimizer, net.dtype),
            *(batches.batch_size, threads),
            penalizes=penalizes,
        )
        super().__init__(net, batches, optimizer)

    def _run(self, steps: range, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        losses = np.empty(len(steps), self.net.dtype)
        numbers, ran = np.ascontiguousarray(numbers), 0
        while ran < len(steps) and np.isfinite(losses[:ran][-1:]).all():
            piece = slice(ran, ran + self._most_steps)
            orders = None if self._seed is not None else self.batches.orders(steps[piece])
            ran += self._loop.run(
                *(self.net.parameters, self.state, self.batches.x, self.batches.y),
                first_step=steps[piece].start,
                numbers=numbers[piece],
                losses=losses[piece],
                seed=self._seed,
                orders=orders,
            )
        return losses[:ran].astype(np.float64)

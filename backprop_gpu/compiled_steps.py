"""Training steps by the compiled loop: what `Steps` does, a chunk a call."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.batches import ArrayBatches
from backprop_gpu.compiled import CompiledLoop
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.steps import Safe, SafePoint, first_bad_layer


class CompiledSteps:
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

    reads_all = True

    def __init__(
        self,
        net: MLP,
        batches: ArrayBatches,
        loss: Loss,
        optimizer: Optimizer,
        seed: int | None,
        threads: int,
    ) -> None:
        self.net, self.batches, self.optimizer, self._seed = net, batches, optimizer, seed
        self._loop = CompiledLoop(
            *(net.layer_sizes, net.activations, loss, optimizer, net.dtype),
            *(batches.batch_size, threads),
        )
        self.state = [np.zeros_like(net.parameters) for _ in range(optimizer.slots)]
        self.safe = SafePoint(net, self.state)
        self._last = 0

    def run(
        self, steps: range, numbers: NDArray[np.float64], safe: Safe = "nothing"
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Run steps; see `Steps.run`."""
        before = self.net.parameters.copy(), [slot.copy() for slot in self.state]
        losses = np.empty(len(steps), self.net.dtype)
        ran = self._loop.run(
            *(self.net.parameters, self.state, self.batches.x, self.batches.y),
            first_step=steps.start,
            numbers=np.ascontiguousarray(numbers),
            losses=losses,
            seed=self._seed,
        )
        self._last = steps.start + ran - 1
        if safe != "nothing" and math.isfinite(losses[0]):
            parameters, state = before
            self.safe.accept(steps.start, parameters, state if safe == "everything" else None)
        return losses[:ran].astype(np.float64), self.batches.counts(steps[:ran])

    def first_bad_layer(self) -> int | None:
        """Return the first layer with NaN or infinity in it, on the batch of the last step."""
        count = self.batches.load(self._last)
        x, _ = self.batches.arrays()
        return first_bad_layer(self.net, x[:count])

"""Training steps by the compiled loop."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array, step_flops
from backprop_gpu.compiled import CompiledLoop
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.training.batches import ArrayBatches, batch_counts
from backprop_gpu.training.paths.chunk_steps import ChunkSteps
from backprop_gpu.training.paths.step import NO_LIMITS, Limits
from backprop_gpu.training.streams import StreamBatches

MOST_FLOPS = 5e10  # of one call, which Ctrl-C waits for, however long a chunk has become


class CompiledSteps(ChunkSteps):
    """The steps of one training run, compiled for it.

    Parameters
    ----------
    net, batches, loss, optimizer
        As of `Steps`; of a stream, each batch has the same size.
    seed : int or None
        What shuffles arrays; without it the batches know their orders.
    threads : int
        How many share a batch.
    penalizes : bool
        As of `Steps`.
    weighted : bool
        Whether the targets have one more column: how much each sample counts.
    limits : Limits
        What gradients are clipped to, but for those of single samples.
    """

    batches: ArrayBatches | StreamBatches

    def __init__(
        self,
        net: MLP,
        batches: ArrayBatches | StreamBatches,
        loss: Loss,
        optimizer: Optimizer,
        seed: int | None,
        threads: int,
        *,
        penalizes: bool = False,
        weighted: bool = False,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._seed = seed
        flops = step_flops(net.layer_sizes, batches.batch_size)
        self._most_steps = max(1, int(MOST_FLOPS / flops))
        self._loop = CompiledLoop(
            net.layer_sizes,
            net.activations,
            loss,
            optimizer,
            net.dtype,
            batches.batch_size,
            threads,
            penalizes=penalizes,
            weighted=weighted,
            clip_norm=math.inf if limits.norm is None else limits.norm,
            clip_value=math.inf if limits.value is None else limits.value,
        )
        super().__init__(net, batches, optimizer)

    def _run(self, steps: range, numbers: NDArray[np.float64], losses: Array) -> NDArray[np.int64]:
        counts = np.empty(len(steps), np.int64)
        numbers, ran = np.ascontiguousarray(numbers), 0
        while ran < len(steps) and np.isfinite(losses[:ran][-1:]).all():
            x, y, orders, first, found = self._data(steps[ran : ran + self._most_steps])
            piece = slice(ran, ran + len(found))
            counts[piece] = found
            ran += self._loop.run(
                self.net.parameters,
                self.state,
                x,
                y,
                first_step=first,
                numbers=numbers[piece],
                losses=losses[piece],
                seed=self._seed,
                orders=orders,
            )
        return counts[:ran]

    def _data(
        self, steps: range
    ) -> tuple[Array, Array, list[Array] | None, int, NDArray[np.int64]]:
        """Return x and y, their orders, where steps begin there, and their numbers of samples.

        Of a stream, these are the next steps with batches in the same window.
        """
        batches = self.batches
        if isinstance(batches, ArrayBatches):
            orders = None if self._seed is not None else batches.orders(steps)
            return batches.x, batches.y, orders, steps.start, batches.counts(steps)
        x, y, order, first = batches.window(steps.start)
        numbers = np.arange(first, first + len(steps))
        counts = batch_counts(len(order), batches.batch_size, numbers)
        return x, y, [order], first, counts[counts > 0]

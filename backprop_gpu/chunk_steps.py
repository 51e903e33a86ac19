"""Training steps of which a whole chunk is one call: what `Steps` does, for what can do that."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.batches import Batches
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.steps import Safe, SafePoint, first_bad_layer


class ChunkSteps(ABC):
    """The steps of one training run; see `Steps` for the attributes."""

    reads_all = True

    def __init__(self, net: MLP, batches: Batches, optimizer: Optimizer) -> None:
        self.net, self.batches, self.optimizer = net, batches, optimizer
        self.state = [net.backend.xp.zeros_like(net.parameters) for _ in range(optimizer.slots)]
        self.safe = SafePoint(net, self.state)
        self._before = [net.backend.xp.empty_like(array) for array in (net.parameters, *self.state)]
        self._last = 0

    def run(
        self, steps: range, numbers: NDArray[np.float64], safe: Safe = "nothing"
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Run steps; see `Steps.run`."""
        if safe != "nothing":
            for kept, array in zip(self._before, (self.net.parameters, *self.state), strict=True):
                kept[...] = array
        losses, counts = self._run(steps, numbers)
        self._last = steps[len(losses) - 1]
        if safe != "nothing" and math.isfinite(losses[0]):
            parameters, *state = self._before
            self.safe.accept(steps.start, parameters, state if safe == "everything" else None)
        return losses, counts

    def first_bad_layer(self) -> int | None:
        """Return the first layer with NaN or infinity in it, on the batch of the last step."""
        count = self.batches.load(self._last)
        x, _ = self.batches.arrays()
        return first_bad_layer(self.net, x[:count])

    @abstractmethod
    def _run(
        self, steps: range, numbers: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Run steps up to the first whose loss is not finite; return what `run` does."""

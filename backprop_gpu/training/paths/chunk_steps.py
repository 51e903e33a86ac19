"""Training steps of which a whole chunk is one call: what `Steps` does, for what can do that."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.training.batches import Batches
from backprop_gpu.training.paths.runner import Safe, StepRunner


class ChunkSteps(StepRunner):
    """The steps of one training run."""

    def __init__(self, net: MLP, batches: Batches, optimizer: Optimizer) -> None:
        super().__init__(net, batches, optimizer)
        self._before = [net.backend.xp.empty_like(array) for array in (net.parameters, *self.state)]
        self._last = 0

    def run(
        self, steps: range, numbers: NDArray[np.float64], safe: Safe = "nothing"
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        with_state = safe == "everything"
        before = self._before if with_state else self._before[:1]
        if safe != "nothing":
            for kept, array in zip(before, (self.net.parameters, *self.state), strict=False):
                kept[...] = array
        self._report.make_room(len(steps))
        losses = self._report.losses
        counts = self._run(steps, numbers, losses)
        if safe != "nothing":
            self.safe.keep(losses[:1], self._report.good, with_state, before)
        good, found = self._report.read(len(counts))
        if safe != "nothing" and good:
            self.safe.kept(steps.start, with_state)
        finite = np.isfinite(found)
        ran = len(found) if finite.all() else int(finite.argmin()) + 1
        self._last = steps[ran - 1]
        return found[:ran], counts[:ran]

    def _last_inputs(self) -> Array:
        count = self.batches.load(self._last)
        return self.batches.arrays()[0][:count]

    @abstractmethod
    def _run(self, steps: range, numbers: NDArray[np.float64], losses: Array) -> NDArray[np.int64]:
        """Run steps up to the first whose loss is not finite, and write their losses.

        Return the samples in the batches of these steps, and maybe of others after them.
        """

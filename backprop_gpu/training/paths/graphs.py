"""Several training steps recorded as one, for devices that must not be waited for.

Between two windows the host copies a few rows to where the recorded steps look for them: which
samples, and the optimizer's numbers. Nothing is read back, and nothing else is done by the host.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend
from backprop_gpu.backends.recording import Replay
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.training.batches import ArrayBatches
from backprop_gpu.training.crossovers import CROSSOVERS
from backprop_gpu.training.paths.step import Step
from backprop_gpu.training.paths.workspace import Workspace

MOST = int(CROSSOVERS["graph_steps"].value)  # steps in a window


def why_not_captured(net: MLP, loss: Loss, optimizer: Optimizer) -> str | None:
    """Return what keeps a network's steps from being CUDA graphs; None if nothing does.

    Its layers' sizes don't matter, so that a network with one node in each is looked at.
    """
    sizes = [1] * len(net.layer_sizes)
    tiny = MLP(sizes, net.activations, device=net.backend, dtype=net.dtype)
    x, y, numbers = (net.backend.empty(shape, net.dtype) for shape in ((1, 1), (1, 1), (4,)))
    space = Workspace(tiny, loss, x, y).rows(1)
    step = Step(tiny, loss, optimizer, [tiny.parameters] * optimizer.slots)

    def work(backend: Backend) -> None:
        step.propagate(backend, space, numbers)
        step.update(backend, space, numbers)

    recorded = net.backend.record(work)  # and never run
    if not isinstance(recorded, Replay):
        return f"the network is on {net.device}"
    return recorded.obstacle


class StepGraphs:
    """Runs steps in windows of 1, 2, 4, ... up to `MOST` steps, none across an epoch's end.

    Parameters
    ----------
    batches : ArrayBatches
    workspace : Workspace
        For whole batches.
    step : Step
    """

    def __init__(self, batches: ArrayBatches, workspace: Workspace, step: Step) -> None:
        self._batches, self._workspace, self._step = batches, workspace, step
        self._net = workspace.net
        self._most = MOST if batches.per_epoch == 1 else min(MOST, batches.per_epoch)
        self._recorded: dict[tuple[int, int], Callable[[], None]] = {}

    def run(self, steps: range, numbers: NDArray[np.float64], losses: Array) -> int:
        """Run steps, and write their losses; see `StepRunner.run`. None of them ends the run.

        Return how many were made: for the others, there is too little memory to do it this way.
        """
        done = 0
        while done < len(steps):
            window = steps[done : done + self._length(steps[done], len(steps) - done)]
            rows = slice(done, done + len(window))
            try:
                replay = self._prepared(window, numbers[rows])
            except MemoryError:
                break
            replay()
            losses[rows] = self._losses[: len(window)]
            done = rows.stop
        return done

    def _length(self, step: int, left: int) -> int:
        """Return how many steps to make at once: few lengths recur, and each is recorded once."""
        if self._batches.per_epoch > 1:
            left = min(left, self._batches.per_epoch - step % self._batches.per_epoch)
        return 1 << (min(left, MOST).bit_length() - 1)

    def _prepared(self, window: range, numbers: NDArray[np.float64]) -> Callable[[], None]:
        """Return what makes the steps of a window, which find what the host has for them."""
        if not self._recorded:
            self._make_room()
        self._net.backend.write(numbers, self._numbers[: len(window)])
        if self._batches.per_epoch > 1:
            self._batches.choose(window, self._index)
        counts = self._batches.counts(window).tolist()  # all alike but the last one
        key = len(window), counts[-1]
        if key not in self._recorded:
            self._recorded[key] = self._net.backend.record(lambda b: self._steps(b, counts))
        return self._recorded[key]

    def _make_room(self) -> None:
        """Allocate which samples the steps of a window take, their numbers and their losses."""
        empty, dtype = self._net.backend.empty, self._net.dtype
        self._index = empty((self._most * self._batches.batch_size,), np.dtype(np.int64))
        self._numbers, self._losses = empty((self._most, 4), dtype), empty((self._most,), dtype)

    def _steps(self, backend: Backend, counts: list[int]) -> None:
        size = self._batches.batch_size
        for i, count in enumerate(counts):
            if self._batches.per_epoch > 1:
                self._batches.gather(backend, self._index[i * size : i * size + count])
            space = self._workspace.rows(count, self._losses[i : i + 1])
            self._step.propagate(backend, space, self._numbers[i])
            self._step.update(backend, space, self._numbers[i])

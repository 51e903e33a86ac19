"""Training steps one after the other: the reference for every other way to run them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array, step_flops
from backprop_gpu.backends import Backend
from backprop_gpu.compiled import FusedOperations
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer, is_plain
from backprop_gpu.per_sample import clip_samples
from backprop_gpu.training.batches import ArrayBatches, Batches
from backprop_gpu.training.paths.graphs import StepGraphs
from backprop_gpu.training.paths.runner import Safe, StepRunner
from backprop_gpu.training.paths.step import NO_LIMITS, Limits, Step
from backprop_gpu.training.paths.workspace import StepArrays, Workspace

# Every so many steps, subnormal numbers in the optimizer's state are set to 0. The state decays to
# them where gradients are 0, and processors take a hundred times as long to compute with them.
STEPS_TO_CLEARING = 1024

MOST_RECORDED = 8  # batch sizes with a recording; a stream may have a new size every time


class _Recorded(NamedTuple):
    """The recorded step for one batch size: the gradients, then the update."""

    space: StepArrays
    propagate: Callable[[], None]
    update: Callable[[], None]


class Steps(StepRunner):
    """The steps of one training run.

    Parameters
    ----------
    net, loss, optimizer, limits, penalizes
        As of `Step`.
    batches : Batches
    fuses : bool
        Whether the elementwise operations are compiled; only on the CPU.

    Raises
    ------
    CompileError
        If they can't be compiled.
    """

    def __init__(
        self,
        net: MLP,
        batches: Batches,
        loss: Loss,
        optimizer: Optimizer,
        *,
        limits: Limits = NO_LIMITS,
        penalizes: bool = False,
        fuses: bool = False,
    ) -> None:
        self._fused: FusedOperations | None = None
        if fuses:  # before anything is allocated, because it may fail
            self._fused = FusedOperations(net.activations, loss, optimizer, net.dtype)
        super().__init__(net, batches, optimizer)
        self.loss, self.reads_all = loss, net.device == "cpu"
        self._sample_norm = limits.sample_norm
        self._workspace: Workspace | None = None
        self._most: int | None = None  # samples in a part of a batch, once memory ran out
        self._numbers = net.backend.empty((4,), net.dtype)
        self._graphs: StepGraphs | None = None
        self._graphs_fit = True  # in memory, until that proves wrong
        self._recorded: dict[int, _Recorded] = {}
        self._count = 0
        flops = step_flops(net.layer_sizes, batches.batch_size)
        # A user's own functions may raise, and would leave the network half updated.
        hidden = net.activations[:-1]
        own = any(g.cuda_derivative is None and g.cuda_rows is None for g in hidden)
        plain = is_plain(optimizer) and limits == NO_LIMITS and not own
        descends = plain and net.backend.descends(flops)
        self._step = Step(net, loss, optimizer, self.state, descends, penalizes, limits)

    def run(
        self, steps: range, numbers: NDArray[np.float64], safe: Safe = "nothing"
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        self._report.make_room(len(steps))
        losses = self._report.losses
        one_by_one = self.reads_all or not isinstance(self.batches, ArrayBatches)
        if one_by_one or self._sample_norm is not None or len(steps) == 1:
            counts = self._run_singly(steps, numbers, losses, safe)
        else:
            # A graph can't compile or allocate: the first step does it, if there is memory.
            counts = self._run_singly(steps[:1], numbers[:1], losses, safe)
            counts += self._run_graphs(steps[1:], numbers[1:], losses[1:])
        good, found = self._report.read(len(counts))
        if safe != "nothing" and counts and good:
            self.safe.kept(steps.start, safe == "everything")
        return found, np.array(counts, np.int64)

    def _run_graphs(self, steps: range, numbers: NDArray[np.float64], losses: Array) -> list[int]:
        if not self._graphs_fit or self._most is not None or self._workspace is None:
            return self._run_singly(steps, numbers, losses)
        assert isinstance(self.batches, ArrayBatches)
        self._graphs = self._graphs or StepGraphs(self.batches, self._workspace, self._step)
        made = self._graphs.run(steps, numbers, losses)
        counts: list[int] = self.batches.counts(steps[:made]).tolist() if made else []
        if made < len(steps):
            self._graphs, self._graphs_fit = None, False
            warnings.warn(
                f"there is too little memory on {self.net.device} to make several steps at once: "
                "they are made one by one, with the same result",
                RuntimeWarning,
                stacklevel=2,
            )
            counts += self._run_singly(steps[made:], numbers[made:], losses[made:])
        return counts

    def _run_singly(
        self,
        steps: range,
        numbers: NDArray[np.float64],
        losses: Array,
        safe: Safe = "nothing",
    ) -> list[int]:
        """Run steps one by one; write their losses; return the number of samples in each."""
        backend, reads_all, load = self.net.backend, self.reads_all, self.batches.load
        changes = [True, *(numbers[1:] != numbers[:-1]).any(axis=1).tolist()]
        counts: list[int] = []
        for i, step in enumerate(steps):
            count = load(step)
            if count == 0:
                break
            if changes[i]:
                backend.write(numbers[i], self._numbers)
            space, update = self._propagate(count)
            C = space.gradients.C
            counts.append(count)
            losses[i] = C[0]
            if safe != "nothing" and i == 0:
                self.safe.keep(C, self._report.good, safe == "everything")
            if reads_all and not math.isfinite(C.item()):
                break
            if self._sample_norm is not None:
                clip_samples(backend, space.trace, space.gradients, self._sample_norm)
            update()
            if (step + 1) % STEPS_TO_CLEARING == 0 and self.net.device == "cpu":
                for slot in self.state:
                    slot[np.abs(slot) < np.finfo(slot.dtype).tiny] = 0
        self._count = count
        return counts

    def _last_inputs(self) -> Array:
        return self.batches.arrays()[0][: self._count]

    def _propagate(self, count: int) -> tuple[StepArrays, Callable[[], None]]:
        """Compute loss and gradients of the loaded batch; return their arrays, and the update.

        If memory runs out, the batch is computed in parts, halved until they fit.
        """
        while True:
            most = self._most or self.batches.batch_size
            try:
                if self._workspace is None or len(self._workspace.x) < min(count, most):
                    self._recorded.clear()
                    self._workspace = self._new_workspace(most)
                if self._most is not None:
                    return self._propagate_in_parts(count, self._workspace)
                space, propagate, update = self._recorded.get(count) or self._record(count)
                propagate()
                return space, update
            except MemoryError:
                if most == 1 or self._sample_norm is not None:  # clipping needs every sample's own
                    raise
                self._most, self._workspace = (most + 1) // 2, None
                self._recorded.clear()
                warnings.warn(
                    f"there is too little memory on {self.net.device} for batches of {count}: "
                    f"they are computed in parts of {self._most}, with the same result",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def _new_workspace(self, rows: int) -> Workspace:
        """Allocate the memory of a step: on the batch's own arrays, or on a copy of a part."""
        x, y = self.batches.arrays()
        if rows < len(x):
            empty, dtype = self.net.backend.empty, self.net.dtype
            x, y = empty((rows, x.shape[1]), dtype), empty((rows, y.shape[1]), dtype)
        return Workspace(self.net, self.loss, x, y, keep_a=self._sample_norm is not None)

    def _propagate_in_parts(
        self, count: int, work: Workspace
    ) -> tuple[StepArrays, Callable[[], None]]:
        """Add up the gradients of a batch's parts, weighted by their share of the samples."""
        xp, most = self.net.backend.xp, len(work.x)
        sums = xp.zeros_like(work.flat), xp.zeros_like(work.C)
        for start in range(0, count, most):
            size = min(most, count - start)
            for batch, part in zip(self.batches.arrays(), (work.x, work.y), strict=True):
                part[:size] = batch[start : start + size]
            space, propagate, update = self._recorded.get(size) or self._record(size)
            propagate()
            for total, mine in zip(sums, (work.flat, work.C), strict=True):
                mine *= size / count
                total += mine
        work.flat[...], work.C[...] = sums
        return space, update

    def _record(self, count: int) -> _Recorded:
        assert self._workspace is not None
        net, space, step = self.net, self._workspace.rows(count), self._step
        if self._most is not None:  # adding up gradients of parts takes all of them
            step = step._replace(descends=False)

        def propagate(backend: Backend) -> None:
            step.propagate(backend, space, self._numbers)

        def update(backend: Backend) -> None:
            step.update(backend, space, self._numbers)

        record = net.backend.record
        if self._fused is not None:
            record = partial(self._fused.record, net.backend)
        recorded = _Recorded(space, record(propagate), record(update))
        if len(self._recorded) >= MOST_RECORDED:
            self._recorded.clear()
        self._recorded[count] = recorded
        return recorded

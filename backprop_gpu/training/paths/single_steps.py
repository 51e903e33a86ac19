"""The inside of the training loop: the step, and what to go back to if it fails."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend
from backprop_gpu.compiled import FusedOperations
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.network import feed_forward
from backprop_gpu.optimizers import Optimizer, is_plain
from backprop_gpu.per_sample import clip_samples
from backprop_gpu.training.batches import ArrayBatches, Batches
from backprop_gpu.training.paths.graphs import StepGraphs
from backprop_gpu.training.paths.step import NO_LIMITS, Limits, Step
from backprop_gpu.training.paths.workspace import StepArrays, Workspace

Safe = Literal["nothing", "parameters", "everything"]

# After so many steps, what the optimizer keeps is rid of numbers that are closer to 0 than normal
# ones: it fills with them where gradients are 0, and processors take a hundred times as long.
STEPS_TO_CLEARING = 1024

MOST_RECORDED = 8  # batch sizes whose steps are kept; a stream may have a new one every time


class _Recorded(NamedTuple):
    """The step on some number of samples: to the gradients, and on to the new parameters."""

    space: StepArrays
    propagate: Callable[[], None]
    update: Callable[[], None]


class SafePoint:
    """The last parameters that are known to have a finite loss, and before which step.

    The optimizer's state is kept with them where the steps since then may have to be run again.
    """

    def __init__(self, net: MLP, state: list[Array]) -> None:
        self.net, self.state = net, state
        self.step = 0
        self.parameters = net.parameters.copy()
        self._state: list[Array] = []  # made when it is kept for the first time
        self._has_state = False

    def keep(
        self,
        C: Array,
        good: Array,
        with_state: bool,
        before: Sequence[Array] | None = None,
    ) -> None:
        """Keep what there is, if it and its loss C are finite, as good[0] will tell: not 0.

        `before` are the parameters and the state that C is the loss of. Default: those of now.
        """
        backend = self.net.backend
        parameters, *state = before or (self.net.parameters, *self.state)
        if with_state and not self._state:
            self._state = [backend.empty(slot.shape, slot.dtype) for slot in state]
        backend.all_finite((C, parameters), good)
        backend.copy_if(good, parameters, self.parameters)
        for slot, kept in zip(state, self._state if with_state else (), strict=False):
            backend.copy_if(good, slot, kept)

    def kept(self, step: int, with_state: bool) -> None:
        """Note that what was there before a step has been kept."""
        self.step, self._has_state = step, with_state

    def go_back(self) -> bool:
        """Restore what was kept; return whether the steps since then can be run again."""
        self.net.parameters[...] = self.parameters
        for slot, kept in zip(self.state, self._state if self._has_state else (), strict=False):
            slot[...] = kept
        return self._has_state


class Report:
    """What the host reads of some steps, all at once.

    Attributes
    ----------
    good : array, shape (1,)
        Not 0 if what there was before the first of them has been kept; see `SafePoint.keep`.
    losses : array, shape (steps,)
        Of every batch, before its update.
    """

    def __init__(self, net: MLP) -> None:
        self._backend = net.backend
        self._array = net.backend.empty((0,), net.dtype)

    def make_room(self, steps: int) -> None:
        """Have room for so many losses; what was there before may be lost."""
        if len(self._array) <= steps:
            self._array = self._backend.empty((1 + steps,), self._array.dtype)
        self.good, self.losses = self._array[:1], self._array[1 : 1 + steps]

    def read(self, steps: int) -> tuple[np.floating[Any], NDArray[np.float64]]:
        """Wait for so many steps; return what `good` says, and the losses."""
        told = self._backend.to_numpy(self._array[: 1 + steps])
        return told[0], told[1:].astype(np.float64)


class Steps:
    """The steps of one training run.

    Parameters
    ----------
    net, loss, optimizer, limits, penalizes
        As of `Step`.
    batches : Batches
    fuses : bool
        Whether all that is elementwise is compiled; for a network on the CPU.

    Attributes
    ----------
    state : list of array
        The optimizer's; zero at first.
    safe : SafePoint
        What to go back to if NaN or infinity arises.
    reads_all : bool
        Whether every loss is read at once. It costs nothing on the CPU.

    Raises
    ------
    CompileError
        If it can't be compiled.
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
        if fuses:  # before anything is allocated: it may not compile
            self._fused = FusedOperations(net.activations, loss, optimizer, net.dtype)
        self.net, self.batches, self.loss, self.optimizer = net, batches, loss, optimizer
        self.reads_all = net.device == "cpu"
        self._sample_norm = limits.sample_norm
        self._workspace: Workspace | None = None
        self._most: int | None = None  # samples that memory is enough for, where it ran out
        self._numbers = net.backend.empty((4,), net.dtype)
        self._report = Report(net)
        self._graphs: StepGraphs | None = None
        self._recorded: dict[int, _Recorded] = {}
        self._count = 0
        self.state = [net.backend.xp.zeros_like(net.parameters) for _ in range(optimizer.slots)]
        flops = net.step_flops(batches.batch_size)
        descends = is_plain(optimizer) and limits == NO_LIMITS and net.backend.descends(flops)
        self._step = Step(net, loss, optimizer, self.state, descends, penalizes, limits)
        self.safe = SafePoint(net, self.state)

    def run(
        self, steps: range, numbers: NDArray[np.float64], safe: Safe = "nothing"
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Run steps, counted from 0 over all epochs.

        Parameters
        ----------
        steps : range
        numbers : ndarray, shape (steps, 4)
            What the optimizer has to know; see `numbers_of`.
        safe : {"nothing", "parameters", "everything"}
            What is kept to go back to from before the first step, if its loss is finite.

        Returns
        -------
        losses, counts : ndarray
            The loss of every batch before its update, and the samples in it. A loss that is not
            finite ends the run before its update, where losses are read at once; and so does the
            end of the epoch, where only that tells how long an epoch is.
        """
        self._report.make_room(len(steps))
        losses = self._report.losses
        one_by_one = self.reads_all or not isinstance(self.batches, ArrayBatches)
        if one_by_one or self._sample_norm is not None or len(steps) == 1:
            counts = self._run_singly(steps, numbers, losses, safe)
        else:
            # The first step warms up: what it needs is compiled and allocated, if there is memory.
            counts = self._run_singly(steps[:1], numbers[:1], losses, safe)
            counts += self._run_graphs(steps[1:], numbers[1:], losses[1:])
        good, found = self._report.read(len(counts))
        if safe != "nothing" and counts and good:
            self.safe.kept(steps.start, safe == "everything")
        return found, np.array(counts, np.int64)

    def _run_graphs(self, steps: range, numbers: NDArray[np.float64], losses: Array) -> list[int]:
        if self._most is not None or self._workspace is None:
            return self._run_singly(steps, numbers, losses)
        assert isinstance(self.batches, ArrayBatches)
        self._graphs = self._graphs or StepGraphs(self.batches, self._workspace, self._step)
        self._graphs.run(steps, numbers, losses)
        return [*self.batches.counts(steps).tolist()]

    def _run_singly(
        self,
        steps: range,
        numbers: NDArray[np.float64],
        losses: Array,
        safe: Safe = "nothing",
    ) -> list[int]:
        """Run steps, and write their losses; return the samples in their batches."""
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

    def first_bad_layer(self) -> int | None:
        """Return the first layer with NaN or infinity in it, on the batch that was loaded last."""
        return first_bad_layer(self.net, self.batches.arrays()[0][: self._count])

    def _propagate(self, count: int) -> tuple[StepArrays, Callable[[], None]]:
        """Compute loss and gradients of the batch that is loaded; return where, and the update.

        Where memory runs out, the batch is computed in parts, of half as many samples each time.
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
                if most == 1 or self._sample_norm is not None:  # those of samples are not added up
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
        """Allocate the memory of a step on a whole batch, or on a part that is copied there."""
        x, y = self.batches.arrays()
        if rows < len(x):
            empty, dtype = self.net.backend.empty, self.net.dtype
            x, y = empty((rows, x.shape[1]), dtype), empty((rows, y.shape[1]), dtype)
        return Workspace(self.net, self.loss, x, y, keep_a=self._sample_norm is not None)

    def _propagate_in_parts(
        self, count: int, work: Workspace
    ) -> tuple[StepArrays, Callable[[], None]]:
        """Add up the gradients of a batch's parts, each by its share of the samples."""
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
        if self._most is not None:  # gradients of parts are added up
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


def first_bad_layer(net: MLP, x: Array) -> int | None:
    """Return the first layer with NaN or infinity in its parameters or in its output for x."""
    trace = net.new_trace(x)
    feed_forward(net.backend, net.layers, trace)
    for l, (layer, a) in enumerate(zip(net.layers, trace.a[1:], strict=True), start=1):
        if not all(bool(net.backend.xp.isfinite(t).all()) for t in (layer.W, layer.b, a)):
            return l
    return None

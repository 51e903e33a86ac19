"""What all ways to run training steps share: the optimizer's state, losses, and a way back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array
from backprop_gpu.mlp import MLP
from backprop_gpu.network import feed_forward
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.passes import new_trace
from backprop_gpu.training.batches import Batches

Safe = Literal["nothing", "parameters", "everything"]


class StepRunner(ABC):
    """One way to run the steps of one training run.

    Attributes
    ----------
    state : list of array
        The optimizer's; zero at first.
    safe : SafePoint
        What to go back to if NaN or infinity arises.
    reads_all : bool
        Whether every loss is read before its update. On the CPU this costs nothing.
    """

    reads_all = True

    def __init__(self, net: MLP, batches: Batches, optimizer: Optimizer) -> None:
        self.net, self.batches, self.optimizer = net, batches, optimizer
        self.state = [net.backend.xp.zeros_like(net.parameters) for _ in range(optimizer.slots)]
        self.safe = SafePoint(net, self.state)
        self._report = Report(net)

    @abstractmethod
    def run(
        self, steps: range, numbers: NDArray[np.float64], safe: Safe = "nothing"
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Run steps, counted from 0 over all epochs.

        Parameters
        ----------
        steps : range
        numbers : ndarray, shape (steps, 4)
            What the optimizer needs; see `numbers_of`.
        safe : {"nothing", "parameters", "everything"}
            What to keep from before the first step, to go back to; kept if its loss is finite.

        Returns
        -------
        losses, counts : ndarray
            The loss of every batch before its update, and the samples in it. There are fewer than
            `steps` if a loss is not finite, where losses are read before the update, or if a stream
            came to the end of its epoch.
        """

    def first_bad_layer(self) -> int | None:
        """Return the first layer whose W, b or output on the last batch has NaN or infinity."""
        net = self.net
        trace = new_trace(net, self._last_inputs())
        feed_forward(net.backend, net.layers, trace)
        for l, (layer, a) in enumerate(zip(net.layers, trace.a[1:], strict=True), start=1):
            if not all(bool(net.backend.xp.isfinite(t).all()) for t in (layer.W, layer.b, a)):
                return l
        return None

    @abstractmethod
    def _last_inputs(self) -> Array:
        """Return x of the batch of the last step."""


class SafePoint:
    """The last parameters that are known to have a finite loss, and the step before which.

    The optimizer's state is kept, too, if the steps since then may have to be run again.
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
        """Keep the parameters if they and their loss C are finite; good[0] is then 1, else 0.

        `before` are the parameters and the state that C belongs to. Default: the present ones.
        """
        backend = self.net.backend
        parameters, *state = before or (self.net.parameters, *self.state)
        backend.all_finite((C, parameters), good)
        backend.copy_if(good, parameters, self.parameters)
        if with_state:
            self._state = self._state or [backend.empty(slot.shape, slot.dtype) for slot in state]
            for slot, kept in zip(state, self._state, strict=True):
                backend.copy_if(good, slot, kept)

    def kept(self, step: int, with_state: bool) -> None:
        """Note that `keep` has kept what there was before this step."""
        self.step, self._has_state = step, with_state

    def go_back(self) -> bool:
        """Restore what was kept; return whether the steps since then can be run again."""
        self.net.parameters[...] = self.parameters
        if self._has_state:
            for slot, kept in zip(self.state, self._state, strict=True):
                slot[...] = kept
        return self._has_state


class Report:
    """What the host reads after some steps, in one copy from the device.

    Attributes
    ----------
    good : array, shape (1,)
        Not 0 if `SafePoint.keep` has kept what there was before the first step.
    losses : array, shape (steps,)
        Of every batch, before its update.
    """

    def __init__(self, net: MLP) -> None:
        self._backend = net.backend
        self._array = net.backend.empty((0,), net.dtype)

    def make_room(self, steps: int) -> None:
        """Make room for the losses of so many steps; earlier ones may be lost."""
        if len(self._array) <= steps:
            self._array = self._backend.empty((1 + steps,), self._array.dtype)
        self.good, self.losses = self._array[:1], self._array[1 : 1 + steps]

    def read(self, steps: int) -> tuple[np.floating[Any], NDArray[np.float64]]:
        """Wait for so many steps; return what `good` says, and the losses."""
        told = self._backend.to_numpy(self._array[: 1 + steps])
        return told[0], told[1:].astype(np.float64)

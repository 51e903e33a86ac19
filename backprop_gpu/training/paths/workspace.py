"""The memory of a training step: allocated once, for batches of any size up to one."""

from __future__ import annotations

from typing import NamedTuple

from backprop_gpu.arrays import Array
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.network import Gradients, Trace
from backprop_gpu.parameters import split
from backprop_gpu.passes import new_trace


class StepArrays(NamedTuple):
    """Where a step on some number of samples keeps its arrays; y are the targets."""

    trace: Trace
    y: Array
    gradients: Gradients


class Workspace:
    """What the steps of one training run compute in.

    A step needs less than `MLP.forward` and `MLP.backward` keep. z is kept only where g' or the
    loss is computed from it, dC/da of all layers take turns in one array, and a layer's delta
    takes the place of its a, which nothing reads any more by then.

    Parameters
    ----------
    net : MLP
    loss : Loss
    x, y : array
        The batch's arrays; a smaller batch takes their first rows.
    keep_a : bool
        Whether every a outlives the step, as gradients of single samples need it.
    """

    def __init__(self, net: MLP, loss: Loss, x: Array, y: Array, *, keep_a: bool = False) -> None:
        self.net, self.x, self.y = net, x, y
        empty, dtype = net.backend.empty, net.dtype
        self._trace = new_trace(net, x, keep_z=loss.keeps_z(net.activations))
        a = self._trace.a[1:]
        self._deltas = [empty(array.shape, dtype) for array in a] if keep_a else None
        self._dC_da = empty((max((array.size for array in a[:-1]), default=0),), dtype)
        self.flat = empty(net.parameters.shape, dtype)
        self.C = empty((1,), dtype)

    def rows(self, n: int, C: Array | None = None) -> StepArrays:
        """Return the arrays of a step on n samples; its loss goes to C, if that is given."""
        trace = self._trace.first_rows(self.x[:n])
        # Arrays that share their memory are one object: backends leave out what is not kept.
        deltas = trace.a[1:] if self._deltas is None else tuple(d[:n] for d in self._deltas)
        dC_da = [self._dC_da[: n * m].reshape(n, m) for m in self.net.layer_sizes[1:-1]]
        gradients = Gradients(
            *split(self.flat, self.net.layer_sizes),
            deltas,
            (None, *dC_da, deltas[-1]),
            self.flat,
            self.C if C is None else C,
        )
        return StepArrays(trace, self.y[:n], gradients)

"""The memory of a training step: allocated once, for batches of any size up to one."""

from __future__ import annotations

from typing import NamedTuple

from backprop_gpu.arrays import Array
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.network import Gradients, Trace
from backprop_gpu.parameters import split


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
        self.net, self.x, self.y, self._keep_a = net, x, y, keep_a
        empty, dtype = net.backend.empty, net.dtype
        sizes = [len(x) * nodes for nodes in net.layer_sizes[1:]]
        self._a = [empty((size,), dtype) for size in sizes]
        self._deltas = [empty((size,), dtype) for size in sizes] if keep_a else self._a
        self._z = [
            empty((size,), dtype) if kept else None
            for size, kept in zip(sizes, loss.keeps_z(net.activations), strict=True)
        ]
        self._dC_da = empty((max(sizes[:-1], default=0),), dtype)
        self.flat = empty(net.parameters.shape, dtype)
        self.C = empty((1,), dtype)

    def rows(self, n: int, C: Array | None = None) -> StepArrays:
        """Return the arrays of a step on n samples; its loss goes to C, if that is given."""
        nodes = self.net.layer_sizes[1:]
        a = [flat[: n * m].reshape(n, m) for flat, m in zip(self._a, nodes, strict=True)]
        z = [
            shared if flat is None else flat[: n * m].reshape(n, m)
            for flat, m, shared in zip(self._z, nodes, a, strict=True)
        ]
        # Arrays that share their memory are one object: backends leave out what is not kept.
        deltas = a
        if self._keep_a:
            deltas = [f[: n * m].reshape(n, m) for f, m in zip(self._deltas, nodes, strict=True)]
        dC_da = [self._dC_da[: n * m].reshape(n, m) for m in nodes[:-1]]
        gradients = Gradients(
            *split(self.flat, self.net.layer_sizes),
            tuple(deltas),
            (None, *dC_da, deltas[-1]),
            self.flat,
            self.C if C is None else C,
        )
        return StepArrays(Trace((self.x[:n], *a), tuple(z)), self.y[:n], gradients)

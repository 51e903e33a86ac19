"""One training step, on arrays that its caller owns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.network import feed_forward, output_error, propagate_back, propagate_error
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.training.paths.workspace import StepArrays


class Limits(NamedTuple):
    """What gradients are clipped to; None is no limit."""

    value: float | None = None  # the magnitude of every number
    norm: float | None = None  # the norm of all gradients together
    sample_norm: float | None = None  # the norm of every sample's own gradients


NO_LIMITS = Limits()


class Step(NamedTuple):
    """A step in two parts, so that the loss can be checked before the parameters change.

    Attributes
    ----------
    net, loss, optimizer
        As of `train`.
    state : sequence of array
        The optimizer's.
    descends : bool
        Whether W is updated by the very product that would compute dC/dW, which then exists
        nowhere. Only plain gradient descent can do so.
    penalizes : bool
        Whether the penalty of the weight decay is added to the loss.
    limits : Limits
        `sample_norm` is left to `Steps`.
    """

    net: MLP
    loss: Loss
    optimizer: Optimizer
    state: Sequence[Array]
    descends: bool = False
    penalizes: bool = False
    limits: Limits = NO_LIMITS

    def propagate(self, backend: Backend, space: StepArrays, numbers: Array) -> None:
        """Compute the loss and the gradients of a batch; `numbers` are as in `Backend.update`."""
        trace, y, gradients = space
        feed_forward(backend, self.net.layers, trace)
        propagate = output_error if self.descends else propagate_back
        propagate(backend, self.net.layers, trace, y, self.loss, gradients)
        if self.penalizes:
            backend.penalize(gradients.C, self.net.parameters[: self.net.weight_count], numbers)

    def update(self, backend: Backend, space: StepArrays, numbers: Array) -> None:
        """Clip the gradients, and update the parameters."""
        net, flat, weights = self.net, space.gradients.flat, self.net.weight_count
        if self.limits.value is not None:
            backend.clip_values(flat, self.limits.value)
        if self.limits.norm is not None:
            backend.clip_norm(flat, self.limits.norm)
        if self.descends:
            descending: Any = _Descending(backend, net, space, numbers)
            propagate_error(descending, net.layers, space.trace, space.gradients)
            biases = net.parameters[weights:], flat[weights:]
            backend.update(self.optimizer, *biases, (), numbers, 0)
        else:
            backend.update(self.optimizer, net.parameters, flat, self.state, numbers, weights)


class _Descending:
    """A backend that updates W where it is asked for dC/dW."""

    def __init__(self, backend: Backend, net: MLP, space: StepArrays, numbers: Array) -> None:
        self._backend, self._numbers = backend, numbers
        pairs = zip(space.gradients.weights, net.weights, strict=True)
        self._weights = {id(dC_dW): W for dC_dW, W in pairs}

    def gemm(self, A: Array, B: Array, out: Array) -> None:
        if id(out) in self._weights:
            self._backend.descend(A, B, self._weights[id(out)], self._numbers)
        else:
            self._backend.gemm(A, B, out)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

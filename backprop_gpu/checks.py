"""What a network is made of and given: checked before anything is computed, and converted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backprop_gpu.activations import Activation, LeakyReLU, find_activation
from backprop_gpu.arrays import Array, as_matrix, check_finite, check_same_rows, on_gpu
from backprop_gpu.errors import DeviceError, DomainError, DtypeError, ShapeError, brief
from backprop_gpu.losses import Loss, find_loss
from backprop_gpu.network import Trace

if TYPE_CHECKING:
    from backprop_gpu.mlp import MLP


def checked_sizes(layer_sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of the layers as plain numbers."""
    listed = (
        isinstance(layer_sizes, list | tuple | range | np.ndarray) and np.ndim(layer_sizes) == 1
    )
    sizes = tuple(layer_sizes) if listed else ()
    whole = all(isinstance(s, int | np.integer) and not isinstance(s, bool) for s in sizes)
    if len(sizes) < 2 or not whole or any(s < 1 for s in sizes):
        raise ShapeError(
            f"layer_sizes is {brief(layer_sizes)}; expected at least two whole numbers, each at "
            "least 1: the inputs, the hidden layers, the outputs, for example [5, 3, 4]"
        )
    return tuple(int(s) for s in sizes)


def checked_activations(
    activations: Sequence[str | Activation] | None, count: int
) -> list[Activation]:
    """Return the entries of so many activations; without any, the usual ones."""
    if activations is None:
        return [LeakyReLU()] * (count - 1) + [find_activation("identity")]
    if isinstance(activations, str | Activation):
        raise ShapeError(
            f"activations is {str(activations)!r}; expected a list of {count}, one for every "
            f"layer but the input, for example {[str(activations)] * count}"
        )
    if not hasattr(activations, "__len__"):
        raise DtypeError(f"activations is {brief(activations)}; expected a list of {count} names")
    if len(activations) != count:
        raise ShapeError(
            f"{len(activations)} activations given; expected {count}, one for every layer but the "
            "input"
        )
    return [find_activation(entry) for entry in activations]


def check_loss(net: MLP, loss: str | Loss, *, to_learn: bool = False) -> Loss:
    """Return the loss's entry; raise if the network's outputs can leave its domain.

    With `to_learn`, raise also if the outputs can't change by learning.
    """
    entry, g = find_loss(loss), net.layers[-1].g
    entry.check_output(g)
    if to_learn and net.layer_sizes[-1] == 1 and g == find_activation("softmax"):
        raise DomainError(
            "the last layer has one output, of which 'softmax' is always 1, so there is "
            "nothing to learn; use 'sigmoid', or an output for each class"
        )
    return entry


def check_inputs(net: MLP, x: Any, name: str = "x") -> Array:
    """Check inputs; return them on the network's device, in its dtype."""
    return as_matrix(x, name, net.layer_sizes[0], "input node", net.backend, net.dtype)


def check_targets(net: MLP, y: Any, loss: Loss, name: str = "y") -> Array:
    """Check targets, which the loss may restrict, and convert them likewise."""
    y = as_matrix(y, name, net.layer_sizes[-1], "output node", net.backend, net.dtype)
    with net.backend.computing(0):
        loss.check_targets(y, net.backend.xp, name)
    return y


def check_data(net: MLP, x: Any, y: Any, loss: Loss, suffix: str = "") -> tuple[Array, Array]:
    """Check and convert inputs and targets that belong together."""
    x, y = check_inputs(net, x, f"x{suffix}"), check_targets(net, y, loss, f"y{suffix}")
    check_same_rows(x, y, f"x{suffix}", f"y{suffix}")
    return x, y


def check_trace(net: MLP, trace: object) -> None:
    """Raise unless a trace can be of this network."""
    if not isinstance(trace, Trace):
        raise DtypeError(f"trace is {brief(trace)}; expected what forward(x) returned")
    widths = tuple(a.shape[1] for a in trace.a)
    if widths != net.layer_sizes:
        raise ShapeError(f"the trace is of layers {widths}; this network's are {net.layer_sizes}")
    if trace.output.dtype != net.dtype:
        raise DtypeError(
            f"the trace is in {trace.output.dtype}; this network computes in {net.dtype}"
        )
    if on_gpu(trace.output) != on_gpu(net.parameters):
        where = "a GPU" if on_gpu(trace.output) else "the CPU"
        raise DeviceError(f"the trace is on {where}; this network is on {net.device}")


def check_parameters(net: MLP) -> None:
    """Raise NonFiniteError, naming the first weight or bias that is NaN or infinite."""
    with net.backend.computing(0):
        for i, (W, b, _) in enumerate(net.layers):
            for name, array in ((f"weights[{i}]", W), (f"biases[{i}]", b)):
                remedy = f"assign finite ones, net.{name} = array, or make the network anew"
                check_finite(array, f"{name}, of layer {i + 1},", net.backend.xp, remedy)

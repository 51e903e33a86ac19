"""The expressions of entries, in the language of CUDA and C++, put together for the kernels.

What has none is computed by its array functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from backprop_gpu.activations import Activation
from backprop_gpu.losses import Loss
from backprop_gpu.optimizers import Optimizer

REAL = {"float32": "float", "float64": "double"}
SLOTS = 2  # of an optimizer's state that its expression can name


class OfOutput(NamedTuple):
    """What the loss and the last layer's activation make of an output: see `of_output`."""

    term: str | None
    dC_da: str | None
    dC_dz: str | None


def of_output(loss: Loss, g: Activation) -> OfOutput:
    """Return an output's share of C_i, dC_i/da and dC_i/dz.

    None stands for what has no expression. The share is "" where the rows of softmax have a
    kernel, and dC_i/dz is None where it depends on dC_i/da of a whole row.
    """
    if loss.is_canonical_for(g):
        rows = loss.cuda_canonical_rows == "softmax_cross_entropy" and g.cuda_rows == "softmax"
        dC_da = loss.cuda_canonical_gradient or loss.cuda_gradient
        return OfOutput("" if rows else loss.cuda_canonical, dC_da, "a - y")
    elementwise = not g.cuda_rows and g.cuda_derivative is not None and g.jacobian_product is None
    product = f"({loss.cuda_gradient}) * ({g.cuda_derivative})"
    dC_dz = product if elementwise and loss.cuda_gradient is not None else None
    return OfOutput(loss.cuda, loss.cuda_gradient, dC_dz)


def missing_expression(
    activations: Sequence[Activation], loss: Loss, optimizer: Optimizer
) -> str | None:
    """Return why there is no source for training, in a sentence; None if there is one."""
    missing = missing_function(activations)
    if missing is not None:
        return missing
    for g in activations:
        if not g.cuda_rows and g.cuda_derivative is None:
            return f"the derivative of the activation {g.name!r} has no C++ expression"
    term, dC_da, dC_dz = of_output(loss, activations[-1])
    if term is None or (dC_da is None and dC_dz is None):
        return f"the loss {loss.name!r} has no C++ expressions"
    if not has_update(optimizer):
        return f"the optimizer {type(optimizer).__name__} has no C++ expression"
    return None


def missing_function(activations: Sequence[Activation]) -> str | None:
    """Return why there is no source for predictions, in a sentence; None if there is one."""
    for g in activations:
        if g.cuda_rows != "softmax" and (g.cuda is None or g.jacobian_product is not None):
            return f"the activation {g.name!r} has no C++ expression"
    return None


def has_update(optimizer: Optimizer) -> bool:
    """Return whether there is an expression of the update."""
    return optimizer.cuda is not None and optimizer.slots <= SLOTS


def entries_source(activations: Sequence[Activation], loss: Loss) -> str:
    """Return `Activation<l>`, for layers 1 to L, and `Loss`: structs of the entries' functions."""
    structs = activations_source(activations, loss.keeps_z(activations))
    return f"{structs}\n{loss_source(loss, activations[-1])}"


def activations_source(activations: Sequence[Activation], keeps_z: Sequence[bool]) -> str:
    """Return `Activation<l>`, for layers 1 to L."""
    layers = map(_activation, range(1, len(activations) + 1), activations, keeps_z)
    return "\n".join(("template <int l> struct Activation;", *layers))


def loss_source(loss: Loss, g: Activation) -> str:
    """Return `Loss`, for outputs of an activation."""
    term, dC_da, dC_dz = of_output(loss, g)
    arguments = "(real z, real a, real y, real m)"
    return (
        f"struct Loss {{ static constexpr bool canonical = {truth(loss.is_canonical_for(g))},"
        f" of_rows = {truth(not term)};"
        f" INLINE real term{arguments} {{ return {term or 'real(0)'}; }}"
        f" INLINE real slope{arguments} {{ return {dC_dz or dC_da}; }} }};"
    )


def truth(value: bool) -> str:
    """Return true or false."""
    return str(value).lower()


def _activation(l: int, g: Activation, keeps_z: bool) -> str:
    softmax = g.cuda_rows == "softmax"
    functions = "" if softmax else f" INLINE real g(real z) {{ return {g.cuda}; }}"
    if not softmax and g.cuda_derivative is not None:  # else for predictions only
        named = "real z, real" if g.derivative_from == "z" else "real, real a"
        functions += f" INLINE real g_prime({named}) {{ return {g.cuda_derivative}; }}"
    return (
        f"template <> struct Activation<{l}> {{"
        f" static constexpr bool softmax = {truth(softmax)}, keeps_z = {truth(keeps_z)};"
        f"{functions} }};"
    )

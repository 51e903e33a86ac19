"""The C++ source for one network, or one entry: the kernels' files, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from backprop_gpu import kernels
from backprop_gpu.special import ERFC

if TYPE_CHECKING:
    from backprop_gpu.activations import Activation
    from backprop_gpu.losses import Loss
    from backprop_gpu.optimizers import Optimizer

REAL = {"float32": "float", "float64": "double"}
SLOTS = 2  # of an optimizer's state that its expression can name
MOST_THREADS = 64
BLOCK_BATCH = 4  # with fewer samples in a batch, copies of the weights cost more than they save
PLAIN_WIDTH = 8  # in training, layers up to it are not worth vectors
PREDICTED = 64  # samples that are predicted at once


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
    if _slope(loss, activations[-1]) is None or _term(loss, activations[-1]) is None:
        return f"the loss {loss.name!r} has no C++ expressions"
    if not _has_update(optimizer):
        return f"the optimizer {type(optimizer).__name__} has no C++ expression"
    return None


def missing_function(activations: Sequence[Activation]) -> str | None:
    """Return why there is no source for predictions, in a sentence; None if there is one."""
    for g in activations:
        if g.cuda_rows != "softmax" and (g.cuda is None or g.jacobian_product is not None):
            return f"the activation {g.name!r} has no C++ expression"
    return None


def source(
    layer_sizes: Sequence[int],
    activations: Sequence[Activation],
    loss: Loss,
    optimizer: Optimizer,
    dtype: str,
    batch_size: int,
    *,
    penalizes: bool = False,
    clips: bool = False,
    weighted: bool = False,
) -> str:
    """Return one complete translation unit, of which `train` is called."""
    entries = (
        _update(optimizer),
        f"constexpr bool PENALIZES = {_bool(penalizes)}, CLIPS = {_bool(clips)};",
        f"constexpr bool WEIGHTED = {_bool(weighted)};",
        entries_source(activations, loss),
    )
    files = ("forward.hpp", "backward.hpp", "train.cpp")
    plain = batch_size < BLOCK_BATCH or max(layer_sizes) <= PLAIN_WIDTH
    return _network_unit(layer_sizes, dtype, batch_size, plain, "\n".join(entries), *files)


def prediction_source(
    layer_sizes: Sequence[int], activations: Sequence[Activation], dtype: str
) -> str:
    """Return one complete translation unit, of which `freeze` and `predict` are called."""
    entries = _activations(activations, [False] * len(activations))
    files = ("forward.hpp", "predict.cpp")
    return _network_unit(layer_sizes, dtype, PREDICTED, False, entries, *files)


def layer_source(g: Activation, dtype: str) -> str | None:
    """Return one complete translation unit, of which `bias_activation` and `delta` are called.

    None if the activation has no C++ expressions for them.
    """
    if g.cuda is None or g.cuda_derivative is None or g.jacobian_product is not None:
        return None
    return _unit(dtype, _activations([g], [True]), "team.hpp", "layer.cpp")


def output_source(g: Activation, loss: Loss, dtype: str) -> str | None:
    """Return one complete translation unit, of which `output_delta` is called; None likewise."""
    if g.cuda_rows or g.jacobian_product is not None:
        return None
    if not _term(loss, g) or _slope(loss, g) is None or g.cuda_derivative is None:
        return None
    return _unit(dtype, _loss(loss, g), "output.cpp")


def update_source(optimizer: Optimizer, dtype: str) -> str | None:
    """Return one complete translation unit, of which `update` is called; None likewise."""
    if not _has_update(optimizer):
        return None
    return _unit(dtype, _update(optimizer), "team.hpp", "update.cpp")


def _network_unit(
    layer_sizes: Sequence[int], dtype: str, batch_size: int, plain: bool, entries: str, *files: str
) -> str:
    L, numbers = len(layer_sizes) - 1, ", ".join(map(str, layer_sizes))
    constants = (
        f"constexpr int L = {L}, SIZES[] = {{{numbers}}}, BATCH = {batch_size};\n"
        f"constexpr int MOST_THREADS = {MOST_THREADS};\n"
        f"constexpr bool PLAIN = {_bool(plain)};\n"
    )
    return _unit(dtype, entries, "product.hpp", *files, constants=constants)


@lru_cache(32)  # the same string again is also the same hash, at once
def _unit(dtype: str, entries: str, *files: str, constants: str = "") -> str:
    return "\n".join(
        (
            f"typedef {REAL[dtype]} real;",
            f"static constexpr real ERFC[] = {{{', '.join(map(repr, ERFC))}}};",
            kernels.read("elementary.hpp"),
            f"{constants}namespace entries {{\n{entries}\n}}",
            "using namespace entries;",
            *map(kernels.read, files),
        )
    )


def _has_update(optimizer: Optimizer) -> bool:
    return optimizer.cuda is not None and optimizer.slots <= SLOTS


def _update(optimizer: Optimizer) -> str:
    signature = kernels.SIGNATURES["update_one"]
    return f"constexpr int SLOTS = {optimizer.slots};\nINLINE {signature} {{ {optimizer.cuda} }}"


def entries_source(activations: Sequence[Activation], loss: Loss) -> str:
    """Return `Activation<l>`, for layers 1 to L, and `Loss`: structs of the entries' functions."""
    return f"{_activations(activations, loss.keeps_z(activations))}\n{_loss(loss, activations[-1])}"


def _activations(activations: Sequence[Activation], keeps_z: Sequence[bool]) -> str:
    layers = map(_activation, range(1, len(activations) + 1), activations, keeps_z)
    return "\n".join(("template <int l> struct Activation;", *layers))


def _activation(l: int, g: Activation, keeps_z: bool) -> str:
    softmax = g.cuda_rows == "softmax"
    functions = "" if softmax else f" INLINE real g(real z) {{ return {g.cuda}; }}"
    if not softmax and g.cuda_derivative is not None:  # else for predictions only
        named = "real z, real" if g.derivative_from == "z" else "real, real a"
        functions += f" INLINE real g_prime({named}) {{ return {g.cuda_derivative}; }}"
    return (
        f"template <> struct Activation<{l}> {{"
        f" static constexpr bool softmax = {_bool(softmax)}, keeps_z = {_bool(keeps_z)};"
        f"{functions} }};"
    )


def _loss(loss: Loss, g: Activation) -> str:
    term = _term(loss, g)
    arguments = "(real z, real a, real y, real m)"
    return (
        f"struct Loss {{ static constexpr bool canonical = {_bool(loss.is_canonical_for(g))},"
        f" of_rows = {_bool(not term)};"
        f" INLINE real term{arguments} {{ return {term or 'real(0)'}; }}"
        f" INLINE real slope{arguments} {{ return {_slope(loss, g)}; }} }};"
    )


def _term(loss: Loss, g: Activation) -> str | None:
    """Return one output's share of C_i; "" if that is of whole rows."""
    if not loss.is_canonical_for(g):
        return loss.cuda
    if loss.cuda_canonical_rows == "softmax_cross_entropy" and g.cuda_rows == "softmax":
        return ""
    return loss.cuda_canonical


def _slope(loss: Loss, g: Activation) -> str | None:
    """Return dC_i/dz of an output, or dC_i/da where softmax makes dC_i/dz of a whole row."""
    if loss.is_canonical_for(g):
        return "a - y"
    if g.cuda_rows or loss.cuda_gradient is None:
        return loss.cuda_gradient
    return f"({loss.cuda_gradient}) * ({g.cuda_derivative})"


def _bool(value: bool) -> str:
    return str(value).lower()

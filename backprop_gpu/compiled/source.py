"""The C++ source for one network, or one entry: the kernels' files, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from backprop_gpu import kernels
from backprop_gpu.activations import Activation
from backprop_gpu.expressions import (
    REAL,
    activations_source,
    entries_source,
    has_update,
    loss_source,
    of_output,
    truth,
)
from backprop_gpu.losses import Loss
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.special import ERFC

MOST_THREADS = 64
BLOCK_BATCH = 4  # with fewer samples in a batch, copies of the weights cost more than they save
PLAIN_WIDTH = 8  # in training, layers up to it are not worth vectors
PREDICTED = 126  # samples that are predicted at once: whole blocks of rows


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
        f"constexpr bool PENALIZES = {truth(penalizes)}, CLIPS = {truth(clips)};",
        f"constexpr bool WEIGHTED = {truth(weighted)};",
        entries_source(activations, loss),
    )
    files = ("forward.hpp", "backward.hpp", "threads.hpp", "train.cpp")
    plain = batch_size < BLOCK_BATCH or max(layer_sizes) <= PLAIN_WIDTH
    return _network_unit(layer_sizes, dtype, batch_size, plain, "\n".join(entries), *files)


def prediction_source(
    layer_sizes: Sequence[int], activations: Sequence[Activation], dtype: str
) -> str:
    """Return one complete translation unit, of which `freeze` and `predict` are called."""
    entries = activations_source(activations, [False] * len(activations))
    files = ("forward.hpp", "threads.hpp", "predict.cpp")
    return _network_unit(layer_sizes, dtype, PREDICTED, False, entries, *files)


def layer_source(g: Activation, dtype: str) -> str | None:
    """Return one complete translation unit, of which `bias_activation` and `delta` are called.

    None if the activation has no C++ expressions for them.
    """
    if g.cuda is None or g.cuda_derivative is None or g.jacobian_product is not None:
        return None
    return _unit(dtype, activations_source([g], [True]), "team.hpp", "layer.cpp")


def output_source(g: Activation, loss: Loss, dtype: str) -> str | None:
    """Return one complete translation unit, of which `output_delta` is called; None likewise."""
    term, _, dC_dz = of_output(loss, g)
    if not term or dC_dz is None or g.cuda_derivative is None or g.jacobian_product is not None:
        return None
    return _unit(dtype, loss_source(loss, g), "output.cpp")


def update_source(optimizer: Optimizer, dtype: str) -> str | None:
    """Return one complete translation unit, of which `update` is called; None likewise."""
    if not has_update(optimizer):
        return None
    return _unit(dtype, _update(optimizer), "team.hpp", "update.cpp")


def _network_unit(
    layer_sizes: Sequence[int], dtype: str, batch_size: int, plain: bool, entries: str, *files: str
) -> str:
    L, numbers = len(layer_sizes) - 1, ", ".join(map(str, layer_sizes))
    constants = (
        f"constexpr int L = {L}, SIZES[] = {{{numbers}}};\n"
        f"constexpr int64_t BATCH = {batch_size};\n"
        f"constexpr int MOST_THREADS = {MOST_THREADS};\n"
        f"constexpr bool PLAIN = {truth(plain)};\n"
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


def _update(optimizer: Optimizer) -> str:
    signature = kernels.SIGNATURES["update_one"]
    return f"constexpr int SLOTS = {optimizer.slots};\nINLINE {signature} {{ {optimizer.cuda} }}"

"""Every program that the CUDA backend can put together from the built-in entries."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS, find_activation
from backprop_gpu.backends.cuda_backend import CudaBackend
from backprop_gpu.errors import DomainError
from backprop_gpu.losses import LOSSES

OPTIMIZERS = (
    bp.SGD(0.1),
    bp.SGD(0.1, weight_decay=0.01),
    bp.SGD(0.1, momentum=0.9, weight_decay=0.01),
    bp.SGD(0.1, momentum=0.9, nesterov=True),
    bp.Adam(0.01, weight_decay=0.1),
    bp.AdamW(0.01, weight_decay=0.1),
)

# An activation of each kind: its derivative from a, with a branch, from z, of whole rows.
TYPICAL = ("sigmoid", bp.LeakyReLU(0.1), "gelu", "softmax")


def built_in_activations() -> Iterator[bp.Activation]:
    yield from (build() for name, build in ACTIVATIONS.items() if name != "leaky_relu")
    yield from (bp.LeakyReLU(leak) for leak in (0.1, 0.0, 1.0, 2.5, -0.5))


class Recorder:
    """A launcher that launches nothing and remembers what it was asked for."""

    def __init__(self) -> None:
        self.kernels: dict[tuple[str, str], None] = {}

    def launch(self, source: str, name: str, *launched: Any) -> None:
        self.kernels[source, name] = None


@functools.cache
def programs(dtype: str, typical: bool = False) -> dict[str, tuple[str, ...]]:
    """Return every source in one dtype, with the names of its kernels that are launched.

    With `typical`, every kernel, but only with an activation of each kind.
    """
    activations = [find_activation(g) for g in TYPICAL] if typical else [*built_in_activations()]
    recorder = Recorder()
    backend = CudaBackend(np, recorder, "cuda:0", nullcontext)
    matrix, row, one = np.zeros((2, 3), dtype), np.zeros(3, dtype), np.zeros(1, dtype)
    for g in activations:
        backend.bias_activation(matrix, row, g, matrix)
        backend.delta(matrix, g, matrix, matrix, row)
    for loss, g in product(LOSSES.values(), activations):
        try:
            loss.check_output(g)
        except DomainError:
            continue
        backend.output_delta(loss, g, matrix + 0.5, matrix + 0.5, matrix, one, matrix, matrix)
    backend.gather(matrix, np.zeros(2, np.int64), matrix)
    backend.shuffle(np.zeros(1, np.uint64), 0, np.zeros((1, 1, 2), np.int64))
    backend.all_finite([row], one)
    backend.copy_if(one, row, row)
    backend.penalize(one, row, np.zeros(4, row.dtype))
    backend.clip_values(row, 1.0)
    backend.clip_norm(row, 1.0)
    for optimizer in OPTIMIZERS:
        state = [row] * optimizer.slots
        backend.update(optimizer, row, row, state, np.zeros(4, row.dtype), 2)
    names: dict[str, list[str]] = {}
    for source, name in recorder.kernels:
        names.setdefault(source, []).append(name)
    return {source: tuple(kernels) for source, kernels in names.items()}

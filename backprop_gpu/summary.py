"""What a network consists of, as text."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from backprop_gpu.errors import check_count
from backprop_gpu.losses import LOSSES
from backprop_gpu.text_table import Text, aligned, as_bytes

if TYPE_CHECKING:
    from backprop_gpu.mlp import MLP


def summarize(net: MLP, batch_size: int | None = None) -> Text:
    """Return what `MLP.summary` does."""
    parts = [_layers(net), textwrap.fill(f"{net.dtype} on {net.device}: {net.device_reason}", 88)]
    if batch_size is not None:
        parts.append(_training(net, check_count("batch_size", batch_size)))
    return Text("\n\n".join(parts))


def _layers(net: MLP) -> str:
    parts = [(str(l), layer.W.shape, str(layer.g)) for l, layer in enumerate(net.layers, start=1)]
    rows = [
        (l, f"{nodes} x {inputs}", g, *_size(net, nodes * (inputs + 1)))
        for l, (nodes, inputs), g in parts
    ]
    rows.append(("all", "", "", *_size(net, net.parameters.size)))
    return aligned(rows, ["layer", "nodes x inputs", "activation", "parameters", "memory"])


def _training(net: MLP, n: int) -> str:
    """Return what `single_steps.Steps` allocates.

    z is kept where g' or a loss is computed from it; delta takes the place of a; dC/da of the
    hidden layers takes turns in one array.
    """
    inputs, *nodes = net.layer_sizes
    kept = np.any([loss.keeps_z(net.activations) for loss in LOSSES.values()], axis=0)
    z = int(np.dot(kept, nodes))
    sample = inputs + nodes[-1] + sum(nodes) + z + max(nodes[:-1], default=0)
    parameters = net.parameters.size
    rows = [
        ("a batch: x, y, and every layer's a, z and delta", *_size(net, n * sample)),
        ("dC/dW and dC/db", *_size(net, parameters)),
        ("the last good parameters", *_size(net, parameters)),
        ("Adam's state; with momentum half of it", *_size(net, 2 * parameters)),
        ("all", *_size(net, n * sample + 4 * parameters)),
    ]
    return aligned(rows, [f"training, in batches of {n:,}", "numbers", "memory"])


def _size(net: MLP, count: int) -> tuple[str, str]:
    return f"{count:,}", as_bytes(count * net.dtype.itemsize)

"""The numbers of one run, forward and back, of the nodes that a page shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backprop_gpu.errors import ShapeError
from backprop_gpu.explaining.jump_back import Jump, jump_back
from backprop_gpu.explaining.layout import Values, entries, shown_nodes
from backprop_gpu.explaining.numbers import Numbers
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP, check_network

# Places in a layer, and weights in all, that a page shows at most.
MOST_NODES, MOST_WEIGHTS = 10, 500


@dataclass(frozen=True)
class PageRun:
    """One sample, fed forward and propagated back.

    Attributes
    ----------
    net : MLP
    loss : Loss
    numbers : Numbers
        Both passes.
    jumps : tuple of Jump
    shown : list of list of int
        The nodes of every layer that are shown; of layer 0, too.
    nodes : dict
        "a", "dC_da" for layers 0 to L, "z", "delta" for 1 to L: by layer, the numbers of the
        shown nodes.
    y : ndarray
    W, b, dC_dW, dC_db : dict
        By layer: of the shown nodes.
    """

    net: MLP
    loss: Loss
    numbers: Numbers
    jumps: tuple[Jump, ...]
    shown: list[list[int]]
    nodes: dict[str, dict[int, Values]]
    y: Values
    W: dict[int, Values]
    b: dict[int, Values]
    dC_dW: dict[int, Values]
    dC_db: dict[int, Values]

    @property
    def L(self) -> int:
        """The number of layers that carry weights."""
        return len(self.net.layers)

    @property
    def C(self) -> float:
        """The loss."""
        return self.numbers.grads.loss


def run(net: MLP, x: Any, y: Any, loss: str | Loss) -> PageRun:
    """Feed one sample forward and propagate it back, and keep what a page shows.

    Raises
    ------
    ShapeError
        If x is not one row.
    """
    check_network(net)
    numbers = Numbers(net, x, y, loss)
    if numbers.n != 1:
        raise ShapeError(f"x has {numbers.n} rows; the page shows one sample: x[:1], y[:1]")
    shown = _shown(net)
    jumps = jump_back(net, x, y, numbers.loss)
    trace, L = numbers.trace, len(net.layers)
    layers = range(1, L + 1)
    nodes: dict[str, dict[int, Values]] = {
        "a": {l: entries(net, a, [0], shown[l])[0] for l, a in enumerate(trace.a)},
        "z": {l: entries(net, trace.z[l - 1], [0], shown[l])[0] for l in layers},
        "dC_da": {},
        "delta": {},
    }
    dC_dW, dC_db = {}, {}
    for jump in jumps:
        l = jump.layer - (jump.kind == "weights")
        quantity = "delta" if jump.kind in ("activation", "weights and biases") else "dC_da"
        nodes[quantity][l] = entries(net, jump.gradient, [0], shown[l])[0]
        if jump.dC_dW is not None and jump.dC_db is not None:
            dC_dW[l] = entries(net, jump.dC_dW, shown[l], shown[l - 1])
            dC_db[l] = entries(net, jump.dC_db, shown[l])
    return PageRun(
        net,
        numbers.loss,
        numbers,
        jumps,
        shown,
        nodes,
        entries(net, numbers.y, [0], shown[L])[0],
        {l: entries(net, net.weights[l - 1], shown[l], shown[l - 1]) for l in layers},
        {l: entries(net, net.biases[l - 1], shown[l]) for l in layers},
        dC_dW,
        dC_db,
    )


def _shown(net: MLP) -> list[list[int]]:
    """Return the shown nodes of every layer: the fewer, the more layers there are."""
    for most in range(MOST_NODES, 2, -1):
        shown = [shown_nodes(size, most) for size in net.layer_sizes]
        counts = np.array([len(layer) for layer in shown])
        if counts[1:] @ counts[:-1] <= MOST_WEIGHTS:
            break
    return shown

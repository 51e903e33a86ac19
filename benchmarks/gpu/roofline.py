"""A run as a roofline: what a step computes for each byte it moves, and how fast it does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from backprop_gpu.figures import FAINT, INK, PAPER
from benchmarks.gpu.page import best_peer
from benchmarks.gpu.rows import TRAIN, Found, Row
from benchmarks.peers.picture import as_svg

COLOURS = {"float64": "#6a51a3", "float32": "#2166ac", "tf32": "#1b7837", "bf16": "#b2541a"}
FLOPS, BYTES = "FLOP/s, ", "bytes/s, copied"


def step_bytes(layer_sizes: Sequence[int], batch: int, itemsize: int) -> int:
    """Return about how many bytes the kernels of a training step move, one after the other.

    Each reads what it needs from memory and writes what it makes. Of a weight: two reads by
    products, and a read and a write by the product that updates it, 4 in all; its gradient is
    never there. Of a node in a sample: 11, for z, a, dC/da and delta. x is read twice. Kernels
    that find their operands in a cache move less, and so does training in one launch.
    """
    weights = sum(inputs * nodes for inputs, nodes in pairwise(layer_sizes))
    x, *nodes = layer_sizes
    return itemsize * (4 * weights + batch * (2 * x + 11 * sum(nodes)))


def intensity(row: Row) -> float:
    """Return the FLOPs of a step for each byte."""
    itemsize = 8 if row.precision == "float64" else 4
    return row.flops / step_bytes(row.layer_sizes, row.batch, itemsize)


def figure(found: Found) -> Figure:
    """Return matplotlib's figure: roofs as lines, `train` as dots, the best of others as rings."""
    drawn = Figure((7, 4.5), facecolor=PAPER, layout="constrained")
    ax = drawn.subplots()
    dots = [
        (row, COLOURS[row.precision] if row.implementation == TRAIN else PAPER)
        for group in found.timed().values()
        for row in (group.get(TRAIN), best_peer(group))
        if row is not None and TRAIN in group
    ]
    lowest: dict[str, tuple[float, float]] = {}
    for row, face in dots:
        where = intensity(row), row.flops / row.seconds
        ax.plot(*where, "o", color=COLOURS[row.precision], markerfacecolor=face, zorder=3)
        name = f"{row.network}, {row.batch:,}"
        lowest[name] = min(lowest.get(name, where), where)
    for name, where in lowest.items():
        style = {"rotation": 90, "ha": "center", "va": "top", "fontsize": 7, "color": INK}
        ax.annotate(name, where, (0, -6), textcoords="offset points", **style)
    intensities = [intensity(row) for row, _ in dots] or [1.0]
    left, right = min(intensities) / 3, max(intensities) * 10
    bandwidth = found.rates.get(BYTES, np.inf)
    roofs = {p: found.rates[FLOPS + p] for p in COLOURS if FLOPS + p in found.rates}
    for precision, rate in roofs.items():
        ax.plot([rate / bandwidth or left, right], [rate, rate], color=COLOURS[precision])
    if roofs and bandwidth < np.inf:
        ends = np.array([left, max(roofs.values()) / bandwidth])
        ax.plot(ends, ends * bandwidth, color=FAINT, label="bytes/s of a copy")
    for precision, colour in COLOURS.items():
        ax.plot([], [], color=colour, label=precision)
    ax.plot([], [], "o", color=INK, label="train")
    ax.plot([], [], "o", color=INK, markerfacecolor=PAPER, label="the best of the others")
    ax.loglog()
    ax.set_xlim(left, right)
    ax.margins(y=0.25)  # where the names stand
    ax.set_xlabel("FLOPs of the products for each byte that a step's kernels move")
    ax.set_ylabel("FLOP/s of the products")
    ax.legend(loc="lower right", frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return drawn


def svg(found: Found) -> str:
    """Return the picture as SVG."""
    return as_svg(partial(figure, found))

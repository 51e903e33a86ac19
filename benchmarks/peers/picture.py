"""A race as a picture: for each network, how many times as long each takes as this library."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from functools import partial

from matplotlib import rc_context
from matplotlib.figure import Figure

from backprop_gpu.benchmark.speed import NETWORKS
from backprop_gpu.figures import FAINT, INK, PAPER
from benchmarks.peers.contestants import CONTESTANTS, OWN
from benchmarks.peers.rows import Row, shown

FASTER, SLOWER = "#b2541a", "#2166ac"  # than the library

# The same bytes for the same picture: names that don't change, text as text, no date.
STYLE = {"svg.hashsalt": "backprop_gpu", "svg.fonttype": "none", "font.size": 8}
NOTHING = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def figure(rows: Sequence[Row]) -> Figure:
    """Return matplotlib's figure: a panel a network, a line a contestant, times on a log axis."""
    step = {(row.network, row.contestant): row.step for row in rows if row.step is not None}
    networks = [name for name in NETWORKS if (name, OWN) in step]
    names = [name for name in CONTESTANTS if any(key[1] == name for key in step)]
    size = (1.6 + 1.6 * len(networks), 0.5 + 0.27 * len(names))
    drawn = Figure(size, facecolor=PAPER, layout="constrained")
    panels = drawn.subplots(1, len(networks), sharex=True, sharey=True, squeeze=False)[0]
    ends = [0.8, 1.2]
    for name, ax in zip(networks, panels, strict=True):
        ours = step[name, OWN].seconds
        ratios = {
            y: step[name, other].seconds / ours
            for y, other in enumerate(names)
            if (name, other) in step
        }
        colours = [FASTER if ratio < 1 else SLOWER for ratio in ratios.values()]
        lengths = [ratio - 1 for ratio in ratios.values()]
        ax.barh(list(ratios), lengths, 0.55, left=1, color=colours)
        for y, ratio in ratios.items():
            end = (max(ratio, 1), y)
            ax.annotate(f"{ratio:.3g}", end, (3, 0), textcoords="offset points", va="center")
        ax.axvline(1, color=FAINT, linewidth=0.8)
        ends += ratios.values()
        ax.set_title(f"{name}: {_duration(ours)}", color=INK, fontsize=9)
        ax.spines[:].set_visible(False)
        ax.tick_params(left=False)
    panels[0].set_xscale("log")
    panels[0].set_xlim(min(ends) / 1.1, max(ends) ** 1.5)  # the number stands behind the bar
    panels[0].set_xticks([], [])
    panels[0].minorticks_off()
    panels[0].set_yticks(range(len(names)), [shown(name) for name in names])
    panels[0].invert_yaxis()
    return drawn


def svg(rows: Sequence[Row]) -> str:
    """Return the picture as SVG."""
    return as_svg(partial(figure, rows))


def as_svg(draw: Callable[[], Figure]) -> str:
    """Return what is drawn as SVG, without what nothing in it needs."""
    content = io.StringIO()
    with rc_context(STYLE):
        draw().savefig(content, format="svg", metadata=NOTHING)
    text = re.sub(r"<!DOCTYPE.*?>\n", "", content.getvalue(), flags=re.DOTALL)
    text = re.sub(r' xmlns:xlink="[^"]*"', "", text).replace("xlink:href", "href")
    return re.sub(r" +$", "", text, flags=re.MULTILINE)


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"

"""A network as a picture: its nodes, its weights, and the lines that Jumping Back jumps over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backprop_gpu.arrays import Array
from backprop_gpu.errors import DomainError, DtypeError, ShapeError, brief, check_count
from backprop_gpu.explaining.jump_back import Jump
from backprop_gpu.explaining.layout import (
    Values,
    entries,
    largest,
    places,
    short,
    shown_nodes,
    strength,
)
from backprop_gpu.figures import FAINT, INK, PAPER, check_picture_path, new_figure, save_figure
from backprop_gpu.mlp import MLP, check_network
from backprop_gpu.network import Gradients, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the picture, in units of the distance between two nodes: distance between two layers, radius
# of a node, distance of the loss line from the last layer, and of y from the loss line.
LAYERS_APART, RADIUS, TO_LOSS, TO_Y = 2.7, 0.36, 0.95, 0.6
POSITIVE, NEGATIVE, MARK = "#2166ac", "#b2541a", "#a3195b"


@dataclass
class _Picture:
    """What is drawn: the network, the shown nodes of every layer, and where they stand."""

    net: MLP
    sample: int
    shown: list[list[int]]
    ax: Axes
    nodes: list[dict[int, tuple[float, float]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for l, (size, shown) in enumerate(zip(self.net.layer_sizes, self.shown, strict=True)):
            x = l * LAYERS_APART
            spots = places(size, shown)
            self.nodes.append({j: (x, -v) for j, v in zip(shown, spots, strict=True)})

    @property
    def top(self) -> float:
        """The height of the highest node."""
        return max(y for layer in self.nodes for _, y in layer.values())

    @property
    def L(self) -> int:
        """The number of layers that carry weights."""
        return len(self.nodes) - 1

    def row(self, array: Array, l: int) -> Values:
        """Bring the sample's numbers at the shown nodes of layer l to the CPU."""
        matrix = entries(self.net, array, [self.sample], self.shown[l])
        return matrix.reshape(-1)

    def write(self, x: float, y: float, words: str, **style: Any) -> None:
        """Write words around a place, in ink, unless the style says otherwise."""
        self.ax.text(x, y, words, **{"ha": "center", "va": "center", "color": INK, **style})


def draw(
    net: MLP,
    path: str | Path | None = None,
    *,
    trace: Trace | None = None,
    gradients: Gradients | None = None,
    jump: Jump | None = None,
    sample: int = 0,
    most: int = 10,
) -> Figure:
    """Draw a network with matplotlib: its nodes in layers, its weights as lines between them.

    A line is the wider and the darker the larger its number is among those of its layer. Above 0
    it is blue and solid, below 0 orange and dashed.

    Parameters
    ----------
    net : MLP
    path : str or Path, optional
        Where to write the picture: .png, .svg or .pdf.
    trace : Trace, optional
        From ``net.forward(x)``: every node shows its output, and is filled by it.
    gradients : Gradients, optional
        From ``net.backward(trace, y)``: the lines show dC/dW in the place of W.
    jump : Jump, optional
        One of `jump_back`: the line that it jumps over is marked, and the gradient collected so
        far is written where it arrives. On arrival at weights, these show dC/dW.
    sample : int
        The row of the trace and of the jump's gradient that is shown.
    most : int
        Places in a layer, 3 or above: a larger layer shows its first nodes, an ellipsis, and its
        last node.

    Returns
    -------
    matplotlib.figure.Figure
        A notebook shows it; pyplot does not know it.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    DomainError, DtypeError, ShapeError
        If something is not what it should be, or is of another network.
    FileFormatError
        If the file can't be written.

    Examples
    --------
    >>> import backprop_gpu as bp
    >>> net, x, y = bp.textbook(device="cpu")
    >>> figure = draw(net, trace=net.forward(x))
    """
    if check_count("most", most) < 3:
        raise DomainError(f"most is {most}; expected a whole number, 3 or above")
    target = None if path is None else check_picture_path(path)
    _check_fits(net, trace, gradients, jump, check_count("sample", sample, least=0))
    figure = new_figure("draw")
    shown = [shown_nodes(size, most) for size in net.layer_sizes]
    picture = _Picture(net, sample, shown, figure.add_axes((0.0, 0.0, 1.0, 1.0)))

    matrices: list[Array] = list((net if gradients is None else gradients).weights)
    if jump is not None and jump.dC_dW is not None:
        matrices[jump.layer - 1] = jump.dC_dW
    for l, matrix in enumerate(matrices, start=1):
        _draw_weights(picture, l, matrix, _crossed(jump, "weights", l))
    _draw_lines(picture, jump)
    _draw_nodes(picture, trace)
    if jump is not None:
        _draw_collected(picture, jump)
    _draw_legend(picture, gradients is not None, jump)
    _fit(figure, picture, jump)
    if target is not None:
        save_figure(figure, target)
    return figure


def _check_fits(
    net: MLP, trace: Trace | None, gradients: Gradients | None, jump: Jump | None, sample: int
) -> None:
    """Raise unless all is of this network and has this sample."""
    check_network(net)
    for name, value, kind in (
        ("trace", trace, Trace),
        ("gradients", gradients, Gradients),
        ("jump", jump, Jump),
    ):
        if value is not None and not isinstance(value, kind):
            raise DtypeError(f"{name} is {brief(value)}; expected a {kind.__name__}")
    sizes, rows = net.layer_sizes, []
    if trace is not None:
        _check_widths("trace", tuple(a.shape[1] for a in trace.a), sizes)
        rows.append(("trace", len(trace.a[0])))
    if gradients is not None:
        widths = (gradients.weights[0].shape[1], *(len(W) for W in gradients.weights))
        _check_widths("gradients", widths, sizes)
    if jump is not None:
        l = jump.layer - (jump.kind == "weights")
        if l >= len(sizes) or jump.shape[1] != sizes[l]:
            raise ShapeError(
                f"the jump is {jump.words}, {jump.shape[1]} wide; this network's layers are {sizes}"
            )
        rows.append(("jump", len(jump.gradient)))
    for name, n in rows:
        if sample >= n:
            raise DomainError(f"sample is {sample}; the {name} has rows 0 to {n - 1}")
    if sample and not rows:
        raise DomainError(f"sample is {sample}, and neither a trace nor a jump is given to show")


def _check_widths(name: str, widths: Sequence[int], sizes: Sequence[int]) -> None:
    if tuple(widths) != tuple(sizes):
        raise ShapeError(f"the {name} is of layers {tuple(widths)}; this network's are {sizes}")


def _crossed(jump: Jump | None, kind: str, l: int) -> bool:
    """Return whether the jump is over this line, or arrives at these weights."""
    if jump is None or jump.layer != l:
        return False
    return jump.kind == kind or (kind == "weights" and jump.kind == "weights and biases")


# ---- the parts of the picture --------------------------------------------------------------------


def _draw_weights(picture: _Picture, l: int, matrix: Array, marked: bool) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    shown, before = picture.shown[l], picture.shown[l - 1]
    values = entries(picture.net, matrix, shown, before)
    most = largest(values)
    lines = [
        (strength(float(values[r, c]), most), picture.nodes[l - 1][k], picture.nodes[l][j])
        for r, j in enumerate(shown)
        for c, k in enumerate(before)
    ]
    lines.sort(key=lambda line: abs(line[0]))  # the largest on top
    many = len(lines) > 40
    for sign, colour, dashes in (
        (1, POSITIVE, "solid"),
        (-1, NEGATIVE, (0, (3.2, 1.6))),
        (0, FAINT, (0, (0.8, 2.0))),
    ):
        chosen = [line for line in lines if np.sign(line[0]) == sign]
        if not chosen:
            continue
        collection = LineCollection(
            [(start, end) for _, start, end in chosen],
            colors=[
                (colour, (0.25 + 0.75 * abs(s)) * (0.75 if many else 0.95)) for s, *_ in chosen
            ],
            linewidths=[0.5 + (2.0 if many else 2.9) * abs(s) for s, *_ in chosen],
            linestyles=dashes,
            zorder=1,
        )
        collection.set_gid(f"weights-{l}-{('negative', 'zero', 'positive')[sign + 1]}")
        picture.ax.add_collection(collection)
    if marked:
        width, height = LAYERS_APART - 2 * RADIUS - 0.24, 2 * picture.top + 1.1
        corner = (l - 1) * LAYERS_APART + RADIUS + 0.12, -height / 2
        band = Rectangle(corner, width, height, color=MARK, alpha=0.09, zorder=0, linewidth=0)
        band.set_gid("crossed")
        picture.ax.add_patch(band)
    x, y, colour = (l - 0.5) * LAYERS_APART, picture.top + 0.62, MARK if marked else INK
    picture.write(x, y, rf"$W^{{[{l}]}}, b^{{[{l}]}}$", va="bottom", fontsize=11, color=colour)


def _draw_lines(picture: _Picture, jump: Jump | None) -> None:
    """Draw the activation lines, the loss line and y."""
    low, high = -picture.top - 0.55, picture.top + 0.55
    for l, g in enumerate(picture.net.activations, start=1):
        marked = _crossed(jump, "activation", l)
        words = str(g).replace("_", " ")
        _draw_line(picture, l * LAYERS_APART, low, high, words, f"activation-{l}", marked)
    x = picture.L * LAYERS_APART + TO_LOSS
    _draw_line(picture, x, low, high, "loss", "loss", _crossed(jump, "loss", picture.L))
    for j, (_, y) in picture.nodes[-1].items():
        picture.write(x + TO_Y, y, f"$y_{{{j}}}$", fontsize=11)
    _ellipsis(picture.ax, x + TO_Y, picture.nodes[-1], picture.net.layer_sizes[-1])


def _draw_line(
    picture: _Picture, x: float, low: float, high: float, words: str, gid: str, marked: bool
) -> None:
    (line,) = picture.ax.plot(
        [x, x],
        [low, high],
        color=MARK if marked else FAINT,
        linewidth=3.0 if marked else 1.1,
        linestyle="solid" if marked else (0, (4, 3)),
        zorder=2,
    )
    line.set_gid("crossed" if marked else gid)
    style = {"color": MARK, "fontweight": "bold"} if marked else {}
    picture.write(x, low - 0.08, words, va="top", fontsize=9, **style)


def _draw_nodes(picture: _Picture, trace: Trace | None) -> None:
    from matplotlib.patches import Circle

    for l, nodes in enumerate(picture.nodes):
        values = None if trace is None else picture.row(trace.a[l], l)
        most = 1.0 if values is None else largest(values)
        for i, (j, (x, y)) in enumerate(nodes.items()):
            text = f"${'x' if l == 0 else 'a'}_{{{j}}}$"
            colour: str | tuple[float, float, float] = PAPER
            if values is not None:
                value = float(values[i])
                colour, text = _fill(strength(value, most)), short(value)
            circle = Circle((x, y), RADIUS, facecolor=colour, edgecolor=INK, lw=1.0, zorder=4)
            circle.set_gid(f"node-{l}-{j}")
            picture.ax.add_patch(circle)
            picture.write(x, y, text, fontsize=9, zorder=5)
            if len(nodes) < picture.net.layer_sizes[l] and j == max(nodes):
                box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.6}
                style = {"va": "top", "fontsize": 6.5, "zorder": 5, "bbox": box}
                picture.write(x, y - RADIUS - 0.03, f"node {j}", **style)
        x = l * LAYERS_APART
        _ellipsis(picture.ax, x, nodes, picture.net.layer_sizes[l])
        size = picture.net.layer_sizes[l]
        title = (f"layer {l}" if l else "input") + f"\n{size} node{'s' * (size > 1)}"
        picture.write(x, picture.top + 0.62, title, va="bottom", fontsize=9)


def _ellipsis(ax: Axes, x: float, nodes: dict[int, tuple[float, float]], size: int) -> None:
    if len(nodes) == size:
        return
    (_, above), (_, below) = list(nodes.values())[-2:]
    middle = (above + below) / 2
    ax.plot(
        [x] * 3,
        [middle - 0.17, middle, middle + 0.17],
        linestyle="none",
        marker="o",
        markersize=3.4,
        color=INK,
        markeredgecolor=PAPER,
        zorder=5,
        gid="ellipsis",
    )


def _draw_collected(picture: _Picture, jump: Jump) -> None:
    """Write the gradient collected so far where it has arrived: right of a line, or left of it."""
    l = jump.layer - (jump.kind == "weights")
    after_line = jump.kind in ("loss", "weights")
    values = picture.row(jump.gradient, l)
    side = 1 if after_line else -1
    box = {"boxstyle": "round,pad=0.22", "facecolor": MARK, "edgecolor": PAPER}
    style = {"fontsize": 8, "color": PAPER, "zorder": 6, "gid": "collected", "bbox": box}
    for (x, y), value in zip(picture.nodes[l].values(), values, strict=True):
        picture.write(x + side * 0.5, y + 0.36, short(float(value)), **style)
    what = rf"$\partial C/\partial a^{{[{l}]}}$" if after_line else rf"$\delta^{{[{l}]}}$"
    words = f"{jump.words[0].upper()}{jump.words[1:]}; collected so far: {what}"
    x, y = picture.L * LAYERS_APART / 2, picture.top + 1.45
    picture.write(x, y, words, va="bottom", fontsize=11, color=MARK)


def _draw_legend(picture: _Picture, of_gradients: bool, jump: Jump | None) -> None:
    from matplotlib.lines import Line2D

    what = "∂C/∂w" if of_gradients else "w"
    if jump is not None and jump.dC_dW is not None and not of_gradients:
        what = f"w (in layer {jump.layer}: ∂C/∂w)"
    handles: list[Any] = [
        Line2D([], [], color=POSITIVE, linewidth=2.4, label=f"{what} above 0"),
        Line2D([], [], color=NEGATIVE, linewidth=2.4, linestyle=(0, (3.2, 1.6)), label="below 0"),
        Line2D([], [], color=FAINT, linewidth=1.1, linestyle=(0, (4, 3)), label="to jump over"),
    ]
    legend = picture.ax.legend(
        handles=handles,
        loc="lower center",
        ncols=3,
        fontsize=8.5,
        frameon=False,
        borderaxespad=0.1,
        handlelength=2.6,
        columnspacing=1.6,
    )
    for text in legend.get_texts():
        text.set_color(INK)


def _fill(share: float) -> tuple[float, float, float]:
    """Return a light colour: blue for a number above 0, orange for one below."""
    from matplotlib.colors import to_rgb

    full, paper = np.array(to_rgb(POSITIVE if share > 0 else NEGATIVE)), np.array(to_rgb(PAPER))
    red, green, blue = paper + (full - paper) * 0.42 * abs(share)
    return float(red), float(green), float(blue)


def _fit(figure: Figure, picture: _Picture, jump: Jump | None) -> None:
    """Give the figure the picture's size."""
    left, right = -1.05, picture.L * LAYERS_APART + TO_LOSS + TO_Y + 0.6
    low, high = -picture.top - 1.45, picture.top + (1.95 if jump else 1.4)
    width, height = right - left, high - low
    picture.ax.set_xlim(left, right)
    picture.ax.set_ylim(low, high)
    picture.ax.set_aspect("equal")
    picture.ax.set_axis_off()
    unit = min(0.62, 30 / width)
    figure.set_size_inches(width * unit, height * unit)

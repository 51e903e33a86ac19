"""The picture of a page: a network as SVG, from left to right or from top to bottom.

Every node is two halves with the activation line between them: what the node hears, z, and what
it says, a. The script writes numbers into the halves. A lane beside the network shows the jumps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from backprop_gpu.explaining.layout import largest, places, short, strength
from backprop_gpu.explaining.page.run import PageRun

LONG = 1500  # as wide as this, a picture is not made smaller, but scrolls
NARROW = 6  # places in a layer, where the network runs from top to bottom


@dataclass(frozen=True)
class Shape:
    """The measures of a picture. Along is where the signal goes, across is from node to node.

    Attributes
    ----------
    vertical : bool
        Whether the signal goes down, and not to the right.
    half, cell : float
        A half of a node: its length along, and across.
    slot : float
        From node to node.
    gap : float
        Between layers, along.
    to_loss : float
        From the last layer to the loss line, and from there to y.
    before, after : float
        Room across, on either side of the nodes: for names, and for the lane of jumps.
    font : float
    margin : float
        Room along, at either end.
    """

    vertical: bool
    half: float
    cell: float
    slot: float
    gap: float
    to_loss: float
    before: float
    after: float
    font: float
    margin: float


WIDE = Shape(False, 61, 32, 42, 130, 34, 56, 66, 14, 8)
TALL = Shape(True, 25, 51, 55, 92, 27, 14, 52, 12.5, 26)


class Picture:
    """Draws a run."""

    def __init__(self, run: PageRun, shape: Shape) -> None:
        self.run, self.shape = run, shape
        self.shown = run.shown
        if shape.vertical:
            self.shown = [_fewer(layer) for layer in run.shown]
        sizes = run.net.layer_sizes
        spots = [places(size, nodes) for size, nodes in zip(sizes, self.shown, strict=True)]
        self.widest = max(layer[-1] for layer in spots) * 2 + 1
        if shape.vertical:  # so that the page's width is used, and always the same
            self.widest = max(self.widest, 5.0)
        self.middle = shape.before + self.widest * shape.slot / 2
        self.across = [
            {j: self.middle + spot * shape.slot for j, spot in zip(nodes, layer, strict=True)}
            for nodes, layer in zip(self.shown, spots, strict=True)
        ]
        self.end = shape.before + self.widest * shape.slot

    # ---- measures --------------------------------------------------------------------------------

    def line(self, l: int) -> float:
        """Where the activation line of layer l is; of the input, the begin of its half."""
        s = self.shape
        return s.margin + l * (s.half * 2 + s.gap)

    @property
    def loss_line(self) -> float:
        """Where the loss line is."""
        return self.line(self.run.L) + self.shape.half + self.shape.to_loss

    @property
    def y(self) -> float:
        """Where y begins."""
        return self.loss_line + self.shape.to_loss

    def middle_of(self, half: str, l: int) -> float:
        """Where the middle of a half of layer l is."""
        side = 1 if half == "a" else -1
        return self.line(l) + side * self.shape.half / 2

    def xy(self, along: float, across: float) -> tuple[float, float]:
        """Return x and y."""
        return (across, along) if self.shape.vertical else (along, across)

    def point(self, along: float, across: float) -> str:
        """Return x and y as a path has them."""
        x, y = self.xy(along, across)
        return f"{x:.4g} {y:.4g}"

    def at(self, along: float, across: float, suffix: str = "") -> str:
        """Return x and y as attributes."""
        x, y = self.xy(along, across)
        return f'x{suffix}="{x:.4g}" y{suffix}="{y:.4g}"'

    # ---- parts -----------------------------------------------------------------------------------

    def svg(self) -> str:
        """Return the picture."""
        s = self.shape
        width, height = self.xy(self.y + s.half + s.margin, self.end + s.after)
        kind = "tall" if s.vertical else "wide" if width < LONG else "wide long"
        label = f"The network: layers of {', '.join(map(str, self.run.net.layer_sizes))} nodes"
        size = f'width="{width:.5g}" height="{height:.5g}"'
        parts = [
            *self._bands(),
            *self._edges(),
            *self._lines(),
            *self._nodes(),
            *self._targets(),
            *self._names(),
            *self._jumps(),
        ]
        return (
            f'<svg class="net {kind}" viewBox="0 0 {width:.5g} {height:.5g}" {size} role="group" '
            f'aria-label="{label}" style="font-size:{s.font}px">{"".join(parts)}</svg>'
        )

    def _rect(self, along: float, across: float, length: float, thickness: float) -> str:
        x, y = self.xy(along, across)
        width, height = self.xy(length, thickness)
        return f'x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}"'

    def _bands(self) -> Iterator[str]:
        """Where the weights are: a band, which is marked when they are crossed."""
        s = self.shape
        for l in range(1, self.run.L + 1):
            start = self.line(l - 1) + s.half + 4
            across = s.before - 4
            place = self._rect(start, across, s.gap - 8, self.end - across + 4)
            yield f'<rect class="band" data-line="weights-{l}" rx="8" {place}/>'

    def _edges(self) -> Iterator[str]:
        s = self.shape
        for l in range(1, self.run.L + 1):
            w, g = self.run.W[l], self.run.dC_dW[l]
            most_w, most_g = largest(w), largest(g)
            start, stop = self.line(l - 1) + s.half, self.line(l) - s.half
            drawn, hit = [], []
            for j in self.shown[l]:
                r = self.run.shown[l].index(j)
                for k in self.shown[l - 1]:
                    c = self.run.shown[l - 1].index(k)
                    ends = f"{self.at(start, self.across[l - 1][k], '1')} "
                    ends += self.at(stop, self.across[l][j], "2")
                    shares = (strength(float(w[r, c]), most_w), strength(float(g[r, c]), most_g))
                    drawn.append(
                        f'<line class="edge" data-key="{l},{j},{k}" data-w="{shares[0]:.3g}" '
                        f'data-g="{shares[1]:.3g}" {ends}/>'
                    )
                    name = (
                        f"weight {short(float(w[r, c]))} from node {k} of layer {l - 1} to "
                        f"node {j} of layer {l}"
                    )
                    hit.append(
                        f'<line class="hit" data-key="{l},{j},{k}" tabindex="-1" role="button" '
                        f'aria-label="{name}" {ends}/>'
                    )
            yield f'<g data-weights="{l}">{"".join(drawn)}{"".join(hit)}</g>'

    def _lines(self) -> Iterator[str]:
        lines = {f"activation-{l}": self.line(l) for l in range(1, self.run.L + 1)}
        lines["loss"] = self.loss_line
        for name, along in lines.items():
            ends = (
                f"{self.at(along, self.shape.before - 6, '1')} {self.at(along, self.end + 6, '2')}"
            )
            yield f'<line class="line" data-line="{name}" {ends}/>'

    def _nodes(self) -> Iterator[str]:
        s = self.shape
        for l, nodes in enumerate(self.across):
            for j, across in nodes.items():
                halves = ""
                for half in "za" if l else "a":
                    start = self.line(l) - (s.half if half == "z" else 0)
                    halves += self._half(start, across, f"{half},{l},{j}", f"half {half}")
                words = f"bias and numbers of node {j} of layer {l}" if l else f"input {j}"
                yield (
                    f'<g class="node" data-key="{l},{j}" tabindex="-1" role="button" '
                    f'aria-label="{words}">{halves}</g>'
                )
            yield self._ellipsis(l, self.line(l) + (0 if l else s.half / 2))

    def _half(self, along: float, across: float, cell: str, classes: str, words: str = "") -> str:
        s = self.shape
        place = self._rect(along, across - s.cell / 2, s.half, s.cell)
        middle = self.at(along + s.half / 2, across)
        return (
            f'<rect class="{classes}" data-cell="{cell}" rx="4" {place}/>'
            f'<text class="value" data-cell="{cell}" dy=".35em" {middle}>{words}</text>'
        )

    def _ellipsis(self, l: int, along: float) -> str:
        nodes, across = self.shown[l], list(self.across[l].values())
        hidden = self.run.net.layer_sizes[l] - len(nodes)
        if not hidden:
            return ""
        middle = (across[-1] + across[-2]) / 2

        def line(along: float, words: str) -> str:
            return f'<text class="ellipsis" dy=".35em" {self.at(along, middle)}>{words}</text>'

        if self.shape.vertical:
            return line(along - 8, "⋯") + line(along + 8, str(hidden))
        return line(along, f"⋮ {hidden} more")

    def _targets(self) -> Iterator[str]:
        L = self.run.L
        for i, j in enumerate(self.run.shown[L]):
            if j in self.across[L]:
                value = float(self.run.y[i])
                words = f'<tspan data-value="{value!r}">{short(value)}</tspan>'
                yield self._half(self.y, self.across[L][j], f"y,{j}", "half y", words)
        yield self._ellipsis(L, self.y + self.shape.half / 2)

    def _names(self) -> Iterator[str]:
        """The names of layers, weights and lines."""
        s, run = self.shape, self.run
        if s.vertical:
            yield from self._names_beside()
            return
        name, top, below = self._name, s.before - 32, s.before - 15
        yield name(self.line(0) + s.half / 2, top, "input")
        yield name(self.line(0) + s.half / 2, below, _symbol("x"))
        for l, g in enumerate(run.net.activations, start=1):
            yield name(self.line(l), top, f"layer {l}")
            yield name(self.line(l), below, _cut(str(g), 20), f"activation-{l}")
            middle = (self.line(l - 1) + self.line(l)) / 2
            yield name(middle, below, _parameters(l), f"weights-{l}")
        yield name(self.loss_line, top, "loss", "loss")
        if len(run.loss.name) < 10:
            yield name(self.loss_line, below, escape(run.loss.name), "loss")
        yield name(self.y + s.half / 2, below, _symbol("y"))

    def _names_beside(self) -> Iterator[str]:
        """The names, on the lines themselves, at their left ends."""
        s, run = self.shape, self.run

        def name(along: float, words: str, line: str = "") -> str:
            return self._name(along, s.before - 8, words, line, "name left")

        yield name(self.line(0) - 8, "input x")
        for l, g in enumerate(run.net.activations, start=1):
            words = f"layer {l}: {_cut(str(g), 24)}"
            yield name(self.line(l) - s.half - 10, words, f"activation-{l}")
        yield name(self.loss_line - 4, f"loss: {_cut(run.loss.name, 30)}", "loss")
        yield name(self.y + s.half + 16, "desired output y")

    def _name(
        self, along: float, across: float, words: str, line: str = "", classes: str = "name"
    ) -> str:
        mark = f' data-line="{line}"' if line else ""
        return f'<text class="{classes}"{mark} {self.at(along, across)}>{words}</text>'

    def _jumps(self) -> Iterator[str]:
        """The lane: an arc for every line, to be jumped over forward or back."""
        s = self.shape
        lane = self.end + (20 if s.vertical else 24)
        hops = [("loss", self.y + s.half / 2, self.middle_of("a", self.run.L))]
        for l in range(self.run.L, 0, -1):
            hops.append((f"activation-{l}", self.middle_of("a", l), self.middle_of("z", l)))
            hops.append((f"weights-{l}", self.middle_of("z", l), self.middle_of("a", l - 1)))
        for name, right, left in hops:
            height = 24 if s.vertical else 30
            c1 = self.point(right - (right - left) * 0.22, lane + height)
            c2 = self.point(left + (right - left) * 0.22, lane + height)
            arc = f"M{self.point(right, lane)}C{c1} {c2} {self.point(left, lane)}"
            tips = self._tip("back", left, lane, 1) + self._tip("forward", right, lane, -1)
            dot = ""
            if name.startswith("weights"):
                x, y = self.xy(right, lane)
                dot = f'<circle class="dot" cx="{x:.4g}" cy="{y:.4g}" r="5"/>'
            yield (f'<g class="hop" data-hop="{name}"><path class="arc" d="{arc}"/>{tips}{dot}</g>')

    def _tip(self, name: str, along: float, across: float, side: int) -> str:
        a, b, c = (
            (along, across - 2),
            (along + side * 1, across + 8),
            (along + side * 8, across + 3),
        )
        points = " ".join(self.point(*p).replace(" ", ",") for p in (a, b, c))
        return f'<polygon class="tip {name}" points="{points}"/>'


def pictures(run: PageRun) -> str:
    """Return both pictures: one for wide windows, one for narrow ones."""
    return Picture(run, WIDE).svg() + Picture(run, TALL).svg()


def _fewer(nodes: list[int]) -> list[int]:
    return nodes if len(nodes) <= NARROW else [*nodes[: NARROW - 2], nodes[-1]]


def _symbol(letter: str) -> str:
    return f'<tspan class="symbol">{letter}</tspan>'


def _parameters(l: int) -> str:
    """Return W, b of a layer, with its number raised."""
    raised = f'<tspan class="layer" dy="-5">[{l}]</tspan>'
    return f'{_symbol("W")}{raised}<tspan dy="5">, </tspan>{_symbol("b")}{raised}'


def _cut(words: str, most: int) -> str:
    return escape(words if len(words) <= most else words[: most - 1] + "…")

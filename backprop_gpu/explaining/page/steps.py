"""The steps of a page: through the forward feed, and Jumping Back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from backprop_gpu.activations import Activation
from backprop_gpu.explaining.jump_back import Jump
from backprop_gpu.explaining.layout import Values
from backprop_gpu.explaining.page.parts import (
    column_table,
    formulas,
    mathml,
    matrix_table,
    number,
)
from backprop_gpu.explaining.page.run import PageRun
from backprop_gpu.losses import Loss

FORWARD, BACK = "Forward feed", "Jumping Back"


@dataclass
class View:
    """What the picture shows: in the halves of every layer's nodes, and on the lines between.

    Attributes
    ----------
    z, a : dict
        By layer, the quantity that is written: "z" or "delta", "a" or "dC_da"; none at first.
    w : dict
        By layer, what its weights show: "W" or "dC_dW".
    """

    z: dict[int, str] = field(default_factory=dict)
    a: dict[int, str] = field(default_factory=dict)
    w: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PageStep:
    """One step.

    Attributes
    ----------
    phase : str
        FORWARD or BACK.
    title, words : str
        HTML.
    body : str
        HTML: formulas and numbers.
    over : str
        The line that is crossed: "weights-2", "activation-2", "loss"; "" for none.
    fresh : str
        Whose numbers are new: "a2", "z2", "W2", "C".
    view : dict
        As JSON: what `View` says.
    arrives : bool
        Whether the game only arrives there, at weights and biases.
    """

    phase: str
    title: str
    words: str
    body: str
    over: str
    fresh: str
    view: dict[str, Any]
    arrives: bool = False


def steps(run: PageRun) -> list[PageStep]:
    """Return all steps of a run."""
    view = View(w=dict.fromkeys(range(1, run.L + 1), "W"))
    return [*_forward(run, view), *_back(run, view)]


# ---- forward -------------------------------------------------------------------------------------


def _forward(run: PageRun, view: View) -> Iterator[PageStep]:
    view.a[0] = "a"
    body = formulas([r"a^{[0]} = x"]) + _table(run, 0, [("x_k", "a")])
    words = "One sample lies at the input: every node of layer 0 holds one number of it."
    yield PageStep(FORWARD, "The input", words, body, "", "a0", asdict(view))

    for l, g in enumerate(run.net.activations, start=1):
        view.z[l] = "z"
        body = formulas(
            [
                rf"z^{{[{l}]}} = a^{{[{l - 1}]}} \, (W^{{[{l}]}})^{{\top}} + b^{{[{l}]}}",
                rf"z_j^{{[{l}]}} = \sum_k w_{{jk}}^{{[{l}]}} \, a_k^{{[{l - 1}]}} + b_j^{{[{l}]}}",
            ]
        ) + _table(run, l, [("b_j", "b"), ("z_j", "z")])
        words = (
            f"Each node of layer {l} adds up what it hears: every output of layer {l - 1} times "
            "the weight of its line, and its own bias."
        )
        title = f"Over the weights of layer {l}"
        yield PageStep(FORWARD, title, words, body, f"weights-{l}", f"z{l}", asdict(view))

        view.a[l] = "a"
        equations = [rf"a^{{[{l}]}} = g(z^{{[{l}]}})"]
        if g.latex != Activation.latex:
            left = "g(z)" if g.jacobian_product is None else "a_j"
            equations.append(f"{left} = {g.latex}")
        body = formulas(equations) + _table(run, l, [("z_j", "z"), ("a_j", "a")])
        words = (
            f"The activation function of layer {l}, <b>{escape(str(g))}</b>, turns what a node "
            "hears into what it says."
        )
        title = f"Over the activation line of layer {l}"
        yield PageStep(FORWARD, title, words, body, f"activation-{l}", f"a{l}", asdict(view))

    outcome = f'<p class="outcome" data-quantity="C">{mathml("C =")} {number(run.C, 10)}</p>'
    body = outcome + _table(run, run.L, [("a_j", "a"), ("y_j", "y")])
    if run.loss.latex != Loss.latex:
        body = formulas([f"C = {run.loss.latex}"]) + body
    words = (
        f"The loss, <b>{escape(run.loss.name)}</b>, says in one number how far the prediction is "
        "from the desired output y."
    )
    yield PageStep(FORWARD, "Over the loss line", words, body, "loss", "C", asdict(view))


# ---- back ----------------------------------------------------------------------------------------


def _back(run: PageRun, view: View) -> Iterator[PageStep]:
    for jump in run.jumps:
        l = jump.layer
        over = "loss" if jump.kind == "loss" else f"{jump.kind}-{l}"
        arrives = jump.kind == "weights and biases"
        if arrives:
            over, fresh = f"weights-{l}", f"W{l}"
            view.w[l] = "dC_dW"
        elif jump.kind == "activation":
            view.z[l], fresh = "delta", f"z{l}"
        else:
            at = l - (jump.kind == "weights")
            view.a[at], fresh = "dC_da", f"a{at}"
        title = jump.words[0].upper() + jump.words[1:]
        body = formulas(jump.equations) + _numbers(run, jump)
        yield PageStep(BACK, title, _words(run, jump), body, over, fresh, asdict(view), arrives)


def _words(run: PageRun, jump: Jump) -> str:
    """Say what a jump does."""
    l = jump.layer
    if jump.kind == "loss":
        return (
            "Start at y and jump back. Over the loss line, the first gradient is collected: how "
            "much the loss changes with each output."
        )
    if jump.kind == "weights and biases":
        return (
            f"What has been collected is the gradient of the biases of layer {l}. Times what lies "
            "at the other end of the weights, it is the gradient of the weights. Their lines "
            "show it now."
        )
    if jump.kind == "weights":
        where = f"layer {l - 1}" if l > 1 else "the input"
        return (
            f"Every node of {where} is heard by every node of layer {l}, so its effect on the loss "
            "is a sum over them: what has been collected, times the weights. This is what puts "
            "the back in backpropagation."
        )
    g = run.net.activations[l - 1]
    if l == run.L and run.loss.is_canonical_for(g):
        return (
            f"What the loss divides by and the slope of <b>{escape(str(g))}</b> cancel. What is "
            "left is the output minus the desired output."
        )
    if g.jacobian_product is not None:
        return (
            f"In <b>{escape(str(g))}</b> every z moves every output, so what has been collected is "
            "summed over the outputs."
        )
    return (
        "What has been collected is multiplied, node by node, by the slope of "
        f"<b>{escape(str(g))}</b> there."
    )


def _numbers(run: PageRun, jump: Jump) -> str:
    """Return the numbers that a jump collects."""
    l = jump.layer
    dC_da = rf"\frac{{\partial C}}{{\partial a_j^{{[{l}]}}}}"
    if jump.kind == "loss":
        return _table(run, l, [("a_j", "a"), ("y_j", "y"), (dC_da, "dC_da")])
    if jump.kind == "activation":
        return _table(run, l, [(dC_da, "dC_da"), (rf"\delta_j^{{[{l}]}}", "delta")])
    if jump.kind == "weights":
        heading = rf"\frac{{\partial C}}{{\partial a_k^{{[{l - 1}]}}}}"
        return _table(run, l - 1, [(heading, "dC_da")], letter="k")
    sizes = run.net.layer_sizes
    return matrix_table(
        rf"\frac{{\partial C}}{{\partial b_j^{{[{l}]}}}}",
        ("dC_dW", "dC_db"),
        run.dC_dW[l],
        run.dC_db[l],
        (run.shown[l], sizes[l]),
        (run.shown[l - 1], sizes[l - 1]),
    )


def _table(run: PageRun, l: int, columns: list[tuple[str, str]], letter: str = "") -> str:
    numbers = [(latex, _values(run, quantity, l), quantity) for latex, quantity in columns]
    label = mathml(letter or ("j" if l else "k"))
    return column_table(label, run.shown[l], run.net.layer_sizes[l], numbers)


def _values(run: PageRun, quantity: str, l: int) -> Values:
    if quantity == "y":
        return run.y
    return run.b[l] if quantity == "b" else run.nodes[quantity][l]

"""One weight, bias or activation, term by term: the chain rule with the numbers of a real run."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import numpy as np

from backprop_gpu.errors import DomainError, check_count
from backprop_gpu.explaining.chain import Chain
from backprop_gpu.explaining.formulas import to_text
from backprop_gpu.explaining.html import as_html
from backprop_gpu.explaining.latex import as_latex
from backprop_gpu.explaining.numbers import Numbers
from backprop_gpu.explaining.terms import Term
from backprop_gpu.explaining.text import as_text
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP, check_network

Depth = int | Literal["full"] | None
Kind = Literal["weight", "bias", "activation"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """A derivative of the loss, term by term.

    ``str`` gives it for a terminal, `latex` for a paper; notebooks show it as it is.

    Attributes
    ----------
    kind : {"weight", "bias", "activation"}
    layer : int
        1 to L; for an activation, 0 is the input.
    j, k : int or None
        w_jk joins node k of the layer before to node j of the layer; b_j; a_k of the layer itself.
    term : Term
        The derivative of every sample's own loss, and all that it is made of.
    value : float
        The average of ``term.values``: the derivative of the batch's loss C.
    backward : float
        What `MLP.backward` has for it, which agrees with `value` to rounding. For an activation,
        the sum of a column of dC/da.
    where : str
        Where that is: ``grads.weights[2][1, 2]``.
    parameter : float or None
        The weight or bias as it is now.
    name, symbol : str
        The derivative, in plain text and as LaTeX.
    formula : str
        LaTeX: the general formula, in letters.
    C : float
        The loss.
    loss, network : str
        The name of the loss, and the network in one line.
    largest : int
        How many summands, and samples, are shown at most.
    """

    kind: Kind
    layer: int
    j: int | None
    k: int | None
    term: Term
    value: float
    backward: float
    where: str
    parameter: float | None
    name: str
    symbol: str
    formula: str
    C: float
    loss: str
    network: str
    largest: int

    @property
    def samples(self) -> int:
        """n, the number of samples."""
        return len(self.term.values)

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        return f"<Explanation {self.name} = {self.value:.7g}: {len(list(self.term.walk()))} terms>"

    def latex(self) -> str:
        """Return the formulas with their numbers, as LaTeX for a paper (package amsmath)."""
        return as_latex(self)

    def _repr_latex_(self) -> str:
        return f"$$\n{as_latex(self, 'aligned')}\n$$"

    def _repr_html_(self) -> str:
        return as_html(self)


def explain(
    net: MLP,
    x: Any,
    y: Any,
    layer: int,
    j: int,
    k: int,
    loss: str | Loss = "mse",
    *,
    depth: Depth = None,
    largest: int = 5,
) -> Explanation:
    """Explain dC/dw_jk: how much a weight moves the loss, and through which nodes.

    For every sample the derivative is a product of three terms, dC/da_j * da_j/dz_j * a_k; in a
    hidden layer the first is a sum over the nodes of the next layer, and so on up to the loss. The
    products are averaged over the samples.

    Parameters
    ----------
    net : MLP
    x, y : array_like
        One sample or more, a row each.
    layer : int
        1 to L.
    j, k : int
        The weight joins node k of layer - 1 to node j of layer, both counted from 0: it is
        ``net.weights[layer - 1][j, k]``.
    loss : str or Loss
    depth : int or "full", optional
        How many times dC/da is written as a sum over the next layer. Default: once.
    largest : int
        How many summands of a sum are shown, the largest; the rest is summed up.

    Returns
    -------
    Explanation

    Raises
    ------
    DomainError, ShapeError, DtypeError, NonFiniteError, UnknownNameError
        If something is not what it should be.
    GradientError
        If the chain rule and `MLP.backward` disagree by more than rounding.

    Examples
    --------
    >>> import backprop_gpu as bp
    >>> net, x, y = bp.textbook(device="cpu")
    >>> explanation = explain(net, x, y, layer=3, j=1, k=2)
    >>> print(f"{explanation.value:.6f}")
    0.002935
    >>> [part.name for part in explanation.term.parts]
    ['dC/da_1[3]', 'da_1[3]/dz_1[3]', 'dz_1[3]/dw_1,2[3]']
    """
    _check_layer(net, layer, least=1)
    _check_node(net, "j", j, layer)
    _check_node(net, "k", k, layer - 1)
    return _explained(net, x, y, int(layer), int(j), int(k), loss, depth, largest)


def explain_bias(
    net: MLP,
    x: Any,
    y: Any,
    layer: int,
    j: int,
    loss: str | Loss = "mse",
    *,
    depth: Depth = None,
    largest: int = 5,
) -> Explanation:
    """Explain dC/db_j: as for a weight, with 1 in the place of a_k.

    Parameters, results and errors are those of `explain`.
    """
    _check_layer(net, layer, least=1)
    _check_node(net, "j", j, layer)
    return _explained(net, x, y, int(layer), int(j), None, loss, depth, largest)


def explain_activation(
    net: MLP,
    x: Any,
    y: Any,
    layer: int,
    k: int,
    loss: str | Loss = "mse",
    *,
    depth: Depth = None,
    largest: int = 5,
) -> Explanation:
    """Explain dC/da_k: how much the output of a node moves the loss.

    It is a sum over all nodes of the next layer, each of which hears from node k: this is what
    puts the "back" in backpropagation. Layer 0 is the input, and the derivative then is dC/dx_k;
    that of an output comes from the loss. Other parameters, results and errors are those of
    `explain`.
    """
    _check_layer(net, layer, least=0)
    _check_node(net, "k", k, layer)
    return _explained(net, x, y, int(layer), None, int(k), loss, depth, largest)


def _explained(
    net: MLP,
    x: Any,
    y: Any,
    l: int,
    j: int | None,
    k: int | None,
    loss: str | Loss,
    depth: Depth,
    largest: int,
) -> Explanation:
    """Build the terms, and compare their product with `backward`'s entry."""
    levels = _levels(net, depth)
    check_count("largest", largest)
    numbers = Numbers(net, x, y, loss)
    kind: Kind
    parameter = None
    with np.errstate(all="ignore"):
        explained = Chain(numbers, largest).derivative(l, j, k, levels)
        if j is None:
            kind, where = "activation", f"grads.activations[{l}][:, {k}].sum()"
        elif k is None:
            kind, where = "bias", f"grads.biases[{l - 1}][{j}]"
            parameter = float(net.biases[l - 1][j])
        else:
            kind, where = "weight", f"grads.weights[{l - 1}][{j}, {k}]"
            parameter = float(net.weights[l - 1][j, k])
        backward = numbers.backward(l, j, k)
        value = numbers.average(explained, backward)
    symbol, formula = _of_batch(explained.term)
    return Explanation(
        kind,
        l,
        j,
        k,
        explained.term,
        value,
        backward,
        where,
        parameter,
        to_text(symbol),
        symbol,
        formula,
        numbers.grads.loss,
        numbers.loss.name,
        repr(net),
        int(largest),
    )


def _of_batch(term: Term) -> tuple[str, str]:
    """Return the symbol and the formula of the derivative of C, from those of C_i."""
    symbol, letters = (text.replace("C_i", "C") for text in (term.symbol, term.letters))
    if len(term.values) == 1:
        return symbol, " = ".join((letters, *term.equation[1:]))
    own = term.equation[1] if term.rule == "product" else term.letters
    return symbol, rf"{letters} = \frac{{1}}{{n}} \sum_i {own}"


def _check_layer(net: MLP, layer: Any, least: int) -> None:
    check_network(net)
    L = len(net.layers)
    if not _whole(layer) or not least <= int(layer) <= L:
        hint = ""
        if least and _whole(layer) and layer == 0:
            hint = "; layer 0 is the input, and has no weights"
        raise DomainError(f"layer is {layer!r}; expected a whole number from {least} to {L}{hint}")


def _check_node(net: MLP, name: str, index: Any, layer: int) -> None:
    nodes = net.layer_sizes[layer]
    if not _whole(index) or not 0 <= int(index) < nodes:
        raise DomainError(
            f"{name} is {index!r}; layer {layer} has {nodes} node(s): expected a whole number "
            f"from 0 to {nodes - 1}"
        )


def _levels(net: MLP, depth: Depth) -> int:
    """Return how many levels of sums are shown."""
    if depth == "full":
        return 2 * len(net.layers)  # a softmax layer is two
    if depth is None:
        return 1
    if not _whole(depth) or depth < 0:
        raise DomainError(f'depth is {depth!r}; expected a whole number, 0 or above, or "full"')
    return int(depth)


def _whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)

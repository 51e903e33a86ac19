"""Jumping Back: backpropagation as a game, one jump over one line of the network at a time.

Start at the desired output and jump back. Over the loss line, the gradient becomes dC/da of the
output. Over an activation line, it is multiplied by g'(z). Arrived at weights and biases, what has
been collected is the gradient of the biases, and its product with what lies at the weights' other
end, transposed, is the gradient of the weights. Over the weights, it is multiplied by them, and
arrives at the layer before, where the game goes on as after the loss line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array, to_cpu
from backprop_gpu.checks import check_data, check_loss
from backprop_gpu.explaining.formulas import to_text
from backprop_gpu.explaining.outline import number
from backprop_gpu.explaining.text import align
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP, check_network
from backprop_gpu.network import Gradients

ROWS, COLUMNS = 8, 5  # of an array that are printed
Kind = Literal["loss", "activation", "weights and biases", "weights"]


@dataclass(frozen=True, eq=False)
class Jump:
    """One jump back: its repr is one line, `print` shows the numbers, too.

    Attributes
    ----------
    kind : {"loss", "activation", "weights and biases", "weights"}
        The line that is jumped over; at "weights and biases" the game only arrives.
    layer : int
        Whose line it is: 1 to L.
    symbol : str
        LaTeX: what the gradient collected so far is: dC/da, or delta = dC/dz.
    equations : tuple of str
        LaTeX: how this jump computes what it computes, for the whole layer at once.
    gradient : array
        The gradient collected so far, shape (n, nodes), on the network's device.
    dC_dW, dC_db : array or None
        On arrival at weights and biases: their gradients.
    """

    kind: Kind
    layer: int
    symbol: str
    equations: tuple[str, ...]
    gradient: Array
    dC_dW: Array | None = None
    dC_db: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the gradient collected so far."""
        return tuple(self.gradient.shape)

    @property
    def updates(self) -> tuple[str, ...]:
        """The parameters whose gradients are known now: ``("W[3]", "b[3]")``, or nothing."""
        if self.kind != "weights and biases":
            return ()
        return f"W[{self.layer}]", f"b[{self.layer}]"

    @property
    def words(self) -> str:
        """What this jump does, in words."""
        if self.kind == "loss":
            return "over the loss line"
        if self.kind == "activation":
            return f"over the activation line of layer {self.layer}"
        if self.kind == "weights":
            return f"over the weights of layer {self.layer}"
        return f"arrived at the weights and biases of layer {self.layer}"

    @property
    def formula(self) -> str:
        """The equations as one line of LaTeX."""
        return r", \quad ".join(self.equations)

    @property
    def text(self) -> str:
        """The equations as one line of plain text."""
        return ", ".join(map(to_text, self.equations))

    def __repr__(self) -> str:
        return f"Jump({self.words}: {self.text}; shape {self.shape})"

    def __str__(self) -> str:
        """Return what happens: the words, the equations, and the numbers."""
        lines = [self.words, "", *(f"  {to_text(equation)}" for equation in self.equations)]
        results = [(to_text(self.symbol), self.gradient)]
        if self.updates:
            results = [
                (f"dC/d{name}", dC_d)
                for name, dC_d in zip(self.updates, (self.dC_dW, self.dC_db), strict=True)
            ]
        for name, array in results:
            lines += ["", f"  {name}, shape {tuple(array.shape)}:", *_matrix(array)]
        return "\n".join(lines)


def jump_back(net: MLP, x: Any, y: Any, loss: str | Loss = "mse") -> tuple[Jump, ...]:
    """Play Jumping Back: return backpropagation jump by jump, from the loss to the input.

    Parameters
    ----------
    net : MLP
    x, y : array_like
        One sample or more, a row each.
    loss : str or Loss

    Returns
    -------
    tuple of Jump
        One over the loss line, then three for every layer, the last first. When all are played,
        every gradient that `MLP.backward` gives is there, dC/dx too.

    Examples
    --------
    >>> import backprop_gpu as bp
    >>> for jump in jump_back(*bp.textbook(device="cpu"))[:4]:
    ...     print(jump.words, jump.shape, *jump.updates)
    over the loss line (1, 4)
    over the activation line of layer 3 (1, 4)
    arrived at the weights and biases of layer 3 (1, 4) W[3] b[3]
    over the weights of layer 3 (1, 5)
    """
    check_network(net)
    entry = check_loss(net, loss)
    x, y = check_data(net, x, y, entry)
    return tuple(_jumps(net, net.backward(net.forward(x), y, entry), entry))


def _jumps(net: MLP, out: Gradients, loss: Loss) -> Iterator[Jump]:
    L = len(net.layers)
    yield Jump("loss", L, _dC_da(L), _over_loss(loss, L), out.activations[L])
    for l in range(L, 0, -1):
        g, delta = net.activations[l - 1], out.deltas[l - 1]
        slope = _over_activation(g, l, cancels=l == L and loss.is_canonical_for(g))
        yield Jump("activation", l, _delta(l), slope, delta)
        arrived = (
            rf"{_dC('W', l)} = ({_delta(l)})^{{\top}} \, a^{{[{l - 1}]}}",
            rf"{_dC('b', l)} = \sum_i \delta_i^{{[{l}]}}",
        )
        dC_dW, dC_db = out.weights[l - 1], out.biases[l - 1]
        yield Jump("weights and biases", l, _delta(l), arrived, delta, dC_dW, dC_db)
        onward = rf"{_dC_da(l - 1)} = {_delta(l)} \, W^{{[{l}]}}"
        yield Jump("weights", l, _dC_da(l - 1), (onward,), out.activations[l - 1])


def _over_loss(loss: Loss, L: int) -> tuple[str, ...]:
    """Return the equations of dC/da of the output: number 1."""
    own = rf"\frac{{\partial C_i}}{{\partial a^{{[{L}]}}}}"
    average = rf"{_dC_da(L)} = \frac{{1}}{{n}} \, {own}"
    if loss.latex_gradient == Loss.latex_gradient:  # the default, which says nothing
        return (average,)
    return average, rf"\frac{{\partial C_i}}{{\partial a_j}} = {loss.latex_gradient}"


def _over_activation(g: Activation, l: int, cancels: bool) -> tuple[str, ...]:
    """Return the equations of delta: number 2, for all nodes of the layer at once."""
    if g.jacobian_product is None:
        index, formula = "", rf"{_delta(l)} = {_dC_da(l)} \odot g'(z^{{[{l}]}})"
    else:
        a_q, z_j = rf"a_q^{{[{l}]}}", rf"z_j^{{[{l}]}}"
        index, formula = (
            "_j",
            (
                rf"\delta_j^{{[{l}]}} = \sum_q \frac{{\partial C}}{{\partial {a_q}}} \cdot "
                rf"\frac{{\partial {a_q}}}{{\partial {z_j}}}"
            ),
        )
    if cancels:
        return (rf"{formula} = \frac{{1}}{{n}} \, (a{index}^{{[{l}]}} - y{index})",)
    if index or g.latex_derivative == Activation.latex_derivative:
        return (formula,)
    return formula, rf"g' = {g.latex_derivative}"


def _delta(l: int) -> str:
    return rf"\delta^{{[{l}]}}"


def _dC(letter: str, l: int) -> str:
    return rf"\frac{{\partial C}}{{\partial {letter}^{{[{l}]}}}}"


def _dC_da(l: int) -> str:
    return _dC("a", l)


def _matrix(array: Array) -> list[str]:
    """Return the first rows and columns of an array as lines of text."""
    corner = array[:ROWS, :COLUMNS] if array.ndim == 2 else array[None, :COLUMNS]
    more_columns = " ..." if array.shape[-1] > COLUMNS else ""
    columns = [align([number(float(value), 5) for value in column]) for column in to_cpu(corner).T]
    lines = [
        "    " + "  ".join(cells).rstrip() + more_columns for cells in zip(*columns, strict=True)
    ]
    return [*lines, "    ..."] if array.ndim == 2 and len(array) > ROWS else lines

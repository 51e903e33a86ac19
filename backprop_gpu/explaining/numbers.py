"""The numbers of an explanation: single entries of a forward and backward pass, and their bounds.

Products and sums are computed here once more, in float64. With each goes the rounding error that
`backward` may have made on its way to the same number; a result that is further away than that
from `backward`'s is not the same number, and raises GradientError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backprop_gpu.arrays import Array
from backprop_gpu.checks import check_data, check_loss
from backprop_gpu.errors import GradientError, NonFiniteError
from backprop_gpu.explaining.terms import Name, Rule, Term, Values
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP

# What one operation of `backward` may be off by, in units of the dtype's eps.
ROUNDING = 8.0


@dataclass(frozen=True)
class Bounded:
    """A term, and how far `backward`'s numbers may be from its values."""

    term: Term
    error: Values


class Numbers:
    """A forward and a backward pass, of which single columns come to the CPU.

    Parameters
    ----------
    net : MLP
    x, y : array_like
    loss : str or Loss
    """

    def __init__(self, net: MLP, x: Any, y: Any, loss: str | Loss) -> None:
        self.net, self.loss = net, check_loss(net, loss)
        x, self.y = check_data(net, x, y, self.loss)
        self.trace = net.forward(x)
        self.grads = net.backward(self.trace, self.y, self.loss)
        self.n = len(x)
        limits = np.finfo(net.dtype)
        self.eps, self.tiny = ROUNDING * float(limits.eps), self.n * float(limits.tiny)

    def column(self, array: Array, j: int) -> Values:
        """Bring a column to the CPU, in float64."""
        with self.net.backend.computing():
            column = self.net.backend.to_numpy(array[:, j])
        return column.astype(np.float64)

    def dC_da(self, l: int, j: int) -> Values:
        """dC_i/da_j of layer l, as `backward` has it but for the 1/n."""
        return self.n * self.column(self.grads.activations[l], j)

    def delta(self, l: int, j: int) -> Values:
        """dC_i/dz_j of layer l, as `backward` has it but for the 1/n."""
        return self.n * self.column(self.grads.deltas[l - 1], j)

    def backward(self, l: int, j: int | None, k: int | None) -> float:
        """`backward`'s dC/dw_jk of the batch; without k, dC/db_j; without j, the sum of dC/da_k."""
        if j is None:
            return float(self.column(self.grads.activations[l], k or 0).sum())
        return float(self.grads.biases[l - 1][j] if k is None else self.grads.weights[l - 1][j, k])

    def value(
        self,
        name: Name,
        values: Values,
        *,
        role: str = "",
        equals: Sequence[str] = (),
        parts: Sequence[Term] = (),
        exact: bool = True,
    ) -> Bounded:
        """A number that is read off or, if it has parts, a function of those."""
        rule: Rule = "function" if parts else "value"
        equation = (name.letters, *equals) if equals else ()
        term = Term(*name, values, rule, tuple(parts), role, equation)
        error = np.zeros(self.n) if exact else self.eps * np.abs(values) + self.tiny
        return Bounded(term, error)

    def product(
        self,
        name: Name,
        factors: Sequence[Bounded],
        equation: Sequence[str] = (),
        node: int | None = None,
    ) -> Bounded:
        """The product of the factors."""
        values, error = np.ones(self.n), np.zeros(self.n)
        for factor in factors:
            error = error * np.abs(factor.term.values) + np.abs(values) * factor.error
            values = values * factor.term.values
        # What is below the dtype's range is 0 in `backward`, and is multiplied on from there.
        underflow = self.tiny * np.maximum(1, np.abs(factors[-1].term.values))
        error += self.eps * np.abs(values) + underflow
        terms = tuple(factor.term for factor in factors)
        return Bounded(Term(*name, values, "product", terms, "", tuple(equation), node), error)

    def sum(
        self,
        name: Name,
        shown: Sequence[Bounded],
        summands: Array,
        expected: Values,
        equation: Sequence[str],
        role: str,
        slack: Values | float = 0.0,
    ) -> Bounded:
        """The sum of the summands, a matrix on the device, of which some are shown.

        `expected` is what `backward` has, and may be off by `slack` more than rounding explains.
        """
        nodes = [part.term.node for part in shown]
        to_numpy = self.net.backend.to_numpy
        with self.net.backend.computing():
            size = to_numpy(abs(summands).sum(axis=1))
            summands[:, nodes] = 0
            omitted = to_numpy(summands.sum(axis=1))
        values = sum((part.term.values for part in shown), start=omitted)
        rounding = self.rounding(summands.shape[1], size) + slack
        error = sum((part.error for part in shown), start=rounding)
        count = summands.shape[1] - len(nodes)
        parts = tuple(part.term for part in shown)
        term = Term(*name, values, "sum", parts, role, tuple(equation), None, count, omitted)
        self.check(term, values, expected, error)
        return Bounded(term, error)

    def rounding(self, count: int, size: Values) -> Values:
        """How far a sum of `count` numbers may be off whose absolute values sum to `size`."""
        return self.eps * float(np.sqrt(count)) * size + self.tiny

    def ranked(self, summands: Array, largest: int) -> list[int]:
        """The columns with the largest entries, the largest first."""
        with self.net.backend.computing():
            sizes = self.net.backend.to_numpy(abs(summands).sum(axis=0))
        return [int(q) for q in np.argsort(-sizes, kind="stable")[:largest]]

    def average(self, explained: Bounded, backward: float) -> float:
        """The average over the samples, which has to be `backward`'s entry."""
        values = explained.term.values
        value = values.mean()
        error = explained.error.mean() + self.rounding(self.n, np.abs(values).mean())
        if value != backward:  # both may be infinite
            self.check(explained.term, value[None], np.array([backward]), error[None])
        return float(value)

    def check(self, term: Term, values: Values, expected: Values, error: Values) -> None:
        """Raise GradientError where `backward` has another number."""
        off = np.abs(values - expected)
        if (off <= error + self.eps * np.abs(expected)).all():
            return
        if not np.isfinite([values, expected]).all():
            raise NonFiniteError(self._not_finite(term))
        i = int(np.argmax(off - error))
        raise GradientError(
            f"{term.name} is {values[i]:.9g} by the chain rule and {expected[i]:.9g} in backward"
            + (f" (sample {i})" if len(values) > 1 else "")
            + f": they differ by {off[i]:.1e}, and rounding explains {error[i]:.1e} at most"
        )

    def _not_finite(self, term: Term) -> str:
        """Say where NaN or infinity comes from: the deepest term that has it."""
        culprit = f"in {self.net.dtype}, numbers on the way to it are too large"
        for part in term.walk():
            bad = np.flatnonzero(~np.isfinite(part.values))
            if len(bad):
                culprit = f"{part.name} is {part.values[bad[0]]:g} in sample {bad[0]}"
        return (
            f"{term.name} has no finite value: {culprit}. A cross-entropy has an infinite gradient "
            "where an output is exactly 0 or 1, unless the activation is the one that it goes "
            "with; else, data or weights are too large"
        )

"""The chain rule, node by node: what an explanation is built by.

A term has two names, one with the numbers of its nodes and one in letters: j is a node of the
layer, k one of the layer before, q one of the layer after, over which sums go.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from backprop_gpu.arrays import Array
from backprop_gpu.explaining.formulas import symbols
from backprop_gpu.explaining.numbers import Bounded, Numbers
from backprop_gpu.explaining.terms import Name, Term, Values, d, node
from backprop_gpu.losses import Loss


class Chain:
    """Builds the terms of a derivative of the loss.

    Parameters
    ----------
    numbers : Numbers
    largest : int
        Summands to show of every sum.
    """

    def __init__(self, numbers: Numbers, largest: int) -> None:
        self.numbers, self.largest, self.net = numbers, largest, numbers.net
        self.trace, self.grads = numbers.trace, numbers.grads
        self.L = len(self.net.layers)
        self.C = Name("C", "C") if numbers.n == 1 else Name("C_i", "C_i")
        self.canonical = numbers.loss.is_canonical_for(self.net.activations[-1])
        self._known: dict[tuple[str, int, int], Bounded] = {}

    # ---- what can be explained -------------------------------------------------------------------

    def derivative(self, l: int, j: int | None, k: int | None, depth: int) -> Bounded:
        """What is explained: dC/dw_jk; without k, dC/db_j; without j, dC/da_k."""
        if j is None:
            return self.to_a(l, k or 0, "k", depth)
        return self.bias(l, j, depth) if k is None else self.weight(l, j, k, depth)

    def weight(self, l: int, j: int, k: int, depth: int) -> Bounded:
        """dC/dw_jk = dC/da_j * da_j/dz_j * dz_j/dw_jk."""
        z, w = node("z", l, j, "j"), node("w", l, f"{j},{k}", "jk")
        a_k = node("a", l - 1, k, "k").letters
        factor = self.numbers.value(
            d(z, w),
            self.numbers.column(self.trace.a[l - 1], k),
            role="input term",
            equals=(a_k,) if l > 1 else (a_k, "x_k"),
        )
        return self._parameter(w, [*self.to_z(l, j, "j", depth), factor])

    def bias(self, l: int, j: int, depth: int) -> Bounded:
        """dC/db_j = dC/da_j * da_j/dz_j * 1."""
        z, b = node("z", l, j, "j"), node("b", l, j, "j")
        ones = np.ones(self.numbers.n)
        factor = self.numbers.value(d(z, b), ones, role="bias term", equals=("1",))
        return self._parameter(b, [*self.to_z(l, j, "j", depth), factor])

    def _parameter(self, parameter: Name, factors: Sequence[Bounded]) -> Bounded:
        name = d(self.C, parameter)
        return self.numbers.product(name, factors, (name.letters, _product(factors)))

    # ---- the chain -------------------------------------------------------------------------------

    def to_z(self, l: int, j: int, letter: str, depth: int) -> list[Bounded]:
        """The factors of dC/dz_j: dC/da_j and da_j/dz_j; or dC/dz_j, where they can't be apart."""
        g = self.net.activations[l - 1]
        if l == self.L and self.canonical:
            return [self.cancelled(j, letter)]
        if g.jacobian_product is None:
            return [self.to_a(l, j, letter, depth), self.slope(l, j, letter)]
        # The explained weight's own layer is always taken apart; elsewhere this is a level more.
        depth_left = depth - 1 if letter == "q" else depth
        if g.name == "softmax" and depth_left >= 0:
            return [self.through_softmax(l, j, letter, depth_left)]
        name = d(self.C, node("z", l, j, letter))
        delta = self.numbers.delta(l, j)
        return [self.numbers.value(name, delta, role="loss and activation", exact=False)]

    def to_a(self, l: int, j: int, letter: str, depth: int) -> Bounded:
        """dC/da_j: from the loss, by the sum over the next layer, or, too deep, as it is."""
        if (known := self._known.get(("a", l, j))) is None:
            if l < self.L and depth > 0:
                known = self.through_next(l, j, letter, depth - 1)
            else:
                known = self.loss_term(l, j, letter)
            self._known["a", l, j] = known
        return known

    def loss_term(self, l: int, j: int, letter: str) -> Bounded:
        """dC/da_j as `backward` has it; of an output, with the formula it comes from."""
        formula = self.numbers.loss.latex_gradient
        stated = l == self.L and formula != Loss.latex_gradient  # the default says nothing
        formula = _with_index(formula, letter)
        return self.numbers.value(
            d(self.C, node("a", l, j, letter)),
            self.numbers.dC_da(l, j),
            role="loss term",
            equals=(formula,) if stated else (),
            parts=self.symbols_in(formula, l, j, letter) if stated else (),
            exact=False,
        )

    def slope(self, l: int, j: int, letter: str) -> Bounded:
        """da_j/dz_j, from the same a or z, and in the same dtype, as in `backward`."""
        g = self.net.activations[l - 1]
        reference = self.trace.z[l - 1] if g.derivative_from == "z" else self.trace.a[l]
        with self.net.backend.computing():
            slopes = g.derivative(self.net.backend.xp, reference[:, j : j + 1].copy())
        formula = re.sub(
            r"(?<![\\a-zA-Z_])([az])(?![a-zA-Z_])", rf"\1_{letter}", g.latex_derivative
        )
        term = self.numbers.value(
            d(node("a", l, j, letter), node("z", l, j, letter)),
            self.numbers.column(slopes, 0),
            role="activation term",
            equals=(formula,),
            parts=self.symbols_in(formula, l, j, letter),
        ).term
        # 1 - a^2, for example, is off by eps, however small it is itself.
        return Bounded(term, self.numbers.eps * np.maximum(1.0, np.abs(term.values)))

    def cancelled(self, j: int, letter: str) -> Bounded:
        """dC/dz_j = a_j - y_j: what the loss divides by cancels against the slope."""
        z = node("z", self.L, j, letter)
        own_output = self.net.activations[-1].jacobian_product is None
        r = letter if own_output else "r"
        a_r = Name("", node("a", self.L, 0, r).letters)
        chain = (d(self.C, a_r) * d(a_r, z)).letters
        formula = f"a_{letter} - y_{letter}"
        return self.numbers.value(
            d(self.C, z),
            self.numbers.delta(self.L, j),
            role="loss and activation",
            equals=(chain if own_output else rf"\sum_r {chain}", formula),
            parts=self.symbols_in(formula, self.L, j, letter),
            exact=False,
        )

    def through_next(self, l: int, j: int, letter: str, depth: int) -> Bounded:
        """dC/da_j = sum_q dC/da_q * da_q/dz_q * w_qj: every node q of the next layer hears j."""
        numbers, own = self.numbers, _own(letter)
        a_j = node("a", l, j, own)
        with self.net.backend.computing():
            W_column = self.net.weights[l][:, j].astype(np.float64)
            summands = self.grads.deltas[l] * (numbers.n * W_column)
        shown = []
        for q in numbers.ranked(summands, self.largest):
            z_q, w_qj = node("z", l + 1, q, "q"), node("w", l + 1, f"{q},{j}", f"q{own}")
            weight = numbers.value(
                w_qj,
                np.full(numbers.n, float(W_column[q])),
                role="weight",
                equals=(d(z_q, a_j).letters,),
            )
            factors = [*self.to_z(l + 1, q, "q", depth), weight]
            shown.append(numbers.product(d(self.C, z_q) * d(z_q, a_j), factors, node=q))
        name = d(self.C, a_j)
        return numbers.sum(
            Name(name.own, d(self.C, node("a", l, j, letter)).letters),
            shown,
            summands,
            numbers.dC_da(l, j),
            (name.letters, rf"\sum_q {_product(factors)}"),
            "loss term",
        )

    def through_softmax(self, l: int, j: int, letter: str, depth: int) -> Bounded:
        """dC/dz_j = sum_q dC/da_q * da_q/dz_j: z_j moves every output of a softmax."""
        if (known := self._known.get(("z", l, j))) is not None:
            return known
        numbers, own = self.numbers, _own(letter)
        z_j = node("z", l, j, own)
        with self.net.backend.computing():
            a = self.trace.a[l].astype(np.float64)
            a_j = a[:, j]
            slopes = -a * a_j[:, None]
            slopes[:, j] = a_j * (1 - a_j)
            dC_da: Array = self.grads.activations[l]
            dC_da = dC_da.astype(np.float64) * numbers.n
            summands = dC_da * slopes
            # `backward` has a_j (dC/da_j - sum_q a_q dC/da_q), which is the same but for rounding.
            slack = a_j * (abs(dC_da[:, j]) + abs(dC_da * a).sum(axis=1)) * numbers.eps
        shown = []
        for q in numbers.ranked(summands, self.largest):
            a_q = node("a", l, q, "q")
            slope = numbers.value(
                d(a_q, z_j),
                numbers.column(slopes, q),
                role="activation term",
                equals=(rf"a_q\,([q = {own}] - a_{own})",),
                parts=[
                    *self.symbols_in("a_q q", l, q, "q"),
                    *self.symbols_in(f"a_{own} {own}", l, j, own),
                ],
            )
            factors = [self.to_a(l, q, "q", depth), slope]
            shown.append(numbers.product(d(self.C, a_q) * d(a_q, z_j), factors, node=q))
        name = d(self.C, z_j)
        known = numbers.sum(
            Name(name.own, d(self.C, node("z", l, j, letter)).letters),
            shown,
            summands,
            numbers.delta(l, j),
            (name.letters, rf"\sum_q {_product(factors)}"),
            "loss and activation",
            self.net.backend.to_numpy(slack),
        )
        self._known["z", l, j] = known
        return known

    def symbols_in(self, formula: str, l: int, j: int, letter: str) -> list[Term]:
        """The numbers of node j that a formula has letters for."""
        numbers, outputs = self.numbers, self.net.layer_sizes[-1]
        sources: dict[str, tuple[str, Callable[[], Values]]] = {
            f"a_{letter}": (
                node("a", l, j, letter).own,
                lambda: numbers.column(self.trace.a[l], j),
            ),
            f"z_{letter}": (
                node("z", l, j, letter).own,
                lambda: numbers.column(self.trace.z[l - 1], j),
            ),
            f"y_{letter}": (f"y_{{{j}}}", lambda: numbers.column(numbers.y, j)),
            "m": ("m", lambda: np.full(numbers.n, float(outputs))),
            letter: (letter, lambda: np.full(numbers.n, float(j))),
        }
        found = symbols(formula)
        return [
            numbers.value(Name(own, letters), read()).term
            for letters, (own, read) in sources.items()
            if letters in found
        ]


def _own(letter: str) -> str:
    """The letter of a node in its own sum, which goes over q."""
    return "j" if letter == "q" else letter


def _product(factors: Sequence[Bounded]) -> str:
    return r" \cdot ".join(factor.term.letters for factor in factors)


def _with_index(formula: str, letter: str) -> str:
    """Return the formula for j with another letter."""
    return re.sub(r"_j(?![a-zA-Z])|_\{j\}", f"_{letter}", formula)

"""What an explanation shows, and in which order: the same for a terminal, a notebook and a paper.

First the derivative itself, then every sum that occurs in it, each once and as a table, those of a
layer under their general formula.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from backprop_gpu.explaining.formulas import Row, substitute, to_text
from backprop_gpu.explaining.terms import Term

if TYPE_CHECKING:
    from backprop_gpu.explaining.explain import Explanation


@dataclass(frozen=True)
class Line:
    """A row of a table: the factors, and their product.

    Attributes
    ----------
    label : int
        q, the node that it goes through; or i, the sample.
    """

    label: int
    factors: tuple[float, ...]
    product: float


@dataclass(frozen=True)
class Table:
    """The numbers under a formula, for one sample; or a product, for one sample after the other.

    Attributes
    ----------
    title : str
        LaTeX: what the total is.
    label : {"q", "i"}
        What the lines' labels are.
    headings : tuple of str
        LaTeX, in letters: the factors.
    lines : tuple of Line
    omitted, omitted_sum : int, float
        How many lines are left out, and what they sum to.
    total : float
        The sum of all products, or their average if the lines are samples.
    """

    title: str
    label: str
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    omitted: int
    omitted_sum: float
    total: float

    @property
    def samples(self) -> int | None:
        """How many samples the total is the average of; None for a sum over nodes."""
        return len(self.lines) + self.omitted if self.label == "i" else None


@dataclass(frozen=True)
class Section:
    """A general formula, where its factors come from, and its numbers.

    Attributes
    ----------
    equation : tuple of str
        LaTeX: the sides of the general formula.
    where : tuple of (str, ...)
        LaTeX: the equations of its factors.
    tables : tuple of Table
    """

    equation: tuple[str, ...]
    where: tuple[tuple[str, ...], ...]
    tables: tuple[Table, ...]


def samples_shown(explanation: Explanation) -> list[int]:
    """Return which samples are shown: all of a few; else the largest, the largest first."""
    values = explanation.term.values
    if len(values) <= explanation.largest:
        return list(range(len(values)))
    return [int(i) for i in np.argsort(-np.abs(values), kind="stable")[: explanation.largest]]


def factors_of(term: Term) -> tuple[Term, ...]:
    """Return the factors of a product; anything else is its own only one."""
    return term.parts if term.rule == "product" else (term,)


def over_samples(explanation: Explanation) -> Section:
    """Return the derivative of every sample's own loss, and their average."""
    term, shown = explanation.term, samples_shown(explanation)
    factors = term.parts if term.rule == "product" else ()
    lines = tuple(
        Line(i, tuple(float(f.values[i]) for f in factors), float(term.values[i])) for i in shown
    )
    rest = np.delete(term.values, shown)
    headings = tuple(factor.letters for factor in factors)
    table = Table(
        explanation.symbol, "i", headings, lines, len(rest), float(rest.sum()), explanation.value
    )
    return Section((explanation.formula,), equations(factors_of(term)), (table,))


def sums(explanation: Explanation) -> Iterator[Section]:
    """Yield every sum that the derivative is made of."""
    found = [term for term in explanation.term.walk() if term.rule == "sum"]
    shown = samples_shown(explanation)
    for equation, group in groupby(found, key=lambda term: term.equation):
        terms = list(group)
        factors = [factor for term in terms for summand in term.parts for factor in summand.parts]
        tables = tuple(table_of(term, i) for term in terms for i in shown)
        yield Section(equation, equations(factors), tables)


def table_of(term: Term, i: int) -> Table:
    """Return a sum for sample i: of the derivative of C_i."""
    lines = tuple(
        Line(
            summand.node or 0,
            tuple(float(factor.values[i]) for factor in summand.parts),
            float(summand.values[i]),
        )
        for summand in term.parts
    )
    own_loss = rf"\partial C_{{{i}}}"
    return Table(
        term.symbol.replace(r"\partial C_i", own_loss),
        "q",
        tuple(factor.letters for factor in term.parts[0].parts),
        lines,
        term.omitted,
        float(term.omitted_values[i]),
        float(term.values[i]),
    )


def equations(terms: Sequence[Term]) -> tuple[tuple[str, ...], ...]:
    """Return where terms come from: each equation once; sums have a section of their own."""
    found = {term.equation: None for term in terms if term.rule != "sum" and term.equation}
    return tuple(found)


def with_numbers(term: Term, i: int, digits: int = 7) -> Row | None:
    """Return the formula of a function with its numbers put in, for sample i."""
    if term.rule != "function":
        return None
    numbers = {to_text(p.letters): number(float(p.values[i]), digits) for p in term.parts}
    return substitute(term.equation[-1], numbers)


def number(value: float, digits: int = 7) -> str:
    """Return a number as text, to so many digits."""
    return f"{value + 0.0:.{digits}g}"  # no -0


def words(explanation: Explanation) -> str:
    """Say what is explained, and what it is now."""
    named = parameter_words(explanation.layer, explanation.j, explanation.k)
    now = explanation.parameter
    return named if now is None else f"{named}, now {number(now)}"


def parameter_words(l: int, j: int | None, k: int | None) -> str:
    """Say in words what the weight w_jk is; without k, the bias b_j; without j, a_k."""
    if j is None:
        return f"the output of node {k} of layer {l}" if l else f"input {k}"
    if k is None:
        return f"the bias of node {j} of layer {l}"
    start = f"node {k} of layer {l - 1}" if l > 1 else f"input {k}"
    return f"the weight from {start} to node {j} of layer {l}"


def loss_words(explanation: Explanation) -> str:
    """Say what the loss is, and of how many samples."""
    n = explanation.samples
    samples = "1 sample" if n == 1 else f"the average over {n} samples"
    return f"loss {explanation.loss}, C = {number(explanation.C)}, {samples}"

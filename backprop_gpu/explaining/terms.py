"""What an explanation is made of: terms of the chain rule, each with its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.explaining.formulas import to_text

Values = NDArray[np.float64]
Rule = Literal["value", "function", "product", "sum"]


@dataclass(frozen=True, eq=False)
class Term:
    """One term of the chain rule, for every sample, and the terms it is made of.

    A term that occurs in several sums is one and the same object.

    Attributes
    ----------
    symbol : str
        LaTeX, with the numbers of its nodes: dC/da_1 of layer 2, say.
    letters : str
        LaTeX, as the formula above it says it, in letters: dC/da_q of layer 2.
    values : ndarray of float64, shape (n,)
        Of every sample's own loss C_i: no 1/n is in here. Read-only.
    rule : {"value", "function", "product", "sum"}
        How `values` come about: read off; computed by the last side of `equation` from the parts;
        the product of the parts; their sum, plus `omitted_values`.
    parts : tuple of Term
        Of a sum, the largest summands, the largest first; each is a product.
    role : str
        "loss term", "activation term", "input term", "weight", ...; "" for none.
    equation : tuple of str
        LaTeX: the sides of the general formula, in letters; empty where there is nothing to say.
    node : int or None
        Of a summand: q, the node that it goes through.
    omitted : int
        How many summands are not among the parts.
    omitted_values : ndarray of float64, shape (n,)
        Their sum; zeros if none are omitted.
    """

    symbol: str
    letters: str
    values: Values
    rule: Rule
    parts: tuple[Term, ...] = ()
    role: str = ""
    equation: tuple[str, ...] = ()
    node: int | None = None
    omitted: int = 0
    omitted_values: Values = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if self.omitted_values.shape != self.values.shape:
            object.__setattr__(self, "omitted_values", np.zeros(self.values.shape))
        self.values.flags.writeable = False
        self.omitted_values.flags.writeable = False

    @property
    def name(self) -> str:
        """The symbol in plain text: ``dC/da_1[2]`` is of node 1 in layer 2."""
        return to_text(self.symbol)

    @property
    def formula(self) -> str:
        """The general formula as one line of LaTeX."""
        return " = ".join(self.equation)

    def walk(self) -> Iterator[Term]:
        """Yield this term and all that it is made of, each once, from the top down."""
        seen: set[int] = set()
        level: list[Term] = [self]
        while level:
            fresh = []
            for term in level:
                if id(term) not in seen:
                    seen.add(id(term))
                    fresh.append(term)
            yield from fresh
            level = [part for term in fresh for part in term.parts]


# ---- symbols, as LaTeX ---------------------------------------------------------------------------


class Name(NamedTuple):
    """A symbol with the numbers of its nodes, and with letters in their place."""

    own: str
    letters: str

    def __mul__(self, other: Name) -> Name:  # type: ignore[override]
        return Name(rf"{self.own} \cdot {other.own}", rf"{self.letters} \cdot {other.letters}")


def node(symbol: str, l: int, index: int | str, letter: str) -> Name:
    """Return a_j, say, of layer l; w_jk has the index "1,2" and the letters "jk"."""
    return Name(*(rf"{symbol}_{{{i}}}^{{[{l}]}}" for i in (index, letter)))


def d(of: Name, by: Name) -> Name:
    """Return a partial derivative."""
    return Name(*(rf"\frac{{\partial {f}}}{{\partial {t}}}" for f, t in zip(of, by, strict=True)))

"""The terms of every weight, bias and input that a page shows, as JSON for its script."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from backprop_gpu.explaining.chain import Chain
from backprop_gpu.explaining.outline import factors_of, parameter_words, with_numbers
from backprop_gpu.explaining.page.parts import mathml
from backprop_gpu.explaining.page.run import PageRun
from backprop_gpu.explaining.terms import Term

LARGEST = 5  # summands of a sum


class Shelf:
    """Things that occur again and again, each kept once and known by its number."""

    def __init__(self) -> None:
        self.things: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, thing: Any) -> int:
        """Return the number of a thing."""
        place = self._places.setdefault(json.dumps(thing), len(self.things))
        if place == len(self.things):
            self.things.append(thing)
        return place


class Terms:
    """Collects terms for the page's script.

    Attributes
    ----------
    formulas : Shelf
        MathML.
    terms : Shelf
        Of each: role, symbol, value, what it is equal to, and, of a sum, its summands.
    items : dict
        By "l,j,k" (a weight), "l,j" (a bias) or "0,k" (an input): its words, its formula, its
        derivative and the factors of that.
    """

    def __init__(self, run: PageRun) -> None:
        self.run = run
        self.formulas, self.terms = Shelf(), Shelf()
        self.items: dict[str, dict[str, Any]] = {}
        with np.errstate(all="ignore"):
            for l in range(1, run.L + 1):
                for r, j in enumerate(run.shown[l]):
                    self._add(f"{l},{j}", l, j, None, float(run.b[l][r]))
                    for c, k in enumerate(run.shown[l - 1]):
                        self._add(f"{l},{j},{k}", l, j, k, float(run.W[l][r, c]))
            for k in run.shown[0]:
                self._add(f"0,{k}", 0, None, k, float("nan"))

    def as_json(self) -> dict[str, Any]:
        """Return all of it."""
        return {"formulas": self.formulas.things, "terms": self.terms.things, "items": self.items}

    def _add(self, key: str, l: int, j: int | None, k: int | None, parameter: float) -> None:
        numbers = self.run.numbers
        explained = Chain(numbers, LARGEST).derivative(l, j, k, 1)
        value = numbers.average(explained, numbers.backward(l, j, k))
        term = explained.term
        self.items[key] = {
            "words": parameter_words(l, j, k),
            "symbol": self._formula(term.symbol),
            "formula": self._formula(" = ".join(term.equation or (term.letters,))),
            "value": finite(value),
            "factors": [self._term(factor) for factor in factors_of(term)],
        }
        if not math.isnan(parameter):
            self.items[key]["parameter"] = finite(parameter)

    def _formula(self, latex: str) -> int:
        return self.formulas.place(mathml(latex))

    def _term(self, term: Term) -> int:
        entry: dict[str, Any] = {
            "role": term.role,
            "symbol": self._formula(term.symbol),
            "value": finite(float(term.values[0])),
            "equals": [],
        }
        if term.rule == "sum":
            entry["sum"] = self._sum(term)
        else:
            entry["equals"] = [self._formula(side) for side in term.equation[1:]]
            if (filled := with_numbers(term, 0)) is not None:
                entry["equals"].append(self.formulas.place(mathml(filled)))
        return self.terms.place(entry)

    def _sum(self, term: Term) -> dict[str, Any]:
        return {
            "formula": self._formula(" = ".join(term.equation)),
            "headings": [self._formula(factor.letters) for factor in term.parts[0].parts],
            "rows": [
                [
                    part.node,
                    *(finite(float(factor.values[0])) for factor in part.parts),
                    finite(float(part.values[0])),
                ]
                for part in term.parts
            ],
            "omitted": term.omitted,
            "rest": finite(float(term.omitted_values[0])),
        }


def finite(value: float) -> float | str:
    """Return a number as JSON has it: infinity and NaN as text."""
    return value if math.isfinite(value) else repr(value)

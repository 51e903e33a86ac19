"""An explanation as LaTeX: every general formula, and the same line with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from backprop_gpu.explaining import outline
from backprop_gpu.explaining.markup import number_latex, to_latex
from backprop_gpu.explaining.outline import Table, number

if TYPE_CHECKING:
    from backprop_gpu.explaining.explain import Explanation

DIGITS = 4


def as_latex(explanation: Explanation, environment: str = "align*") -> str:
    """Return an explanation as one environment of aligned equations."""
    lines: list[str] = []
    if explanation.samples > 1:
        section = outline.over_samples(explanation)
        lines += [_general(section.equation[0]), *_table(section.tables[0])]
        lines += [_general(" = ".join(equation)) for equation in section.where]
    elif explanation.term.rule != "sum":
        lines += _one_sample(explanation)
    for section in outline.sums(explanation):
        lines.append(_general(" = ".join(section.equation)))
        lines += [_general(" = ".join(equation)) for equation in section.where]
        for table in section.tables:
            lines += _table(table)
    body = " \\\\\n".join(f"  {line}" for line in lines)
    return f"\\begin{{{environment}}}\n{body}\n\\end{{{environment}}}"


def _one_sample(explanation: Explanation) -> Iterator[str]:
    term = explanation.term
    yield _general(explanation.formula)
    factors = outline.factors_of(term)
    if term.rule == "product":
        product = _times(float(factor.values[0]) for factor in factors)
        yield rf"{term.symbol} &= {product} = {_number(explanation.value)}"
    for factor in factors:
        if factor.equation and factor.rule != "sum":
            if factor is not term:
                yield _general(factor.formula)
            filled = outline.with_numbers(factor, 0, DIGITS)
            value = _number(float(factor.values[0]))
            numbers = "" if filled is None else f"{to_latex(filled)} = "
            yield rf"{factor.symbol} &= {numbers}{value}"


def _table(table: Table) -> Iterator[str]:
    """Yield a sum, summand below summand."""
    summands = [
        rf"\underbrace{{{_times(line.factors or [line.product])}}}"
        rf"_{{{table.label} = {line.label}}}"
        for line in table.lines
    ]
    if table.omitted:
        more = rf"_{{\text{{{table.omitted} more}}}}"
        summands.append(rf"\underbrace{{{_times([table.omitted_sum])}}}{more}")
    start = end = ""
    if table.samples:
        start, end = rf"\frac{{1}}{{{table.samples}}} \Bigl(", r"\Bigr)"
    lines = [f"{table.title} &= {start}{summands[0]}"]
    lines += [rf"  &\quad {{}} + {summand}" for summand in summands[1:]]
    lines[-1] += f"{end} = {_number(table.total)}"
    yield from lines


def _general(formula: str) -> str:
    left, equals, right = formula.partition(" = ")
    return f"{left} &= {right}" if equals else f"&{left}"


def _number(value: float) -> str:
    return number_latex(number(value, DIGITS))


def _times(factors: Iterable[float]) -> str:
    texts = map(_number, factors)
    return r" \cdot ".join(f"({text})" if text.startswith("-") else text for text in texts)

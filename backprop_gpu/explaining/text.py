"""An explanation for a terminal: formulas above their numbers, 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from backprop_gpu.explaining import outline
from backprop_gpu.explaining.formulas import to_text
from backprop_gpu.explaining.outline import Section, Table, number
from backprop_gpu.explaining.terms import Term

if TYPE_CHECKING:
    from backprop_gpu.explaining.explain import Explanation

WIDTH = 80


def as_text(explanation: Explanation) -> str:
    """Return an explanation as lines of text."""
    lines = [*_head(explanation), ""]
    if explanation.samples == 1:
        if explanation.term.rule != "sum":
            lines += [*_one_sample(explanation), ""]
    else:
        lines += [*_section(outline.over_samples(explanation)), *_warning(explanation), ""]
    for section in outline.sums(explanation):
        lines += [*_section(section), ""]
    lines.append("The matrix products of backward give the same, to rounding:")
    lines.append(f"  {explanation.where} = {number(explanation.backward)}")
    return "\n".join(lines)


def _head(explanation: Explanation) -> list[str]:
    return [
        f"{explanation.name} = {number(explanation.value)}",
        outline.words(explanation),
        *textwrap.wrap(explanation.network, WIDTH),
        outline.loss_words(explanation),
    ]


def _one_sample(explanation: Explanation) -> Iterator[str]:
    """Yield a product, factor below factor, and where each comes from."""
    term = explanation.term
    yield from _equation(to_text(explanation.formula))
    yield ""
    factors = outline.factors_of(term)
    rows = [(factor.role, factor.name, float(factor.values[0])) for factor in factors]
    if term.rule == "product":
        rows.append(("product", term.name, float(term.values[0])))
    roles, names = (max(map(len, column)) for column in list(zip(*rows, strict=True))[:2])
    numbers = align([number(value) for _, _, value in rows])
    starts = [
        f"  {role:<{roles}}  {name:<{names}}  {text}"
        for (role, name, _), text in zip(rows, numbers, strict=True)
    ]
    for start, factor in zip(starts, factors, strict=False):
        notes = _origin(factor, in_product=factor is not term)
        yield from _beside(start, notes)
    if term.rule == "product":
        yield "  " + "-" * (len(starts[-1]) - 2)
        yield starts[-1].rstrip()


def _origin(term: Term, in_product: bool) -> list[str]:
    """Return what a factor is equal to: the general formula, then with numbers."""
    if term.rule == "sum":
        return ["the sum below"]
    if not term.equation:
        return ["as backward has it"]
    sides = [to_text(side) for side in term.equation[1:]] if in_product else []
    filled = outline.with_numbers(term, 0)
    return [f"= {side}" for side in (sides if filled is None else [*sides, to_text(filled)])]


def _beside(start: str, notes: Sequence[str]) -> Iterator[str]:
    """Yield notes to the right of a line, below each other."""
    lines = [
        line
        for note in notes
        for line in textwrap.wrap(
            note, max(24, WIDTH - len(start) - 2), subsequent_indent="  ", break_long_words=False
        )
    ]
    for line in lines or [""]:
        yield f"{start}  {line}".rstrip()
        start = " " * len(start)


def _section(section: Section) -> Iterator[str]:
    yield from _equation(*map(to_text, section.equation))
    where = [[*map(to_text, equation)] for equation in section.where]
    width = max((len(name) for name, *_ in where), default=0)
    for name, *sides in where:
        yield from _equation(name.ljust(width), *sides, indent="  ")
    for table in section.tables:
        yield ""
        if len(section.tables) > 1:
            yield f"  {to_text(table.title)}:"
        yield from _table(table)


def _table(table: Table) -> Iterator[str]:
    headings = [table.label, *map(to_text, table.headings)]
    headings.append("product" if table.headings else to_text(table.title))
    columns = [align([str(line.label) for line in table.lines])]
    for f in range(len(table.headings)):
        columns.append(align([number(line.factors[f]) for line in table.lines]))
    last = [number(line.product) for line in table.lines]
    foot = []
    if table.omitted:
        foot.append((f"{table.omitted} more", number(table.omitted_sum)))
    over = f" / {table.samples}" if table.samples else ""
    foot.append((f"sum{over} = {to_text(table.title)}", number(table.total)))
    # The products and what they sum to stand below each other.
    last = align([*last, *(text for _, text in foot)])
    columns.append(last[: len(table.lines)])
    widths = [max(map(len, (h, *c))) for h, c in zip(headings, columns, strict=True)]
    widths[-1] = max(widths[-1], *map(len, last))

    def row(cells: Sequence[str]) -> str:
        return "  " + "  ".join(c.rjust(w) for c, w in zip(cells, widths, strict=True)).rstrip()

    yield row(headings)
    yield from (row(cells) for cells in zip(*columns, strict=True))
    before = sum(widths[:-1]) + 2 * (len(widths) - 2)
    yield "  " + " " * before + "  " + "-" * widths[-1]
    for (words, _), value in zip(foot, last[len(table.lines) :], strict=True):
        yield f"  {words:>{before}}  {value.rjust(widths[-1])}".rstrip()


def _warning(explanation: Explanation) -> Iterator[str]:
    """Yield what the product of the averages would be, which is something else."""
    if explanation.term.rule == "product":
        wrong = 1.0
        for factor in explanation.term.parts:
            wrong *= float(factor.values.mean())
        yield ""
        yield f"  (The product of the averages, {number(wrong)}, is something else.)"


def _equation(*sides: str, indent: str = "") -> Iterator[str]:
    """Yield an equation; if it is too wide, its sides below each other."""
    first, *others = sides
    line = indent + " = ".join(sides)
    if len(line) <= WIDTH:
        yield line
        return
    for side in others:
        yield from textwrap.wrap(
            f"{indent}{first} = {side}",
            WIDTH,
            subsequent_indent=indent + " " * (len(first) + 3),
            break_long_words=False,
        )
        first = " " * len(first)


def align(numbers: Sequence[str]) -> list[str]:
    """Return numbers padded so that their decimal points are below each other."""
    heads = [text.partition(".")[0] if "." in text else text.partition("e")[0] for text in numbers]
    before = max(map(len, heads))
    padded = [" " * (before - len(head)) + text for head, text in zip(heads, numbers, strict=True)]
    width = max(map(len, padded))
    return [text.ljust(width) for text in padded]

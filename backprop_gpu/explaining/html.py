"""An explanation as HTML for a notebook: formulas in MathML, nothing loaded, any colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from backprop_gpu.explaining import outline
from backprop_gpu.explaining.markup import number_latex, to_mathml
from backprop_gpu.explaining.outline import Section, Table, number
from backprop_gpu.explaining.terms import Term
from backprop_gpu.explaining.text import align

if TYPE_CHECKING:
    from backprop_gpu.explaining.explain import Explanation

FIGURE_SPACE = "\u2007"  # as wide as a digit

# Colours are those of the page, light or dark; lines are a faint shade of its text.
STYLE = """
.bp-explain { line-height: 1.5; overflow-x: auto; }
.bp-explain p { margin: 0.3em 0; }
.bp-explain .bp-head { font-size: 1.15em; }
.bp-explain .bp-faint { opacity: 0.75; }
.bp-explain table { border-collapse: collapse; margin: 0.6em 0 1em; background: none; }
.bp-explain tr { background: none; }
.bp-explain th, .bp-explain td { padding: 0.25em 0.8em; text-align: right; border: 0;
  font-variant-numeric: tabular-nums; font-weight: normal; white-space: nowrap; }
.bp-explain .bp-words { text-align: left; }
.bp-explain thead th { border-bottom: 1px solid rgba(127, 127, 127, 0.6); }
.bp-explain math { math-style: normal; }
.bp-explain table math, .bp-explain .bp-faint math { font-size: 0.9em; }
.bp-explain tfoot td { border-top: 1px solid rgba(127, 127, 127, 0.6); }
.bp-explain tfoot tr + tr td { border-top: 0; }
.bp-explain .bp-total td { font-weight: bold; }
"""


def as_html(explanation: Explanation) -> str:
    """Return an explanation as one ``<div>``, which is well-formed XML too."""
    parts = [f"<style>{STYLE}</style>", *_head(explanation)]
    if explanation.samples > 1:
        parts += _section(outline.over_samples(explanation))
    elif explanation.term.rule != "sum":
        parts += _one_sample(explanation)
    for section in outline.sums(explanation):
        parts += _section(section)
    backward = f"<code>{escape(explanation.where)} = {number(explanation.backward)}</code>"
    parts.append(f"<p>The matrix products of backward give the same, to rounding: {backward}</p>")
    return '<div class="bp-explain">\n' + "\n".join(parts) + "\n</div>"


def _head(explanation: Explanation) -> Iterator[str]:
    value = number_latex(number(explanation.value))
    yield f'<p class="bp-head">{to_mathml(f"{explanation.symbol} = {value}")}</p>'
    yield f"<p>{escape(outline.words(explanation))}</p>"
    about = f"{explanation.network}; {outline.loss_words(explanation)}"
    yield f'<p class="bp-faint">{escape(about)}</p>'


def _one_sample(explanation: Explanation) -> Iterator[str]:
    term = explanation.term
    yield f"<p>{to_mathml(explanation.formula)}</p>"
    factors = outline.factors_of(term)
    *numbers, total = _numbers([float(part.values[0]) for part in (*factors, term)])
    rows = "".join(
        _row([part.role, to_mathml(part.symbol), value, _origin(part)], words=(0, 1, 3))
        for part, value in zip(factors, numbers, strict=True)
    )
    foot = ""
    if term.rule == "product":
        cells = ["product", to_mathml(term.symbol), total, ""]
        foot = f"<tfoot>{_row(cells, words=(0, 1, 3), total=True)}</tfoot>"
    yield f"<table><tbody>{rows}</tbody>{foot}</table>"


def _origin(term: Term) -> str:
    if term.rule == "sum":
        return "the sum below"
    if not term.equation:
        return "as backward has it"
    filled = outline.with_numbers(term, 0)
    sides = [to_mathml("= " + side) for side in term.equation[1:]]
    if filled is not None:
        sides.append("= " + to_mathml(filled))
    return " ".join(sides)


def _section(section: Section) -> Iterator[str]:
    yield f"<p>{to_mathml(' = '.join(section.equation))}</p>"
    if section.where:
        where = ", &#160; ".join(to_mathml(" = ".join(equation)) for equation in section.where)
        yield f'<p class="bp-faint">{where}</p>'
    for table in section.tables:
        yield _table(table)


def _table(table: Table) -> str:
    headings = [f"<i>{table.label}</i>", *map(to_mathml, table.headings)]
    headings.append("product" if table.headings else to_mathml(table.title))
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    columns = [[str(line.label) for line in table.lines]]
    columns += [
        _numbers(factors) for factors in zip(*(line.factors for line in table.lines), strict=True)
    ]
    products = [line.product for line in table.lines]
    *products_text, omitted, total = _numbers([*products, table.omitted_sum, table.total])
    rows = "".join(_row(cells) for cells in zip(*columns, products_text, strict=True))
    span = len(table.headings) + 1
    over = f" / {table.samples}" if table.samples else ""
    foot = ""
    if table.omitted:
        foot = f'<tr><td colspan="{span}">{table.omitted} more</td><td>{omitted}</td></tr>'
    foot += f'<tr class="bp-total"><td colspan="{span}">sum{over} = {to_mathml(table.title)}</td>'
    foot += f"<td>{total}</td></tr>"
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody><tfoot>{foot}</tfoot></table>"
    )


def _row(cells: Sequence[str], words: Sequence[int] = (), total: bool = False) -> str:
    inside = "".join(
        f'<td class="bp-words">{cell}</td>' if c in words else f"<td>{cell}</td>"
        for c, cell in enumerate(cells)
    )
    return f'<tr class="bp-total">{inside}</tr>' if total else f"<tr>{inside}</tr>"


def _numbers(values: Sequence[float]) -> list[str]:
    """Return numbers for cells that are aligned to the right, their decimal points in line."""
    return [text.lstrip().replace(" ", FIGURE_SPACE) for text in align([*map(number, values)])]

"""Small pieces of a page's HTML: formulas, numbers, tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from backprop_gpu.explaining.formulas import Row
from backprop_gpu.explaining.layout import Values, written
from backprop_gpu.explaining.markup import to_mathml

NAMESPACE = ' xmlns="http://www.w3.org/1998/Math/MathML"'  # HTML needs none
SINGLE = re.compile(r"<mrow>(<m[ino]>[^<]*</m[ino]>)</mrow>")  # a row of one thing is that thing
ELLIPSIS = "\N{VERTICAL ELLIPSIS}"


def mathml(latex: str | Row, display: bool = False) -> str:
    """Return a formula as MathML."""
    return SINGLE.sub(r"\1", to_mathml(latex, display=display).replace(NAMESPACE, "", 1))


def formulas(equations: Sequence[str]) -> str:
    """Return equations, each on a line of its own."""
    lines = "".join(f"<p>{mathml(equation, display=True)}</p>" for equation in equations)
    return f'<div class="formulas" role="group" aria-label="Formula">{lines}</div>'


def number(value: float, digits: int = 7) -> str:
    """Return a number as HTML, with its full value in an attribute."""
    return f'<data value="{value!r}">{written(value, digits)}</data>'


def column_table(
    label: str, shown: Sequence[int], nodes: int, columns: Sequence[tuple[str, Values, str]]
) -> str:
    """Return a table with a row for every shown node.

    `columns` holds, of each, its heading (LaTeX), its numbers, and the name of the quantity.
    """
    head = "".join(f'<th scope="col">{mathml(latex)}</th>' for latex, _, _ in columns)
    rows = []
    for i, j in enumerate(shown):
        if len(shown) < nodes and j == shown[-1]:
            rows.append(_gap(len(columns) + 1, nodes - len(shown)))
        cells = "".join(
            f'<td data-quantity="{quantity}" data-node="{j}">{number(float(values[i]))}</td>'
            for _, values, quantity in columns
        )
        rows.append(f'<tr><th scope="row">{j}</th>{cells}</tr>')
    return _table(f'<th scope="col">{label}</th>{head}', rows)


def _gap(span: int, left_out: int) -> str:
    return f'<tr class="gap"><td colspan="{span}">{ELLIPSIS} {left_out} more</td></tr>'


def matrix_table(
    caption: str,
    quantities: tuple[str, str],
    matrix: Values,
    bias: Values,
    rows_shown: tuple[Sequence[int], int],
    columns_shown: tuple[Sequence[int], int],
) -> str:
    """Return dC/dW, a row for every shown node, with dC/db in a column of its own."""
    (rows, row_count), (columns, column_count) = rows_shown, columns_shown
    short_row, short_column = len(rows) < row_count, len(columns) < column_count

    def joined(cells: list[str]) -> str:
        if short_column:
            cells.insert(-1, '<td aria-hidden="true">⋯</td>')
        return "".join(cells)

    names = [f"{mathml('k')} = {k}" if k == 0 else str(k) for k in columns]
    heads = joined([f'<th scope="col">{name}</th>' for name in names])
    corner = f'<th scope="col">{mathml("j")}</th>'
    head = f'{corner}{heads}<th scope="col" class="bias">{mathml(caption)}</th>'
    body = []
    span = len(columns) + 2 + short_column
    for r, j in enumerate(rows):
        if short_row and j == rows[-1]:
            body.append(_gap(span, row_count - len(rows)))
        entries = [
            f'<td data-quantity="{quantities[0]}" data-node="{j},{k}">'
            f"{number(float(matrix[r, c]), 4)}</td>"
            for c, k in enumerate(columns)
        ]
        last = (
            f'<td class="bias" data-quantity="{quantities[1]}" data-node="{j}">'
            f"{number(float(bias[r]), 4)}</td>"
        )
        body.append(f'<tr><th scope="row">{j}</th>{joined(entries)}{last}</tr>')
    return _table(head, body, "matrix")


def _table(head: str, rows: Sequence[str], kind: str = "column") -> str:
    return (
        '<div class="scroll" role="group" aria-label="Numbers">'
        f'<table class="{kind}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )

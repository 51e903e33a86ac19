"""Tables of text, for terminals and notebooks."""

from __future__ import annotations

import re
from collections.abc import Sequence

NUMBER = re.compile(r"[-+]?[\d,.]+(e[-+]?\d+)?( s|%| [kMGT]?B)?|-")


class Text(str):
    """A text that the prompt and a notebook show as it reads, line by line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def aligned(rows: Sequence[Sequence[str]], heading: Sequence[str] = ()) -> str:
    """Return rows as lines with their columns below each other; numbers to the right."""
    lines = [list(heading), *map(list, rows)] if heading else [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [all(map(NUMBER.fullmatch, column)) for column in zip(*rows, strict=True)]
    if heading:
        lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def as_bytes(count: int) -> str:
    """Return a number of bytes to three digits: "496 B", "14.2 MB"."""
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 999.5 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    digits = 0 if units[0] == "B" else sum(amount < limit for limit in (9.995, 99.95))
    return f"{amount:,.{digits}f} {units[0]}"

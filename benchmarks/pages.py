"""What the pages of docs/ show: text between markers, and numbers."""

from __future__ import annotations

from pathlib import Path


def put_into(page: Path, begin: str, text: str, end: str) -> None:
    """Replace what stands in a page between two markers."""
    before, rest = page.read_text().split(begin)
    page.write_text(before + begin + text + end + rest.split(end, 1)[1])


def digits(value: float) -> str:
    """Return a number with the three digits that count, if they are not zeros."""
    return f"{float(f'{value:.3g}'):,.10g}"

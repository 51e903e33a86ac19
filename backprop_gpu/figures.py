"""Figures of matplotlib: made without pyplot, which keeps what it has made; written whole."""

from __future__ import annotations

import io
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backprop_gpu.errors import DomainError, MissingExtraError
from backprop_gpu.files import checked_path, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
INK, FAINT, PAPER = "#26241f", "#8a857a", "#ffffff"


def new_figure(what_for: str, **settings: Any) -> Figure:
    """Return an empty figure; raise MissingExtraError, saying what for, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", what_for) from error
    figure = Figure(facecolor="white", **settings)
    # By this a notebook shows what pyplot does not know; an attribute, so that it can be pickled.
    figure.__dict__["_repr_png_"] = partial(_png, figure)
    return figure


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def check_picture_path(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path; raise unless it ends as a format does that figures are saved in."""
    path = checked_path(path)
    if path.suffix.lower() not in FORMATS:
        raise DomainError(f"{path} ends in {path.suffix!r}; expected one of {', '.join(FORMATS)}")
    return path


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the path's end names: the same bytes on any day."""
    from matplotlib import rc_context

    content = io.BytesIO()
    kind = path.suffix.lower()[1:]
    metadata: dict[str, Any] = {"png": {}, "svg": {"Date": None}}.get(kind, {"CreationDate": None})
    with rc_context({"svg.hashsalt": "backprop_gpu"}):  # else names in an SVG are random
        figure.savefig(content, format=kind, dpi=200, metadata=metadata)
    write_atomically(path, content.getvalue())

"""One page that shows backpropagation: a file that needs no internet, to step through a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any

from backprop_gpu.errors import DomainError
from backprop_gpu.explaining.layout import largest, short, strength
from backprop_gpu.explaining.page.picture import pictures
from backprop_gpu.explaining.page.run import PageRun, run
from backprop_gpu.explaining.page.steps import PageStep, steps
from backprop_gpu.explaining.page.terms import Terms, finite
from backprop_gpu.files import checked_path, write_atomically
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP


def page(net: MLP, x: Any, y: Any, loss: str | Loss = "mse") -> str:
    """Return the page that `write_page` writes: its style, script and numbers are in it.

    Examples
    --------
    >>> import backprop_gpu as bp
    >>> html = page(*bp.textbook(device="cpu"))
    >>> "Jumping Back" in html
    True
    """
    shown = run(net, x, y, loss)
    all_steps = steps(shown)
    sizes = "-".join(map(str, net.layer_sizes[:8]))
    if len(net.layer_sizes) > 8:
        sizes += f"-…-{net.layer_sizes[-1]}"
    names = ", ".join(_repeats(escape(str(g)) for g in net.activations))
    about = f"{sizes} nodes · {names} · loss {escape(shown.loss.name)} · {net.dtype}"
    return Template(_resource("page.html")).substitute(
        title=f"Backpropagation of a {sizes} network, number by number",
        style=_resource("page.css"),
        script=_resource("page.js"),
        about=about,
        pictures=pictures(shown),
        steps="\n".join(_section(i, step, len(all_steps)) for i, step in enumerate(all_steps)),
        data=_json(_data(shown, all_steps)),
    )


def write_page(net: MLP, x: Any, y: Any, loss: str | Loss = "mse", *, path: str | Path) -> None:
    """Write a page that goes through a run step by step, forward and back, for a browser.

    The page is one file, which loads nothing; large layers are shortened.

    Parameters
    ----------
    net : MLP
    x, y : array_like, one row each
        The sample.
    loss : str or Loss
    path : str or Path
        The file, which ends in .html or .htm: written whole, or not at all.

    Raises
    ------
    DomainError
        If the path ends otherwise.
    ShapeError
        If x has more than one row.
    GradientError, NonFiniteError
        As in `explain`.
    FileFormatError
        If the file can't be written.
    """
    path = checked_path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise DomainError(f"{path} does not end in .html, as a page for a browser does")
    write_atomically(path, page(net, x, y, loss).encode())


def _resource(name: str) -> str:
    return files("backprop_gpu.explaining.page").joinpath(name).read_text("utf-8")


def _repeats(names: Iterable[str]) -> Iterator[str]:
    """Yield names, each with how often it comes in a row."""
    for name, group in groupby(names):
        count = len(list(group))
        yield name if count == 1 else f"{count} × {name}"


def _section(i: int, step: PageStep, count: int) -> str:
    return (
        f'<section class="step" data-step="{i}">\n'
        f'<h2><span class="count">{step.phase}, {i + 1} of {count}</span> {step.title}</h2>\n'
        f'<p class="words">{step.words}</p>\n{step.body}\n</section>'
    )


def _data(shown: PageRun, all_steps: list[PageStep]) -> dict[str, Any]:
    """Return what the script needs."""
    cells: dict[str, dict[int, dict[int, list[Any]]]] = {}
    for quantity, layers in shown.nodes.items():
        cells[quantity] = {}
        for l, values in layers.items():
            most = largest(values)
            cells[quantity][l] = {
                j: [finite(v), short(v), round(strength(v, most), 3)]
                for j, v in zip(shown.shown[l], map(float, values), strict=True)
            }
    return {
        "steps": [
            {
                "phase": step.phase,
                "over": step.over,
                "arrives": step.arrives,
                "fresh": step.fresh,
                "view": step.view,
            }
            for step in all_steps
        ],
        "cells": cells,
        "shown": shown.shown,
        **Terms(shown).as_json(),
    }


def _json(data: Any) -> str:
    """Return JSON that can stand in a ``<script>``, whatever its texts hold."""
    compact = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return compact.replace("<", r"\u003c").replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")

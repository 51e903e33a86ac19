"""The command ``backprop-gpu explain``: one derivative term by term, or Jumping Back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from backprop_gpu.cli import columns, tables, workflow
from backprop_gpu.cli.parts import FILE, device_option, examples
from backprop_gpu.errors import DomainError
from backprop_gpu.explaining.explain import Explanation, explain, explain_activation, explain_bias
from backprop_gpu.explaining.jump_back import jump_back
from backprop_gpu.explaining.page.write import write_page
from backprop_gpu.mlp import MLP
from backprop_gpu.textbook import textbook


@click.command(
    "explain",
    epilog=examples(
        "backprop-gpu explain --layer 3 -j 1 -k 2",
        "backprop-gpu explain --layer 1 -j 0 -k 4 --depth full",
        "backprop-gpu explain --layer 2 -j 1 --bias --latex",
        "backprop-gpu explain --layer 0 -k 3 --activation",
        "backprop-gpu explain --step",
        "backprop-gpu explain --html out.html",
        "backprop-gpu explain net.safetensors data.npz --row 7 --layer 2 -j 0 -k 5",
    ),
)
@click.argument("net", required=False, type=FILE)
@click.argument("data", required=False, type=FILE)
@click.option("--layer", type=int, help="l, from 1 to the last; 0, the input, with --activation.")
@click.option("-j", "j", type=int, help="The node of the layer, from 0.")
@click.option("-k", "k", type=int, help="The node of the layer before, from 0.")
@click.option("--bias", is_flag=True, help="Explain dC/db_j in place of dC/dw_jk.")
@click.option("--activation", is_flag=True, help="Explain dC/da_k, k a node of the layer.")
@click.option("--loss", help="mse, sse, bce, cce.  [default: what NET was trained with; mse]")
@click.option(
    "--row", "rows", multiple=True, type=int, help="The sample, from 0; repeat for a batch."
)
@click.option("--depth", help="How many sums over the next layer, or full.  [default: 1]")
@click.option("--largest", type=int, help="Summands to show.  [default: 5]")
@click.option("--latex", is_flag=True, help="Print LaTeX.")
@click.option("--step", is_flag=True, help="Walk through Jumping Back, all layers at once.")
@click.option("--html", type=FILE, help="Write a page to step through in a browser.")
@device_option
def explain_command(
    net: Path | None,
    data: Path | None,
    loss: str | None,
    rows: tuple[int, ...],
    device: str,
    step: bool,
    html: Path | None,
    latex: bool,
    **what: Any,
) -> None:
    """Show how backpropagation arrives at one number, term by term.

    Without NET it is the textbook network: 5-3-5-4 nodes, one sample. With NET, a file that train
    or bp.save wrote, DATA holds the samples: a .npz with arrays x and y, or a .csv or .parquet
    with the columns that the network was trained on. Numbers are standardized as in training.
    """
    _check_options(step, html is not None, latex, **what)
    network, x, y, known_loss = _subject(net, data, rows or (0,), device)
    loss = loss or known_loss
    if html is not None:
        write_page(html, network, x, y, loss)
        click.echo(f"The page is in {html}; open it in a browser.")
        return
    if step:
        _walk(network, x, y, loss)
        return
    explanation = _explain(network, x, y, loss, **what)
    click.echo(explanation.latex() if latex else str(explanation))


def _check_options(
    step: bool,
    html: bool,
    latex: bool,
    *,
    layer: int | None,
    j: int | None,
    k: int | None,
    bias: bool,
    activation: bool,
    depth: str | None,
    largest: int | None,
) -> None:
    """Raise DomainError unless the options say what to explain."""
    given = {"--layer": layer, "-j": j, "-k": k}
    named = [name for name, value in given.items() if value is not None]
    if step and html:
        raise DomainError("--step and --html are two different things; give one")
    if step or html:
        others = {
            "--latex": latex,
            "--bias": bias,
            "--activation": activation,
            "--depth": depth is not None,
            "--largest": largest is not None,
        }
        if foreign := [*named, *(name for name, there in others.items() if there)]:
            shows_all = "--step" if step else "--html"
            raise DomainError(f"{shows_all} shows all layers; leave out {' and '.join(foreign)}")
        return
    if bias and activation:
        raise DomainError("--bias and --activation are two different things; give one")
    kind, needed = "a weight", ["--layer", "-j", "-k"]
    if bias:
        kind, needed = "a bias", ["--layer", "-j"]
    elif activation:
        kind, needed = "an activation", ["--layer", "-k"]
    if named != needed:
        hint = "" if bias or activation else ", for example --layer 3 -j 1 -k 2; or give --step"
        raise DomainError(f"{kind} is named by {', '.join(needed)}{hint}")


def _explain(
    net: MLP,
    x: Any,
    y: Any,
    loss: str,
    *,
    layer: int,
    j: int,
    k: int,
    bias: bool,
    activation: bool,
    depth: str | None,
    largest: int | None,
) -> Explanation:
    levels: Any = int(depth) if depth is not None and depth.isdecimal() else depth
    options: dict[str, Any] = {"depth": levels, "largest": 5 if largest is None else largest}
    if bias:
        return explain_bias(net, x, y, layer, j, loss, **options)
    if activation:
        return explain_activation(net, x, y, layer, k, loss, **options)
    return explain(net, x, y, layer, j, k, loss, **options)


def _subject(
    net: Path | None, data: Path | None, rows: tuple[int, ...], device: str
) -> tuple[MLP, Any, Any, str]:
    """Return the network, the samples in the given rows, and the loss."""
    if net is None:
        network, x, y = textbook(device=device)
        return network, *_rows(x, y, rows, "the textbook"), "mse"
    if data is None:
        raise DomainError(f"{net} needs a sample to explain: name a data file after it")
    saved, preparation = workflow.open_network(net, device)
    suffix = tables.known_suffix(data, (".npz", *tables.COLUMNS))
    targets: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    if suffix in tables.COLUMNS:
        targets = preparation.targets
        known = {*preparation.features, *targets}
        names = columns.read_columns(data).column_names
        unused = tuple(name for name in names if name not in known)
    samples = tables.read_samples([data], targets, unused, labels=bool(preparation.classes))
    x, y = tables.read_inputs(data, preparation.features, preparation.targets), samples.y
    x, y = _rows(x, y, rows, str(data))
    if preparation.classes:
        unknown = set(y.tolist()) - set(preparation.classes)
        if unknown:
            raise DomainError(
                f"the label {min(map(repr, unknown))} is none of the network's classes"
            )
    loss = str(saved.notes.get("loss", "mse"))
    return saved.net, preparation.inputs(x), preparation.outputs(y), loss


def _rows(x: Any, y: Any, rows: tuple[int, ...], name: str) -> tuple[Any, Any]:
    for row in rows:
        if not 0 <= row < len(x):
            raise DomainError(f"--row is {row}; {name} has rows 0 to {len(x) - 1}")
    index = np.array(rows)
    return x[index], y[index]


def _walk(net: MLP, x: Any, y: Any, loss: str) -> None:
    """Print jump after jump; on a terminal, wait for a key in between."""
    jumps = jump_back(net, x, y, loss)
    click.echo(f"{net!r}\nStart at y, and jump back.")
    for count, jump in enumerate(jumps, start=1):
        click.echo(f"\n{count} of {len(jumps)}: {jump}")
        if count < len(jumps):
            click.pause("\n[any key: the next jump]")
    click.echo("\nArrived at the input: every gradient that backward gives is known.")

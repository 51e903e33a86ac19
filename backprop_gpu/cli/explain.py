"""The command ``backprop-gpu explain``: one derivative term by term, or Jumping Back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.core import ParameterSource

from backprop_gpu.cli import tables, workflow
from backprop_gpu.cli.parts import FILE, device_option, examples
from backprop_gpu.errors import DomainError, UnknownNameError
from backprop_gpu.explaining.explain import Explanation, explain, explain_activation, explain_bias
from backprop_gpu.explaining.jump_back import jump_back
from backprop_gpu.explaining.page.write import write_page
from backprop_gpu.files import check_writable
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
@click.argument("data", nargs=-1, type=FILE)
@click.option("--layer", type=int, help="l, from 1 to the last; 0, the input, with --activation.")
@click.option("-j", "j", type=int, help="The node of the layer, from 0.")
@click.option(
    "-k",
    "k",
    type=lambda text: int(text) if re.fullmatch(r"[+-]?\d+", text) else text,
    metavar="K",
    help="The node of the layer before, from 0; or an input's name.",
)
@click.option("--bias", is_flag=True, help="Explain dC/db_j in place of dC/dw_jk.")
@click.option("--activation", is_flag=True, help="Explain dC/da_k, k a node of the layer.")
@click.option("--loss", help="mse, sse, bce, cce.  [default: what NET was trained with; mse]")
@click.option(
    "--row",
    "rows",
    multiple=True,
    type=int,
    default=(0,),
    show_default=True,
    help="The sample, from 0; repeat for a batch.",
)
@click.option(
    "--depth",
    metavar="N",
    type=lambda text: int(text) if text.isdecimal() else text,
    help="How many sums over the next layer, or full.  [default: 1]",
)
@click.option("--largest", type=int, help="Summands to show.  [default: 5]")
@click.option("--latex", is_flag=True, help="Print LaTeX.")
@click.option("--step", is_flag=True, help="Walk through Jumping Back, all layers at once.")
@click.option("--html", type=FILE, help="A .html file to write, to step through in a browser.")
@device_option
def explain_command(
    net: Path | None,
    data: tuple[Path, ...],
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
    or bp.save wrote, DATA is what train takes: one .npz with arrays x and y, a pair x.npy y.npy, or
    a .csv with a header line or a .parquet, with the columns that the network was trained on. Its
    first sample, row 0, is explained unless --row says otherwise. Numbers are standardized as in
    training.
    """
    _check_options()
    if html is not None:
        tables.known_suffix(html, [".html"])
        check_writable(html)
    subject = _textbook(rows, device) if net is None else _subject(net, data, rows, device)
    run = subject.net, subject.x, subject.y, loss or subject.loss
    if html is not None:
        write_page(*run, path=html)
        click.echo(f"{subject.heading()}The page is in {html}; open it in a browser.")
    elif step:
        click.echo(subject.heading(), nl=False)
        _walk(*run)
    else:
        what["k"] = subject.number_of(what["k"], what["layer"] == (0 if what["activation"] else 1))
        explanation = _explain(*run, **what)
        heading = subject.heading(_input_of(explanation))
        if latex:
            click.echo(f"{heading and '% '}{heading}{explanation.latex()}")
        else:
            click.echo(f"{heading}{explanation}")


@dataclass(frozen=True)
class Subject:
    """What is explained.

    Attributes
    ----------
    net : MLP
    x, y : ndarray
        The samples.
    loss : str
    source : str
        Which rows of which file; empty for the textbook.
    features : tuple of str
        The names of the inputs, if they have any.
    """

    net: MLP
    x: Any
    y: Any
    loss: str
    source: str = ""
    features: tuple[str, ...] = ()

    def heading(self, k: int | None = None) -> str:
        """Return a line that says which samples these are, and what input k is called."""
        if not self.source:
            return ""
        named = f"; input {k} is {self.features[k]}" if k is not None and self.features else ""
        return f"{self.source}{named}\n"

    def number_of(self, k: int | str | None, of_inputs: bool) -> int | None:
        """Return the number of a node; of an input, its name may be given."""
        if not isinstance(k, str):
            return k
        if not (of_inputs and self.features):
            why = "inputs have no names here" if of_inputs else "nodes have no names, inputs have"
            raise DomainError(f"-k is {k!r}; expected a whole number: {why}")
        if k not in self.features:
            raise UnknownNameError("input", k, self.features)
        return self.features.index(k)


def _check_options() -> None:
    """Raise DomainError unless the options say what to explain."""
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    for name, other in (("--step", "--html"), ("--bias", "--activation")):
        if name in given and other in given:
            raise DomainError(f"{name} and {other} are two different things; give one")
    for shows_all in ("--step", "--html"):
        if shows_all in given:
            fit = {shows_all, "net", "data", "--loss", "--row", "--device"}
            if foreign := [name for name in given if name not in fit]:
                raise DomainError(
                    f"{shows_all} shows all layers; leave out {' and '.join(foreign)}"
                )
            return
    kind, needed = "a weight", ["--layer", "-j", "-k"]
    if "--bias" in given:
        kind, needed = "a bias", ["--layer", "-j"]
    elif "--activation" in given:
        kind, needed = "an activation", ["--layer", "-k"]
    if [name for name in given if name in ("--layer", "-j", "-k")] != needed:
        hint = ", for example --layer 3 -j 1 -k 2; or give --step" if len(needed) == 3 else ""
        raise DomainError(f"{kind} is named by {', '.join(needed)}{hint}")


def _explain(
    net: MLP, x: Any, y: Any, loss: str, *, bias: bool, activation: bool, **what: Any
) -> Explanation:
    function: Any = explain_bias if bias else explain_activation if activation else explain
    given = {name: value for name, value in what.items() if value is not None}
    explanation: Explanation = function(net, x, y, loss=loss, **given)
    return explanation


def _input_of(explanation: Explanation) -> int | None:
    """Return the number of the input that an explanation is about, if it is about one."""
    layer = explanation.layer if explanation.kind == "activation" else explanation.layer - 1
    return explanation.k if layer == 0 else None


def _textbook(rows: tuple[int, ...], device: str) -> Subject:
    net, x, y = textbook(device=device)
    return Subject(net, *_rows(x, y, rows, "the textbook"), "mse")


def _subject(net: Path, data: tuple[Path, ...], rows: tuple[int, ...], device: str) -> Subject:
    """Return a saved network and the samples in the given rows."""
    if not data:
        raise DomainError(f"{net} needs a sample to explain: name a data file after it")
    saved, preparation, samples = workflow.open_samples(net, data, device)
    files = " and ".join(map(str, data))
    x, y = _rows(samples.x, samples.y, rows, files)
    workflow.check_samples(saved, preparation, x, y)
    return Subject(
        saved.net,
        preparation.inputs(x),
        preparation.outputs(y),
        str(saved.notes.get("loss", "mse")),
        f"{'row' if len(rows) == 1 else 'rows'} {', '.join(map(str, rows))} of {files}",
        preparation.features,
    )


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

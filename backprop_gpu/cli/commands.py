"""The command line: options in, a table out, and an exit code that says what went wrong."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_args

import click

import backprop_gpu
from backprop_gpu.arrays import DTYPES
from backprop_gpu.backends import Precision, choose_backend
from backprop_gpu.benchmark.machine import about_machine
from backprop_gpu.cli import report, tables, workflow
from backprop_gpu.cli.explain import explain_command
from backprop_gpu.cli.parts import (
    EXIT_CODES,
    FILE,
    Commands,
    Failure,
    device_name,
    device_option,
    examples,
    layer_sizes,
)
from backprop_gpu.errors import DomainError, count_of
from backprop_gpu.files import check_writable, write_atomically
from backprop_gpu.losses import find_loss
from backprop_gpu.text_table import aligned
from backprop_gpu.training.history import TrainingDiverged

FAR = 100  # from 0: with the usual weights and learning rates, little is learned from such numbers


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "backprop-gpu demo",
        "backprop-gpu train iris.csv --target species --classify --standardize -o iris.safetensors",
        "backprop-gpu predict iris.safetensors iris.csv",
    )
    + "\n\n"
    + EXIT_CODES,
)
@click.version_option(backprop_gpu.__version__)
def commands() -> None:
    """Multilayer perceptrons by textbook backpropagation, on the CPU and on NVIDIA GPUs.

    Every command has examples in its own --help.
    """


@commands.command(
    epilog=examples(
        "backprop-gpu train data.npz -o net.safetensors",
        "backprop-gpu train x.npy y.npy --layers 64,32 --activations gelu -o net.safetensors",
        "backprop-gpu train houses.csv --target price --ignore id --standardize \\",
        "    --learning-rate 0.01 --validation 0.2 --patience 20 -o houses.safetensors",
        "backprop-gpu train iris.parquet --target species --classify --validation 0.2 \\",
        "    --layers 16 --activations leaky_relu:0.1,sigmoid --loss bce -o iris.safetensors",
        "backprop-gpu train data.npz --optimizer sgd --learning-rate 0.05 --momentum 0.9 \\",
        "    --nesterov --clip-norm 1 --device cpu --dtype float64 --seed 7 -o net.safetensors",
    )
)
@click.argument("data", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", required=True, type=FILE, help="The network: a .safetensors file.")
@click.option("--target", "targets", multiple=True, metavar="NAME", help="Target; repeatable.")
@click.option("--ignore", "ignored", multiple=True, metavar="NAME", help="Column to leave out.")
@click.option("--classify", is_flag=True, help="Targets are labels, of any type, not numbers.")
@click.option("--standardize", is_flag=True, help="Scale numbers to mean 0, deviation 1.")
@click.option(
    "--layers",
    "hidden",
    callback=layer_sizes,
    default="64",
    show_default=True,
    help="Hidden layers.",
)
@click.option(
    "--activations",
    callback=lambda ctx, param, value: () if value is None else workflow.activations_of(value),
    help="One for hidden layers, or one for each; see above.",
)
@click.option("--loss", help="mse, sse, bce, cce.  [default: mse; cce with --classify]")
@click.option(
    "--optimizer",
    type=click.Choice(list(workflow.OPTIMIZERS)),
    default="adam",
    show_default=True,
)
@click.option("--learning-rate", type=float, help="[default: 0.001; 0.01 for sgd]")
@click.option("--momentum", type=float, help="For sgd.")
@click.option("--nesterov", is_flag=True, default=None, help="For sgd with momentum.")
@click.option("--weight-decay", type=float, help="[default: 0; 0.01 for adamw]")
@click.option("--clip-norm", type=float, help="Limit the gradient's norm.")
@click.option(
    "--epochs", type=click.IntRange(1), default=workflow.Settings.epochs, show_default=True
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=workflow.Settings.batch_size, show_default=True
)
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, max_open=True),
    default=workflow.Settings.validation,
    show_default=True,
    help="Share of the samples that is held out.",
)
@click.option("--patience", type=click.IntRange(1), help="Epochs without a new best: then stop.")
@device_option
@click.option(
    "--dtype", type=click.Choice(DTYPES), default=workflow.Settings.dtype, show_default=True
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default=workflow.Settings.precision,
    show_default=True,
    help="How a GPU multiplies float32.",
)
@click.option("--seed", type=click.IntRange(0), default=workflow.Settings.seed, show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="Print errors only, no progress, no table.")
def train(
    data: tuple[Path, ...],
    output: Path,
    targets: tuple[str, ...],
    ignored: tuple[str, ...],
    device: str,
    precision: Precision,
    quiet: bool,
    **options: Any,
) -> None:
    """Train a network on DATA and save it.

    DATA is one .npz that holds arrays x and y, a pair x.npy y.npy, or a .csv with a header line or
    a .parquet, of which --target names what to predict and all other columns are inputs. A
    .tsv, with tabs, is read where a .csv is, and so are .csv.gz and .tsv.gz.

    Activations are leaky_relu (with a slope: leaky_relu:0.1), relu, sigmoid, tanh, gelu, silu,
    softplus, exp, softmax and identity. Give one for all hidden layers, or a list with one for
    every hidden layer, with or without one for the last. By default hidden layers have leaky_relu,
    and the last what suits the loss.

    With --standardize, targets that are numbers are scaled as inputs are, if the last layer can
    give any number, and losses are those of scaled targets; predict undoes it.

    If training diverges, OUTPUT holds the last good parameters; in the first epoch there are none,
    and OUTPUT is not written. If training is interrupted, OUTPUT holds what it has learned by then.
    """
    tables.known_suffix(output, [".safetensors"])
    backend, _ = choose_backend(device, precision=precision)
    settings = _settings(backend=backend, precision=precision, **options)
    check_writable(output)
    samples = tables.read_samples(data, targets, ignored, settings.classify)
    job = workflow.prepare(settings, samples)
    job.rehearse_saving(output)
    say = (lambda text: None) if quiet else click.echo
    held = f", {len(job.x_held):,} held out" if len(job.x_held) else ""
    rows = [
        ("device", report.device_taken(device, backend.device)),
        ("data", f"{count_of(len(job.x), 'sample')} to train on{held}"),
        ("network", report.describe(job.net)),
    ]
    if job.preparation.classes:
        rows.append(("classes", report.named(job.preparation.classes)))
    if job.preparation.of_targets:
        rows.append(("targets", "standardized; losses are those of standardized targets"))
    elif not settings.standardize and max(abs(job.x).max(), abs(job.y).max()) > FAR:
        rows.append(("note", f"the data have numbers beyond {FAR}; try --standardize"))
    say(aligned(rows))
    say(aligned(_run(job, output, quiet)))


def on_a_terminal() -> bool:
    """Return whether errors, and progress, are shown on a terminal."""
    return sys.stderr.isatty()


def _settings(optimizer: str, loss: str | None, **options: Any) -> workflow.Settings:
    theirs = {name for kind in workflow.OPTIMIZERS.values() for name in kind.__dataclass_fields__}
    of_optimizer = {name: options.pop(name) for name in list(options) if name in theirs}
    return workflow.Settings(
        loss=find_loss(loss or ("cce" if options["classify"] else "mse")),
        optimizer=workflow.optimizer_of(optimizer, **of_optimizer),
        **options,
    )


def _run(job: workflow.Job, output: Path, quiet: bool) -> report.Rows:
    """Train and save; return what to say about it."""
    try:
        history = job.train(progress=not quiet)
    except TrainingDiverged as error:
        if not error.history.loss:
            raise Failure(f"{error}. {output} is not written", 3) from error
        _save_and_fail(job, output, str(error), 3)
    except KeyboardInterrupt:
        _save_and_fail(job, output, "interrupted", 130)
    job.save(output)
    rows = report.about_training(history, len(job.x))
    if history.validation_loss:
        loss = job.net.loss(job.x_held, job.y_held, job.settings.loss)
        rows.insert(1, ("validation loss", f"{loss:.4g}"))
    if history.validation_loss and job.settings.classify:
        rows.insert(2, ("accuracy", f"{job.accuracy():.2%} of {len(job.x_held):,} held out"))
    return [*rows, ("saved", str(output))]


def _save_and_fail(job: workflow.Job, output: Path, message: str, code: int) -> NoReturn:
    job.save(output)
    raise Failure(f"{message}.\nThe network as it was then is in {output}", code)


@commands.command(
    epilog=examples(
        "backprop-gpu predict houses.safetensors houses.csv",
        "backprop-gpu predict houses.safetensors houses.csv -o prices.parquet",
        "backprop-gpu predict iris.safetensors iris.csv --probabilities -o flowers.csv",
        "backprop-gpu predict net.safetensors x.npy -o y.npy --device cpu",
    )
)
@click.argument("net", type=FILE)
@click.argument("data", type=FILE)
@click.option("-o", "--output", type=FILE, help="A .csv, .npy, .npz or .parquet file to write.")
@click.option("--probabilities", is_flag=True, help="An output for every class, not labels.")
@device_option
def predict(net: Path, data: Path, output: Path | None, probabilities: bool, device: str) -> None:
    """Predict with the network in the file NET for DATA, and print CSV.

    DATA is a .npz that holds x, a .npy, a .csv with a header line, or a .parquet. Columns are found
    by their names, in any order; others, the targets among them, are left out. Inputs are
    standardized as in training, and standardized targets are scaled back. Of classes, the labels
    are printed.
    """
    if output is not None:
        suffix = tables.known_suffix(output, (".csv", ".npy", ".npz", ".parquet"))
        if os.path.realpath(output) in (os.path.realpath(net), os.path.realpath(data)):
            raise DomainError(f"{output} would be replaced by the predictions; name another file")
        check_writable(output)
    tables.known_suffix(data, tables.ARRAYS + tables.COLUMNS)
    saved, preparation = workflow.open_network(net, device)
    x = tables.read_inputs(data, preparation.features, preparation.targets)
    outputs = workflow.predict(saved, preparation, x)
    names, columns = workflow.answer_columns(preparation, outputs, probabilities)
    if output is None:
        click.echo(tables.write_columns(".csv", names, columns), nl=False)
    else:
        write_atomically(output, tables.write_columns(suffix, names, columns))


@commands.command(
    epilog=examples(
        "backprop-gpu score houses.safetensors houses.csv",
        "backprop-gpu score iris.safetensors iris.parquet",
        "backprop-gpu score net.safetensors x.npy y.npy --device cpu",
    )
)
@click.argument("net", type=FILE)
@click.argument("data", nargs=-1, required=True, type=FILE)
@device_option
def score(net: Path, data: tuple[Path, ...], device: str) -> None:
    """Say how well the network in the file NET predicts the targets in DATA.

    DATA is what train takes, best of samples that it was not given: one .npz with arrays x and y, a
    pair x.npy y.npy, or a .csv with a header line or a .parquet, with the columns that the network
    was trained on. Of labels, and of targets 0 and 1 with the loss bce, it is the share that is
    predicted right; of other numbers R^2, which is 1 at best, and the root of the mean squared
    error, in the targets' own units.
    """
    saved, preparation, samples = workflow.open_samples(net, data, device)
    workflow.check_samples(saved, preparation, samples.x, samples.y)
    click.echo(aligned(report.about_predictions(saved, preparation, samples)))


@commands.command(epilog=examples("backprop-gpu info", "backprop-gpu info net.safetensors"))
@click.argument("net", required=False, type=FILE)
def info(net: Path | None) -> None:
    """Say what is installed and which device is taken, and why; or what is in the file NET."""
    if net is None:
        rows = about_machine()
    else:
        rows = report.about_network(*workflow.open_network(net, "cpu"))
    click.echo(aligned(rows))


@commands.command(
    epilog=examples(
        "backprop-gpu benchmark",
        "backprop-gpu benchmark --network small --batch 64 --device cpu --seconds 0.2",
        "backprop-gpu benchmark --network textbook --network small -o times.json",
    )
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    help="textbook, small, tabular, wide, large; repeatable.  [default: all but large]",
)
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1), help="Batch size.")
@click.option(
    "--device", "devices", multiple=True, callback=device_name, help="[default: cpu and cuda]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.001, 3600),
    default=1.0,
    show_default=True,
    help="About how long to time a pass, and again its matrix products.",
)
@click.option("-o", "--output", type=FILE, help="A .json file to write.")
def benchmark(
    networks: tuple[str, ...],
    batches: tuple[int, ...],
    devices: tuple[str, ...],
    seconds: float,
    output: Path | None,
) -> None:
    """Time passes and training steps on this machine, beside its own matrix products.

    On two CPU cores it takes about a minute, and the network large two more. On a terminal it says
    what is being timed.
    """
    from backprop_gpu.benchmark.speed import run_benchmark

    if output is not None:
        tables.known_suffix(output, [".json"])
        check_writable(output)
    say = partial(click.echo, err=True) if on_a_terminal() else lambda text: None
    table = run_benchmark(
        networks or None, batches or None, devices or ("cpu", "cuda"), seconds, output, say
    )
    click.echo(table)


@commands.command(epilog=examples("backprop-gpu demo", "backprop-gpu demo --picture curves.png"))
@click.option(
    "--picture",
    type=FILE,
    default="backprop_gpu_demo.png",
    show_default=True,
    help="Where the loss curves go.",
)
@device_option
def demo(picture: Path, device: str) -> None:
    """Train the textbook network, then classify handwritten digits, and draw the loss curves."""
    from backprop_gpu.cli.demo import run_demo

    tables.known_suffix(picture, [".png"])
    check_writable(picture)
    run_demo(device, picture, say=click.echo)


commands.add_command(explain_command)

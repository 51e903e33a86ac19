"""What the command line says about this machine, about a network and about its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backprop_gpu import MLP, History
from backprop_gpu.cli.preparation import Preparation, names_of_outputs
from backprop_gpu.cli.tables import Samples
from backprop_gpu.errors import count_of
from backprop_gpu.saving import SavedNetwork

Rows = list[tuple[str, str]]

MOST = 12  # names that are shown


def device_taken(asked: str, taken: str) -> str:
    """Return the device that was taken, and why, in a line."""
    fallback = asked == "auto" and taken == "cpu"
    return taken + " (no usable GPU: backprop-gpu info says why)" * fallback


def about_network(saved: SavedNetwork, preparation: Preparation) -> Rows:
    """Return what is in a saved network."""
    net = saved.net
    rows = [("network", describe(net))]
    rows += [
        (f"layer {l}", f"{W.shape[1]} -> {W.shape[0]}, {g}")
        for l, (W, _, g) in enumerate(net.layers, start=1)
    ]
    scaled = " (standardized)"
    names = {
        "inputs": _counted(preparation.features, net.layer_sizes[0])
        + scaled * (preparation.of_inputs is not None),
        "outputs": _counted(preparation.targets, net.layer_sizes[-1])
        + scaled * (preparation.of_targets is not None),
        "classes": named(preparation.classes),
    }
    rows += [(name, text) for name, text in names.items() if text]
    known = {"features", "targets", "classes"}
    return rows + [(str(k), f"{v}"[:200]) for k, v in saved.notes.items() if k not in known]


def about_training(history: History, samples: int) -> Rows:
    """Return how a training went."""
    epochs = len(history.loss)
    rate = samples * epochs / max(history.seconds, 1e-9)
    rows = [("training loss", f"{history.loss[0]:.4g} at first, {history.loss[-1]:.4g} at last")]
    how = "" if history.stopped_by == "epochs" else f", ended by {history.stopped_by}"
    best = history.best_epoch
    kept = "" if best is None else f"; the parameters are the best epoch's, number {best + 1:,}"
    rows.append(("epochs", f"{epochs:,}{how}{kept}"))
    rows.append(("time", f"{history.seconds:.2f} s, {rate:,.0f} samples/s"))
    return rows


def about_predictions(saved: SavedNetwork, preparation: Preparation, samples: Samples) -> Rows:
    """Return how well a network predicts what samples hold."""
    net, y = saved.net, samples.y
    x, loss = preparation.inputs(samples.x), str(saved.notes.get("loss", "mse"))
    C = net.loss(x, preparation.outputs(y), loss)
    scaled = " of standardized targets" * (preparation.of_targets is not None)
    rows = [("data", count_of(len(y), "sample")), ("loss", f"{C:.4g}, {loss}{scaled}")]
    answers = preparation.answers(net(x))
    if preparation.classes:
        return [*rows, ("accuracy", f"{(answers == y).mean():.2%}")]
    names = preparation.targets or names_of_outputs(y.shape[1])
    if loss == "binary_cross_entropy" and np.isin(y, (0, 1)).all():  # the loss is the log loss
        right = ((answers > 0.5) == y).mean(axis=0)
        rows += [(name, f"accuracy {share:.2%}") for name, share in zip(names, right, strict=True)]
        return rows
    errors = ((answers - y.astype(np.float64)) ** 2).mean(axis=0)
    for name, error, variance in zip(names, errors, y.var(axis=0, dtype=np.float64), strict=True):
        explained = f"R^2 {1 - error / variance:.4f}, " if variance else ""
        rows.append((name, f"{explained}root mean squared error {np.sqrt(error):.4g}"))
    return rows


def describe(net: MLP) -> str:
    """Return a network in one line."""
    sizes = "-".join(map(str, net.layer_sizes))
    names = ", ".join(map(str, net.activations))
    return f"{sizes}; {names}; {net.dtype}; {net.parameters.size:,} parameters"


def named(names: Sequence[Any]) -> str:
    """Return how many names there are, and the first of them; in quotes where they need them."""
    shown = ", ".join(map(_in_list, names[:MOST])) + (", ..." if len(names) > MOST else "")
    return f"{len(names)}: {shown}" if names else ""


def _in_list(name: Any) -> str:
    text = str(name)
    reads_as_in_list = text and text == text.strip() and "," not in text
    return text if reads_as_in_list else repr(text)


def _counted(names: Sequence[Any], count: int) -> str:
    return named(names) if names else str(count)

"""What `backprop-gpu train` and `predict` do, step by step, without the command line around it.

Everything that can be wrong is found before training starts, the writing of the result included.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import ACTIVATIONS, Activation, LeakyReLU, find_activation
from backprop_gpu.backends import Backend, NumpyBackend, Precision
from backprop_gpu.checks import check_data, check_loss
from backprop_gpu.cli.columns import suffix_of
from backprop_gpu.cli.preparation import (
    Preparation,
    classes_of,
    names_of_outputs,
    preparation_of,
    scaling_of,
)
from backprop_gpu.cli.tables import COLUMNS, Samples, read_samples
from backprop_gpu.errors import DomainError, FileFormatError, UnknownNameError, count_of
from backprop_gpu.files import check_writable
from backprop_gpu.losses import Loss, find_loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import SGD, Adam, AdamW, Optimizer
from backprop_gpu.saving import SavedNetwork, read, save
from backprop_gpu.training.history import History
from backprop_gpu.training.stopping import EarlyStopping
from backprop_gpu.training.train import train

OPTIMIZERS: dict[str, type[SGD] | type[Adam]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
"""Every optimizer that can be named."""


@dataclass(frozen=True)
class Settings:
    """How to train, decided before any data are read.

    Attributes
    ----------
    hidden : tuple of int
        Nodes of the hidden layers.
    activations : tuple of Activation
        Of every layer but the input, or of the hidden layers, or one for all hidden layers; empty
        for the defaults.
    loss, optimizer : Loss, Optimizer
    epochs, batch_size, seed : int
    backend : Backend
    dtype : {"float32", "float64"}
    precision : {"float32", "tf32", "bf16"}
    validation : float
        The share of the samples that is held out.
    patience : int or None
        Epochs without a new best loss that end the training.
    clip_norm : float or None
    standardize, classify : bool
    """

    hidden: tuple[int, ...] = (64,)
    activations: tuple[Activation, ...] = ()
    loss: Loss = field(default_factory=lambda: find_loss("mse"))
    optimizer: Optimizer = field(default_factory=Adam)
    epochs: int = 100
    batch_size: int = 32
    seed: int = 0
    backend: Backend = field(default_factory=NumpyBackend)
    dtype: str = "float32"
    precision: Precision = "float32"
    validation: float = 0.0
    patience: int | None = None
    clip_norm: float | None = None
    standardize: bool = False
    classify: bool = False

    def all_activations(self) -> list[Activation]:
        """Return one activation for every layer but the input, defaults filled in.

        The last layer's default suits the loss; with squared errors it is softmax for classes,
        and identity for numbers.
        """
        count, given = len(self.hidden), list(self.activations)
        if len(given) == count + 1:
            return given
        last = find_activation(self.loss.canonical or ("softmax" if self.classify else "identity"))
        if len(given) == count:
            return [*given, last]
        if len(given) <= 1:
            return (given or [LeakyReLU()]) * count + [last]
        raise DomainError(
            f"{len(given)} activations given and {count} hidden layer(s); expected one for all "
            f"of these, {count} for each, or {count + 1} with the last layer's"
        )


def activations_of(text: str) -> tuple[Activation, ...]:
    """Return the activations that "leaky_relu:0.1,tanh", say, means."""
    return tuple(_activation_of(part) for part in text.split(","))


def _activation_of(text: str) -> Activation:
    name, colon, number = text.strip().partition(":")
    if not colon:
        return find_activation(name)
    if name not in ACTIVATIONS:
        raise UnknownNameError("activation", name, ACTIVATIONS)
    try:
        return ACTIVATIONS[name](float(number))
    except TypeError as error:
        raise DomainError(f"{name} takes no number, and {text!r} gives one") from error
    except ValueError as error:
        raise DomainError(f"{text!r}: {number!r} is no finite number") from error


def optimizer_of(name: str, **settings: Any) -> Optimizer:
    """Return an optimizer; settings that are None keep their defaults."""
    given = {setting: value for setting, value in settings.items() if value is not None}
    kind = OPTIMIZERS[name]
    foreign = [setting for setting in given if setting not in kind.__dataclass_fields__]
    if foreign:
        raise DomainError(f"{foreign[0]} belongs to sgd; the optimizer is {name}")
    optimizer: Optimizer = kind(**given)
    return optimizer


@dataclass(frozen=True)
class Job:
    """A network, and the data to train it on and to judge it by, prepared.

    Attributes
    ----------
    x, y, x_held, y_held : ndarray
        Of the samples to train on, and of those held out (perhaps none).
    """

    settings: Settings
    net: MLP
    preparation: Preparation
    x: NDArray[Any]
    y: NDArray[Any]
    x_held: NDArray[Any]
    y_held: NDArray[Any]

    def train(self, progress: bool) -> History:
        """Train the network."""
        settings = self.settings
        return train(
            self.net,
            self.x,
            self.y,
            loss=settings.loss,
            optimizer=settings.optimizer,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=settings.seed,
            validation=(self.x_held, self.y_held) if len(self.x_held) else None,
            early_stopping=None if settings.patience is None else EarlyStopping(settings.patience),
            clip_norm=settings.clip_norm,
            progress=progress,
        )

    def accuracy(self) -> float:
        """Return the share of the samples held out that the network classifies right."""
        outputs = self.net(self.x_held)
        return float((outputs.argmax(axis=1) == self.y_held.argmax(axis=1)).mean())

    def save(self, path: Path) -> None:
        """Save the network with all that `predict` needs."""
        notes = {**self.preparation.notes(), "loss": self.settings.loss.name}
        save(self.net, path, notes=notes, arrays=self.preparation.arrays())

    def rehearse_saving(self, path: Path) -> None:
        """Raise now whatever `save` would raise after training."""
        check_writable(path)
        try:
            place = os.path.dirname(os.path.realpath(path))
            with tempfile.TemporaryDirectory(prefix=".saving-", dir=place) as folder:
                self.save(Path(folder) / path.name)
        except OSError as error:
            raise FileFormatError(f"{path} can't be written: {error.strerror}") from error


def prepare(settings: Settings, samples: Samples) -> Job:
    """Split the samples, learn the preparation from those to train on, and build the network."""
    kept, held = _split(len(samples.x), settings.validation, settings.seed)
    activations = settings.all_activations()
    any_number = settings.loss.targets == "any" and activations[-1].output_range == (-inf, inf)
    preparation = Preparation(
        samples.features,
        samples.targets,
        classes_of(samples.y) if settings.classify else (),
        scaling_of(samples.x[kept], "x") if settings.standardize else None,
        scaling_of(samples.y[kept], "y")
        if settings.standardize and any_number and not settings.classify
        else None,
    )
    x, y = preparation.inputs(samples.x), preparation.outputs(samples.y)
    net = MLP(
        [x.shape[1], *settings.hidden, y.shape[1]],
        activations,
        device=settings.backend,
        dtype=settings.dtype,
        precision=settings.precision,
        seed=settings.seed,
    )
    check_data(net, x, y, check_loss(net, settings.loss))  # while rows still have their places
    return Job(settings, net, preparation, x[kept], y[kept], x[held], y[held])


def open_network(path: Path, device: str | Backend) -> tuple[SavedNetwork, Preparation]:
    """Return what is in a file that `train` or `save` wrote."""
    try:
        saved = read(path, device=device)
        return saved, preparation_of(saved)
    except UnknownNameError as error:
        raise FileFormatError(f"{path} needs what is not registered here: {error}") from error


def open_samples(
    path: Path, data: tuple[Path, ...], device: str | Backend
) -> tuple[SavedNetwork, Preparation, Samples]:
    """Return a saved network, and samples with the columns that it was trained on."""
    saved, preparation = open_network(path, device)
    in_columns = suffix_of(data[0]) in COLUMNS
    if in_columns and not preparation.targets:
        raise DomainError(
            f"{path} does not know which columns of {data[0]} are its targets; give arrays: "
            "one .npz with x and y, or a pair x.npy y.npy"
        )
    samples = read_samples(
        data,
        preparation.targets if in_columns else (),
        labels=bool(preparation.classes),
        features=preparation.features,
    )
    if samples.y.dtype.kind in "iu" and any(isinstance(c, str) for c in preparation.classes):
        # Of "1", "2" and "x", those that are here happen to be numbers.
        samples = replace(samples, y=samples.y.astype(str))
    return saved, preparation, samples


def check_samples(
    saved: SavedNetwork, preparation: Preparation, x: NDArray[Any], y: NDArray[Any]
) -> None:
    """Raise unless a network can be told what it should have given for x: y."""
    check_columns("inputs", x, saved.net.layer_sizes[0])
    if not preparation.classes:
        check_columns("targets", y, saved.net.layer_sizes[-1])
    elif unknown := set(y.tolist()) - set(preparation.classes):
        raise DomainError(f"the label {min(map(repr, unknown))} is none of the network's classes")


def predict(saved: SavedNetwork, preparation: Preparation, x: NDArray[Any]) -> NDArray[Any]:
    """Return the network's outputs for inputs as a file holds them."""
    check_columns("inputs", x, saved.net.layer_sizes[0])
    outputs: NDArray[Any] = saved.net(preparation.inputs(x))
    return outputs


def check_columns(kind: str, values: NDArray[Any], count: int) -> None:
    """Raise unless there are as many columns as the network was trained on."""
    if values.shape[1] != count:
        raise FileFormatError(
            f"the data have {count_of(values.shape[1], 'column')} of {kind}; the network was "
            f"trained on {count}"
        )


def answer_columns(
    preparation: Preparation, outputs: NDArray[Any], probabilities: bool = False
) -> tuple[list[str], list[NDArray[Any]]]:
    """Return the names and the columns of what is predicted.

    With `probabilities`, the outputs for every class take the labels' place.
    """
    names = list(preparation.targets)
    if preparation.classes and not probabilities:
        return names or ["label"], [preparation.answers(outputs)]
    if probabilities and not preparation.classes:
        raise DomainError("the network predicts numbers, no classes; leave out --probabilities")
    if preparation.classes:
        names = [str(label) for label in preparation.classes]
    else:
        outputs = preparation.answers(outputs)
    return names or names_of_outputs(outputs.shape[1]), list(outputs.T)


def _split(n: int, share: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of the samples to train on, and of those held out, drawn at random."""
    if not 0 <= share < 1:
        raise DomainError(f"validation is {share:g}; expected a share from 0 to below 1")
    held = max(1, round(share * n)) if share else 0
    if held >= n:
        raise DomainError(
            f"holding out {share:g} of {n} sample(s) leaves none to train on; lower the share"
        )
    order = np.random.default_rng(seed).permutation(n) if held else np.arange(n)
    return order[held:], order[:held]

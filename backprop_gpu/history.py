"""What training tells: of every epoch to a callback, of all of them at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from backprop_gpu.mlp import MLP


@dataclass
class History:
    """What happened in training; every list has one entry an epoch.

    Attributes
    ----------
    loss : list of float
        The loss of the training data, each batch's taken before its update and weighted by its
        samples. With one batch an epoch: the loss before the epoch's update.
    validation_loss : list of float
        The loss of the validation data after the epoch; empty without validation data.
    learning_rate : list of float
        At the epoch's first update.
    stopped_by : {"epochs", "early stopping", "callback"}
        What ended the training.
    best_epoch : int or None
        With early stopping, the epoch of the lowest loss.
    seconds : float
        How long it took.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    stopped_by: Literal["epochs", "early stopping", "callback"] = "epochs"
    best_epoch: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Epoch:
    """What a callback is told after an epoch.

    Attributes
    ----------
    number : int
        Counted from 0.
    loss, learning_rate : float
        As in `History`.
    validation_loss : float or None
    net : MLP
        The network as it is now.
    """

    number: int
    loss: float
    validation_loss: float | None
    learning_rate: float
    net: MLP

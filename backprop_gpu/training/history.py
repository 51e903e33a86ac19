"""What training tells: of every epoch to a callback, of all of them at the end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from backprop_gpu.errors import DomainError, count_of
from backprop_gpu.figures import FAINT, INK, check_picture_path, new_figure, save_figure
from backprop_gpu.mlp import MLP

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

BLUE, ORANGE = "#1f6fb2", "#d1652a"


@dataclass
class History:
    """What happened in training; every list has one entry an epoch. Its repr is one line.

    Attributes
    ----------
    loss : list of float
        The loss of the training data: the average of the batches', each taken before its update,
        by their numbers of samples. With one batch an epoch: the loss before the epoch's update.
    validation_loss : list of float
        The loss of the validation data after the epoch; empty without validation data.
    learning_rate : list of float
        At the epoch's first update.
    stopped_by : {"epochs", "early stopping", "callback", "divergence", "interrupt", "error"}
        What ended the training.
    best_epoch : int or None
        With early stopping, the epoch of the lowest loss.
    seconds : float
        How long it took.
    path : {"steps", "fused", "compiled", "one launch"}
        Which way the steps were run; see `plan`.
    precision : str
        What matrix products were computed in: the network's `precision`.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    stopped_by: Literal[
        "epochs", "early stopping", "callback", "divergence", "interrupt", "error"
    ] = "epochs"
    best_epoch: int | None = None
    seconds: float = 0.0
    path: str = "steps"
    precision: str = "float32"

    def __repr__(self) -> str:
        told = [count_of(len(self.loss), "epoch")]
        for name, losses in (("loss", self.loss), ("validation loss", self.validation_loss)):
            if losses:
                told.append(f"{name} {losses[0]:.4g} -> {losses[-1]:.4g}")
        if self.best_epoch is not None:
            told.append(f"best epoch {self.best_epoch:,}")
        if self.stopped_by != "epochs":
            told.append(f"stopped by {self.stopped_by}")
        return f"History({', '.join(told)}; {self.seconds:.3g} s, path {self.path!r})"

    def plot(self, path: str | os.PathLike[str] | None = None, *, ax: Axes | None = None) -> Figure:
        """Draw the losses, and the learning rate where it changes (extra ``plot``).

        Epochs count from 0, as the lists and `best_epoch` do. The losses' axis is logarithmic
        where they are above 0 and the largest is more than 20 times the smallest.

        Parameters
        ----------
        path : path, optional
            Where the figure is saved: .png, .svg or .pdf.
        ax : matplotlib.axes.Axes, optional
            What to draw into. Default: a figure of its own.

        Returns
        -------
        matplotlib.figure.Figure
            To change or to save; a notebook shows it. pyplot does not know it, and need not close
            it.

        Raises
        ------
        DomainError
            If there is no epoch to draw, or the path ends otherwise.
        MissingExtraError
            Without matplotlib.
        """
        target = None if path is None else check_picture_path(path)
        if not self.loss:
            raise DomainError("this history has no epochs to draw; train for one at least")
        if ax is None:
            ax = new_figure("History.plot", figsize=(6.4, 4.0), layout="constrained").subplots()
        lines = _draw_losses(ax, self)
        if len(set(self.learning_rate)) > 1:
            lines += _draw_learning_rate(ax, self.learning_rate)
        # Above the axes, where it hides nothing.
        ax.legend(handles=lines, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
        figure = ax.figure.canvas.figure
        if target is not None:
            save_figure(figure, target)
        return figure


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
    validation_score : float or None
        What an estimator with `early_stopping` watches instead.
    """

    number: int
    loss: float
    validation_loss: float | None
    learning_rate: float
    net: MLP
    validation_score: float | None = None


class TrainingDiverged(ValueError):
    """NaN or infinity arose in training; the network holds its last good parameters again.

    Attributes
    ----------
    epoch : int
        The epoch in which it happened, counted from 0.
    layer : int or None
        The layer (1 to L) where the first value that is not finite arose; None where it was only
        seen in the loss. That is more often so on a GPU, which is not asked at every step.
    history : History
        The epochs before.
    """

    def __init__(self, message: str, epoch: int, layer: int | None, history: History) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.layer = layer
        self.history = history

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.epoch, self.layer, self.history)


def _draw_losses(ax: Axes, history: History) -> list[Line2D]:
    from matplotlib.ticker import MaxNLocator

    curves = [("training", history.loss, BLUE), ("validation", history.validation_loss, ORANGE)]
    lines = []
    for name, losses, colour in curves:
        if losses:
            lines += _draw_curve(ax, losses, label=name, color=colour, linewidth=2)
    if (best := history.best_epoch) is not None:
        watched = history.validation_loss or history.loss
        ring = ax.plot(best, watched[best], "o", color=INK, label=f"best epoch, {best:,}")
        ring[0].set(markersize=9, markerfacecolor="none")
        lines += ring
    values = [*history.loss, *history.validation_loss]
    if min(values) > 0 and max(values) > 20 * min(values):
        ax.set_yscale("log")
    ax.set(xlabel="epoch", ylabel="loss")
    ax.xaxis.set_major_locator(
        MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.grid(which="major", color="#dddddd", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    return lines


def _draw_learning_rate(ax: Axes, rates: Sequence[float]) -> list[Line2D]:
    twin = ax.twinx()
    twin.set_zorder(ax.get_zorder() - 1)  # the losses are drawn over it
    ax.patch.set_visible(False)
    twin.set_ylabel("learning rate", color=FAINT)
    twin.tick_params(axis="y", colors=FAINT)
    twin.spines[["top", "right"]].set_visible(False)
    return _draw_curve(twin, rates, label="learning rate", color=FAINT, linestyle="dashed")


def _draw_curve(ax: Axes, values: Sequence[float], **style: Any) -> list[Line2D]:
    marker = "o" if len(values) == 1 else ""  # a line of one point can't be seen
    return ax.plot(range(len(values)), values, marker=marker, **style)

"""Training: backpropagation again and again, batch after batch, epoch after epoch.

The data set and every buffer live on the network's device. Epochs run in chunks, of which nothing
is read back but the losses, at the end; one epoch is a chunk where something watches every epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np

from backprop_gpu.arrays import Array, ArrayModule
from backprop_gpu.errors import (
    DomainError,
    MissingExtraError,
    TrainingDiverged,
    check_count,
    check_positive,
)
from backprop_gpu.losses import Loss
from backprop_gpu.network import MLP, Gradients, Trace, feed_forward, first_rows, propagate_back
from backprop_gpu.optimizers import SGD, Optimizer, learning_rate_at
from backprop_gpu.shuffle import shuffled
from backprop_gpu.stopping import BestEpoch, EarlyStopping

# Losses are read back from the device after this long, or after an epoch that takes longer.
CHUNK_SECONDS = 0.1


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


Callback = Callable[[Epoch], bool | None]


def train(
    net: MLP,
    x: Any,
    y: Any,
    *,
    loss: str | Loss = "mse",
    optimizer: Optimizer | None = None,
    epochs: int = 1,
    batch_size: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
    validation: tuple[Any, Any] | None = None,
    early_stopping: EarlyStopping | None = None,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = False,
) -> History:
    """Train a network by gradient descent on the gradients of backpropagation.

    Parameters
    ----------
    net : MLP
        Its parameters are changed in place.
    x : array_like, shape (n, inputs)
        The training data, moved to the network's device once.
    y : array_like, shape (n, outputs)
        The desired outputs.
    loss : str or Loss
    optimizer : Optimizer, optional
        Default: ``SGD(learning_rate=0.01)``. Its state (momentum) starts anew in every call.
    epochs : int
        How many times to go through the data; 0 changes nothing.
    batch_size : int, optional
        Samples in a batch; the last one may be smaller. Default: all of them.
    shuffle : bool
        Whether batches are drawn in a new random order every epoch; of no effect on one batch.
    seed : int
        Decides the orders: the same on every device.
    validation : (x, y), optional
        Data whose loss is taken after every epoch.
    early_stopping : EarlyStopping, optional
    clip_norm : float, optional
        Scale the gradient of all parameters together to at most this Euclidean norm.
    clip_value : float, optional
        Clip every entry of the gradient to at most this magnitude.
    callbacks : sequence of callable (Epoch) -> bool or None
        Called after every epoch; returning True stops the training.
    progress : bool
        Show a progress bar (extra ``progress``).

    Returns
    -------
    History

    Raises
    ------
    TrainingDiverged
        If NaN or infinity arises: the network then holds the last parameters that were read to
        have a finite loss, those at the beginning of an epoch.
    ShapeError, DtypeError, NonFiniteError, DomainError, UnknownNameError
        Before anything is changed.
    """
    entry = net.check_loss(loss)
    optimizer = SGD() if optimizer is None else optimizer
    if isinstance(optimizer, type) or not hasattr(optimizer, "update"):
        raise DomainError(f"optimizer is {optimizer!r}; expected one like SGD(learning_rate=0.01)")
    check_count("epochs", epochs, least=0)
    check_count("seed", seed, least=0)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
        if limit is not None:
            check_positive(name, limit)
    x, y = net.check_data(x, y, entry)
    held_out = None if validation is None else net.check_data(*validation, entry, "_validation")

    batch_size = min(batch_size or len(x), len(x))
    order_seed = seed if shuffle and batch_size < len(x) else None
    clip = _clipping(net.backend.xp, clip_norm, clip_value)

    watch = _Watch(net, entry, held_out, callbacks, early_stopping)
    history = History()
    started = time.perf_counter()
    with net.backend.computing(), _progress_bar(progress, epochs) as advance:
        steps = _Steps(net, x, y, entry, optimizer, batch_size, order_seed, clip)
        epoch, chunk = 0, 1
        while epoch < epochs:
            chunk = min(chunk, epochs - epoch)
            before = time.perf_counter()
            steps.run(range(epoch, epoch + chunk), history)
            advance(chunk, history.loss[-1])
            epoch += chunk
            if watch.wants_to_stop(history):
                break
            if not watch.every_epoch and time.perf_counter() - before < CHUNK_SECONDS:
                chunk *= 2
        steps.check_last_update(history)
    watch.finish(history)
    history.seconds = time.perf_counter() - started
    return history


class _Watch:
    """What looks at every epoch: validation data, callbacks, early stopping."""

    def __init__(
        self,
        net: MLP,
        loss: Loss,
        held_out: tuple[Array, Array] | None,
        callbacks: Sequence[Callback],
        rule: EarlyStopping | None,
    ) -> None:
        self.net, self.loss, self.held_out, self.callbacks = net, loss, held_out, callbacks
        self.best = None if rule is None else BestEpoch(rule, net)
        self.every_epoch = held_out is not None or rule is not None or bool(callbacks)

    def wants_to_stop(self, history: History) -> bool:
        """Look at the epoch that has just ended; write down why training stops, if it does."""
        if not self.every_epoch:
            return False
        number, loss = len(history.loss) - 1, history.loss[-1]
        watched_loss, validation_loss = loss, None
        if self.held_out is not None:
            watched_loss = validation_loss = self.net.checked_loss(*self.held_out, self.loss)
            history.validation_loss.append(validation_loss)
        epoch = Epoch(number, loss, validation_loss, history.learning_rate[-1], self.net)
        if any([callback(epoch) for callback in self.callbacks]):  # all are called
            history.stopped_by = "callback"
            return True
        if self.best is not None and self.best.is_too_old(number, watched_loss):
            history.stopped_by = "early stopping"
            return True
        return False

    def finish(self, history: History) -> None:
        """Give the network its best parameters back, if early stopping says so."""
        if self.best is not None and history.loss:
            history.best_epoch = self.best.epoch
            self.best.restore()


class _Steps:
    """The inside of the training loop: buffers that are allocated once, and the step."""

    def __init__(
        self,
        net: MLP,
        x: Array,
        y: Array,
        loss: Loss,
        optimizer: Optimizer,
        batch_size: int,
        seed: int | None,
        clip: Callable[[Array], None],
    ) -> None:
        self.net, self.x, self.y, self.loss, self.optimizer = net, x, y, loss, optimizer
        self.batch_size, self.seed, self.clip = batch_size, seed, clip
        self.step, self.decayed = 0, net.weight_count
        n, backend = len(x), net.backend
        starts = range(0, n, batch_size)
        self.batches = [slice(start, min(start + batch_size, n)) for start in starts]
        self.shares = np.array([(batch.stop - batch.start) / n for batch in self.batches])

        # Batches are copied to where the first one lies, so that every step has the same arrays.
        self.x_batch, self.y_batch = x, y
        if len(self.batches) > 1:
            self.x_batch = backend.empty((batch_size, x.shape[1]), net.dtype)
            self.y_batch = backend.empty((batch_size, y.shape[1]), net.dtype)
        keep_z = [g.derivative_from == "z" for g in net.activations]
        keep_z[-1] |= loss.is_canonical_for(net.activations[-1])
        trace = net.new_trace(self.x_batch, keep_z=keep_z)
        gradients = net.new_gradients(batch_size, share=True)
        rest = n - self.batches[-1].start
        self.spaces = {
            batch_size: (trace, gradients),
            rest: first_rows(trace, gradients, rest),
        }
        self.state = [backend.xp.zeros_like(net.parameters) for _ in range(optimizer.slots)]
        self.good = net.parameters.copy()

    def run(self, epochs: range, history: History) -> None:
        """Run a chunk of epochs and append to their history.

        A chunk's first loss is read at once: if it is finite, the parameters that have it are the
        last that are known to be good. On the CPU, where reading is free, every loss is.
        """
        net = self.net
        reads_all = net.device == "cpu"
        losses = net.backend.empty((len(epochs), len(self.batches)), net.dtype)
        rates: list[float] = []
        for row, epoch in enumerate(epochs):
            order = None
            if self.seed is not None:
                order = shuffled(len(self.x), epoch, self.seed, net.backend.xp)
            for i, batch in enumerate(self.batches):
                trace, gradients, y = self._load(batch, order)
                C = losses[row, i : i + 1]
                feed_forward(net.backend, net.layers, trace)
                propagate_back(net.backend, net.layers, trace, y, self.loss, gradients, C)
                if reads_all or row == i == 0:
                    if not math.isfinite(C[0]):
                        self._report(losses[:row], rates, epochs, history)
                        self._give_up(epoch, self._first_bad_layer(trace), history)
                    if i == 0:
                        self.good[...] = net.parameters
                rate = learning_rate_at(self.optimizer, epoch + i / len(self.batches))
                if i == 0:
                    rates.append(rate)
                self._update(gradients, rate)
        self._report(losses, rates, epochs, history)

    def _report(
        self, losses: Array, rates: Sequence[float], epochs: range, history: History
    ) -> None:
        """Read the losses of some epochs and append them to the history."""
        means = self.net.backend.to_numpy(losses).astype(np.float64) @ self.shares
        for epoch, mean, rate in zip(epochs, means, rates, strict=False):
            if not math.isfinite(mean):
                self._give_up(epoch, None, history)
            history.loss.append(float(mean))
            history.learning_rate.append(rate)

    def check_last_update(self, history: History) -> None:
        """Give up if the last update, whose loss nobody has seen, left NaN or infinity."""
        finite = self.net.backend.xp.isfinite
        for l, (W, b, _) in enumerate(self.net.layers, start=1):
            if not bool(finite(W).all()) or not bool(finite(b).all()):
                self._give_up(len(history.loss) - 1, l, history)

    def _load(self, batch: slice, order: Array | None) -> tuple[Trace, Gradients, Array]:
        """Bring a batch to its place; return its trace, its gradients and its targets."""
        count = batch.stop - batch.start
        y = self.y_batch[:count]
        if len(self.batches) > 1:
            x = self.x_batch[:count]
            if order is None:
                x[...], y[...] = self.x[batch], self.y[batch]
            else:
                self.net.backend.gather(self.x, order[batch], x)
                self.net.backend.gather(self.y, order[batch], y)
        return (*self.spaces[count], y)

    def _update(self, gradients: Gradients, rate: float) -> None:
        flat, parameters = gradients.flat, self.net.parameters
        self.step += 1
        self.clip(flat)
        self.net.backend.update(
            self.optimizer, parameters, flat, self.state, rate, self.step, self.decayed
        )

    def _first_bad_layer(self, trace: Trace) -> int | None:
        finite = self.net.backend.xp.isfinite
        for l, a in enumerate(trace.a[1:], start=1):
            if not bool(finite(a).all()):
                return l
        return None

    def _give_up(self, epoch: int, layer: int | None, history: History) -> NoReturn:
        self.net.parameters[...] = self.good
        where = f"layer {layer}" if layer else "the loss"
        raise TrainingDiverged(
            f"NaN or infinity arose in epoch {epoch}, in {where}; training stopped, and the "
            "network holds its last good parameters. Try a lower learning rate, clip_norm=1, or "
            "data scaled to about -1 to 1",
            epoch,
            layer,
            history,
        )


def _clipping(
    xp: ArrayModule, clip_norm: float | None, clip_value: float | None
) -> Callable[[Array], None]:
    """Return what clips a flat gradient in place, without reading anything back."""

    def clip(flat: Array) -> None:
        if clip_value is not None:
            xp.clip(flat, -clip_value, clip_value, out=flat)
        if clip_norm is not None:
            peak = xp.maximum(xp.abs(flat).max(), np.finfo(flat.dtype).tiny)
            scaled = flat / peak  # the square of a large entry would overflow
            flat *= xp.minimum(clip_norm / peak / xp.sqrt(xp.dot(scaled, scaled)), 1)

    return clip


@contextmanager
def _progress_bar(show: bool, epochs: int) -> Iterator[Callable[[int, float], None]]:
    """Yield what moves the bar on by some epochs."""
    if not show:
        yield lambda count, loss: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise MissingExtraError("tqdm", "progress", "progress=True") from error
    with tqdm(total=epochs, unit="epoch") as bar:

        def advance(count: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3e}", refresh=False)
            bar.update(count)

        yield advance

"""Training: backpropagation again and again, batch after batch, epoch after epoch.

`train` checks its arguments and `plan` chooses the path; a `Run` then goes through the epochs.
Arrays live on the network's device; data in files are streamed to it.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from typing import Any

from backprop_gpu.arrays import Array, step_flops
from backprop_gpu.backends import Backend
from backprop_gpu.checks import check_data, check_loss, check_parameters
from backprop_gpu.errors import (
    DomainError,
    MissingExtraError,
    brief,
    check_count,
    check_positive,
)
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP, check_network
from backprop_gpu.optimizers import SGD, Optimizer, check_optimizer, learning_rate_at
from backprop_gpu.passes import loss_of
from backprop_gpu.training.batches import ArrayBatches, shuffled_batches
from backprop_gpu.training.checkpoints import Checkpoints
from backprop_gpu.training.glimpse import glimpse_of
from backprop_gpu.training.history import Epoch, History
from backprop_gpu.training.paths.step import Limits
from backprop_gpu.training.planned import planned_steps
from backprop_gpu.training.planning import PathName, plan
from backprop_gpu.training.run import Run
from backprop_gpu.training.stopping import BestEpoch, EarlyStopping
from backprop_gpu.training.streams import StreamBatches, stream_batches
from backprop_gpu.training.weighting import WeightedBatches, weigh

Callback = Callable[[Epoch], bool | None]


def train(
    net: MLP,
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
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
    clip_sample_norm: float | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool | Callable[[Run], None] = False,
    path: PathName = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float | None = None,
    checkpoint_keep: int | None = None,
    resume: bool = False,
) -> History:
    """Train a network by gradient descent on the gradients of backpropagation.

    Parameters
    ----------
    net : MLP
        Its parameters are changed in place.
    x : array_like, shape (n, inputs)
        The training data, moved to the network's device once. Data in files (a `numpy.memmap`,
        an HDF5 or Zarr dataset, `ParquetColumns`, anything that has a shape and can be sliced)
        are streamed instead: read a window at a time, in the background.
    y : array_like, shape (n, outputs)
        The desired outputs. If y is None, x is an iterable of batches (x, y), or a function of
        the epoch that returns one. It needs a ``len()`` for a learning rate that changes within an
        epoch.
    sample_weight : array_like, shape (n,), optional
        How much each sample of arrays in memory counts, 0 or above: the loss of a batch is
        ``C = sum_i w_i C_i / sum_i w_i``, here and in `History.loss`. Samples of weight 0 are left
        out. Default: all count the same.
    loss : str or Loss
    optimizer : Optimizer, optional
        Default: ``SGD(learning_rate=0.01)``. Its state (momentum) starts anew in every call.
    epochs : int
        How many times to go through the data; 0 changes nothing.
    batch_size : int, optional
        Samples in a batch; the last batch may be smaller. Default: all samples. Streamed data
        need it.
    shuffle : bool
        Whether every epoch takes the samples in a new random order; no effect on a single batch.
    seed : int
        Decides these orders, which are the same on every device.
    validation : (x, y), optional
        Data whose loss is computed after every epoch; all of them count the same.
    early_stopping : EarlyStopping, optional
    clip_norm : float, optional
        Scale the gradient of all parameters together to at most this Euclidean norm.
    clip_value : float, optional
        Clip every entry of the gradient to at most this magnitude.
    clip_sample_norm : float, optional
        Scale every sample's own gradient to at most this norm before averaging, so that no single
        sample moves the network far. With `sample_weight` it is times ``n w_i / sum_i w_i`` first.
    callbacks : sequence of callable (Epoch) -> bool or None
        Called after every epoch. The training stops if one returns True, or raises.
    progress : bool or callable (Run)
        True shows a progress bar (extra ``progress``), with the loss, samples a second and the
        time that is left, on a terminal or in a notebook. A function is called about ten times a
        second with the `Run` so far; the training stops if it raises.
    path : {"auto", "steps", "fused", "compiled", "one launch"}
        How the steps are run; `plan` says which path "auto" takes, and why. All paths give the
        same results to rounding.
    checkpoint : path, optional
        A folder for checkpoints of the run (extra ``io``), to resume it after it was killed.
    checkpoint_every : float, optional
        Epochs from one checkpoint to the next; 0.1 writes ten in an epoch. Default: 1.
    checkpoint_keep : int, optional
        How many of the newest checkpoints are kept. Default: 3.
    resume : bool
        Go on from the newest checkpoint in the folder, if there is one. Give the same arguments
        (`epochs` may be more). `net` gets the checkpoint's parameters, and ends with those of a run
        without interruption, to the bit on the same device.

    Returns
    -------
    History

    Raises
    ------
    TrainingDiverged
        If NaN or infinity arises: the network then holds the last parameters that are known to
        have a finite loss, those at the beginning of an epoch.
    KeyboardInterrupt, Exception
        On Ctrl-C, or if a callback, `progress` or the data raise: the network holds the parameters
        of the steps made, with early stopping too, and perhaps a part of the step under way. The
        exception has the epochs as `history`, unless it comes before the first step; those of the
        last 0.1 s may be missing.
    OutOfMemoryError
        If a GPU has too little memory even for parts of a batch: the network holds the parameters
        of the steps made.
    ShapeError, DtypeError, NonFiniteError, DomainError, UnknownNameError
        If an argument is wrong; nothing has changed then.
    FileFormatError
        If a checkpoint can't be written or read, or if the folder holds some and `resume` is
        False.
    """
    check_network(net)
    entry = check_loss(net, loss, to_learn=True)
    optimizer = SGD() if optimizer is None else optimizer
    epochs = check_count("epochs", epochs, least=0)
    seed = check_count("seed", seed, least=0)
    if batch_size is not None:
        batch_size = check_count("batch_size", batch_size)
    limits = Limits(clip_value, clip_norm, clip_sample_norm)
    for name, limit in limits._asdict().items():
        if limit is not None:
            check_positive(f"clip_{name}", limit)
    _check_helpers(optimizer, validation, early_stopping, callbacks)
    check_parameters(net)
    if net.device == "cpu" and not net.parameters.flags.writeable:
        raise DomainError("net.parameters is read-only, and training changes it in place")
    order_seed = seed if shuffle else None
    stream = stream_batches(net, x, y, entry, batch_size=batch_size, epochs=epochs, seed=order_seed)
    batches: ArrayBatches | StreamBatches
    weighs = False
    if stream is None:
        x, y, weighs = weigh(*check_data(net, x, y, entry), sample_weight, net.backend)
        batches = shuffled_batches(x, y, batch_size or len(x), order_seed, net.backend)
    elif sample_weight is None:
        batches = stream
        if stream.length is None:
            _check_rate_within_epochs(optimizer, epochs)
    else:
        raise DomainError(
            "sample_weight is for arrays in memory, and these data are streamed; give all of x and "
            "y as two arrays, or give the loss a weight that depends on y"
        )
    held_out = None if validation is None else check_data(net, *validation, entry, "_validation")
    checkpoints = Checkpoints(
        checkpoint, checkpoint_every, checkpoint_keep, resume=resume, activations=net.activations
    )
    if path == "auto":
        path = checkpoints.path_of_newest(net.device) or path
    chosen = plan(
        net,
        samples=batches.samples or 1,
        loss=entry,
        optimizer=optimizer,
        epochs=epochs,
        batch_size=batch_size,
        path=path,
        streams=stream is not None,
        weighted=weighs,
        singly=_needs_single_steps(stream, limits),
    )
    watch = _Watch(net, entry, held_out, callbacks, early_stopping)
    history = History(path=chosen.path, precision=net.precision)
    with (
        net.backend.computing(step_flops(net.layer_sizes, batches.batch_size)),
        _progress_bar(progress, epochs) as advance,
        closing(stream) if stream else nullcontext(),
        _clocked(history, epochs, net.backend),
    ):
        steps, history.path = planned_steps(
            net,
            WeightedBatches(batches) if weighs else batches,
            entry,
            optimizer,
            chosen,
            insists=path == chosen.path,
            stacklevel=3,
            seed=order_seed,
            limits=limits,
        )
        run = Run(steps, history)
        # Weights apart: beside large targets, a sum of both would hide them.
        learned = (x, y[:, :-1], y[:, -1:]) if weighs else (x, y)
        in_memory = (*(() if stream else learned), *(held_out or ()))
        checkpoints.restore(
            run,
            watch.best,
            loss=entry.name,
            path=history.path,
            samples=batches.samples,
            precision=net.precision,
            streamed=stream is not None,
            seed=seed,
            shuffle=shuffle,
            **{f"clip_{name}": limit for name, limit in limits._asdict().items()},
            validation=held_out and len(held_out[0]),
            early_stopping=repr(early_stopping),
            data=glimpse_of(*in_memory) if checkpoint is not None else [],
        )
        before = net.parameters.copy() if optimizer.cuda is None else None
        for _ in run.chunks(
            0 if watch.stopped_before(history) else epochs,
            one_by_one=watch.every_epoch,
            stop_every=checkpoints.steps_between(batches.per_epoch),
        ):
            advance(run)
            stops = not run.losses and watch.wants_to_stop(history, steps.safe.parameters)
            checkpoints.write_if_due(run, watch.best)
            if before is not None and not run.losses and history.learning_rate[-1] > 0:
                if bool((net.parameters == before).all()):
                    warnings.warn(
                        f"{type(optimizer).__name__} has changed no parameter; its update has to "
                        "change p in place, as p -= ... and p[...] = ... do",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                before = None
            if stops:
                break
        run.check_last_update()
        checkpoints.write_if_due(run, watch.best, last=True)
        watch.finish(history)
    return history


class _Watch:
    """Looks at every epoch: for validation data, callbacks and early stopping."""

    def __init__(
        self,
        net: MLP,
        loss: Loss,
        held_out: tuple[Array, Array] | None,
        callbacks: Sequence[Callback],
        rule: EarlyStopping | None,
    ) -> None:
        self.net, self.loss, self.held_out, self.callbacks = net, loss, held_out, callbacks
        self.held_out_loss: Callable[[], float] | None = None
        self.best = None if rule is None else BestEpoch(rule)
        self.every_epoch = held_out is not None or rule is not None or bool(callbacks)

    def wants_to_stop(self, history: History, at_start: Array) -> bool:
        """Look at the epoch that has just ended; if training stops, note why in the history.

        `at_start` are the parameters that the epoch began with.
        """
        if not self.every_epoch:
            return False
        number, loss = len(history.loss) - 1, history.loss[-1]
        watched_loss, parameters, validation_loss = loss, at_start, None
        if self.held_out is not None:
            if self.held_out_loss is None:  # made late: training gets its memory first
                self.held_out_loss = loss_of(self.net, *self.held_out, self.loss)
            watched_loss = validation_loss = self.held_out_loss()
            parameters = self.net.parameters
            history.validation_loss.append(validation_loss)
        epoch = Epoch(number, loss, validation_loss, history.learning_rate[-1], self.net)
        if self.best is not None and self.best.is_too_old(number, watched_loss, parameters):
            history.stopped_by = "early stopping"
        if any([callback(epoch) for callback in self.callbacks]):  # a list: all are called
            history.stopped_by = "callback"
        return history.stopped_by != "epochs"

    def stopped_before(self, history: History) -> bool:
        """Return whether early stopping had ended the run that is resumed; if so, note it."""
        done = len(history.loss)
        if self.best is not None and done and self.best.gave_up_at(done - 1):
            history.stopped_by = "early stopping"
        return history.stopped_by != "epochs"

    def finish(self, history: History) -> None:
        """Give the network its best parameters back, if early stopping asks for it."""
        if self.best is not None and history.loss:
            history.best_epoch = self.best.epoch
            self.best.restore(self.net)


def _needs_single_steps(stream: StreamBatches | None, limits: Limits) -> str | None:
    """Return in words what makes `plan` take single steps, or None."""
    if stream is not None and stream.per_epoch is None:
        return "a stream of batches"
    return None if limits.sample_norm is None else "clipping the gradients of samples"


def _check_helpers(
    optimizer: object, validation: object, early_stopping: object, callbacks: Any
) -> None:
    check_optimizer("optimizer", optimizer)
    if validation is not None and not (
        isinstance(validation, tuple | list) and len(validation) == 2
    ):
        raise DomainError(f"validation is {brief(validation)}; expected a pair (x, y)")
    if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
        raise DomainError(f"early_stopping is {brief(early_stopping)}; expected EarlyStopping(...)")
    listed = isinstance(callbacks, list | tuple)
    if not listed or not all(callable(callback) for callback in callbacks):
        raise DomainError(
            f"callbacks is {brief(callbacks)}; expected a list of functions of an Epoch"
        )


def _check_rate_within_epochs(optimizer: Optimizer, epochs: int) -> None:
    """Raise DomainError if the learning rate changes within an epoch."""
    rate = optimizer.learning_rate
    for epoch in range(min(epochs, 1000) if callable(rate) else 0):
        if len({learning_rate_at(optimizer, epoch + k / 99) for k in (0, 9, 50, 75, 98)}) > 1:
            raise DomainError(
                f"the learning rate {brief(rate)} changes within epoch {epoch}, and these batches "
                "have no len(), which says how far within an epoch each of them is; give them "
                "one, or a rate that changes between epochs, lambda epochs: schedule(int(epochs))"
            )


@contextmanager
def _clocked(history: History, epochs: int, backend: Backend) -> Iterator[None]:
    """Measure the time; an exception gets the history, and a note that says what is done."""
    started = time.perf_counter()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        is_interrupt, done = isinstance(error, KeyboardInterrupt), len(history.loss)
        has_begun = bool(history.learning_rate)
        del history.learning_rate[done:]  # of the epoch that has begun
        # It may have a history: TrainingDiverged does, and so does one of a training in a callback.
        if (has_begun or is_interrupt) and "history" not in vars(error):
            history.stopped_by = "interrupt" if is_interrupt else "error"
            vars(error)["history"] = history
            error.add_note(
                f"{done:,} of {epochs:,} epochs are done, which this exception has as `history`; "
                "the network holds the parameters of the steps made"
            )
        raise
    finally:
        backend.synchronize()  # another stream of the GPU may read the network next
        history.seconds = time.perf_counter() - started


@contextmanager
def _progress_bar(
    show: bool | Callable[[Run], None], epochs: int
) -> Iterator[Callable[[Run], None]]:
    """Yield a function that shows how far a run has come."""
    if callable(show) or not show:
        yield show or (lambda run: None)
        return
    try:
        from tqdm import auto
    except ImportError as error:
        raise MissingExtraError("tqdm", "progress", "progress=True") from error
    # None turns the bar off where stderr is no terminal, and a notebook's is none.
    disable = False if "ipykernel" in sys.modules else None
    with auto.tqdm(total=epochs, unit="epoch", disable=disable) as bar:

        def advance(run: Run) -> None:
            samples = run.samples / (bar.format_dict["elapsed"] or 1)
            loss = run.losses[-1] if run.losses else run.history.loss[-1]
            bar.set_postfix_str(f"loss {loss:.3e}, {samples:,.0f} samples/s", refresh=False)
            bar.update(run.epochs_passed - bar.n)
            bar.n = run.epochs_passed  # not a sum of rounded parts

        yield advance

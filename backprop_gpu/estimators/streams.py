"""`partial_fit` on data of any size: one pass, and only what is learned from is in memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from backprop_gpu.arrays import Array, ArrayModule, dense, is_sparse, numeric, step_flops
from backprop_gpu.checks import check_loss
from backprop_gpu.data import (
    IteratedBatches,
    StreamedBatches,
    checked_pair,
    file_reader,
    is_streamed,
)
from backprop_gpu.errors import DomainError, DtypeError, ShapeError, brief, count_of
from backprop_gpu.estimators.base import Y_SHAPES, BaseMLP, check_weights, on_cpu
from backprop_gpu.estimators.batches import NO_WEIGHT, OneBatch
from backprop_gpu.estimators.learner import NON_FINITE, Learner, size_of_batches
from backprop_gpu.estimators.notes import Notes
from backprop_gpu.training.batches import batch_counts
from backprop_gpu.training.streams import StreamBatches
from backprop_gpu.training.weighting import WeightedBatches

CHUNK = 64  # steps between two looks at the losses

Encode = Callable[[Any, slice], NDArray[Any]]
"""Returns the targets of some y, and of which rows they are."""


def is_stream(X: Any, y: Any) -> bool:
    """Return whether `partial_fit` reads these as it learns; without y, X gives pairs (x, y)."""
    if y is None:
        return not hasattr(X, "shape") and (isinstance(X, Iterable) or callable(X))
    return is_streamed(X) or is_streamed(y)


class Stream:
    """Matrices of which at least one is streamed, or pairs (x, y).

    Parameters
    ----------
    estimator : BaseMLP
    X, y : streamed or array_like; or an iterable of pairs, or a function of the epoch, and None

    Attributes
    ----------
    epoch : int
        How many passes there were before: it decides the order.
    backend : Backend
    x_first, y_first : array, ndarray
        Of the first pair, or the first row: they tell the columns, and the dtype.
    """

    def __init__(self, estimator: BaseMLP, X: Any, y: Any) -> None:
        self.X, self.y = X, y
        self.epoch = len(getattr(estimator, "loss_curve_", ()))
        self.backend = estimator._choose_backend()
        if y is None:
            batches = X(self.epoch) if callable(X) else X
            if not isinstance(batches, Iterable):
                raise DtypeError(
                    f"X({self.epoch}) returned {brief(batches)}; expected an iterable of (x, y)"
                )
            pairs = iter(batches)
            first = list(islice(pairs, 1))
            if not first:
                raise ShapeError(f"there are no batches: {type(X).__name__} gave none")
            self._pairs = chain(first, pairs)
            x, y = checked_pair(first[0], 0)
        else:
            if not is_streamed(y):
                self.y = y.tocsr() if is_sparse(y) else self.labels(y)
            x, y = X[0:1], self.y[0:1]
        self.x_first, self.y_first = numeric(dense(x), "X"), self.labels(y)
        shape = tuple(self.x_first.shape)
        if len(shape) != 2:
            raise ShapeError(f"X has rows of shape {shape[1:]}; expected one number per feature")

    def labels(self, y: Any) -> NDArray[Any]:
        """Return some y on the CPU, with one dimension if it has one column."""
        labels = np.asarray(on_cpu(dense(y), self.backend))
        if labels.ndim not in (1, 2):
            raise ShapeError(f"y has shape {labels.shape}; {Y_SHAPES}")
        return labels.ravel() if labels.shape[1:] == (1,) else labels

    def batches(
        self, encode: Encode, batch_size: int | str, seed: int | None, **common: Any
    ) -> IteratedBatches | StreamedBatches:
        """Return the batches, with targets as `encode` makes them."""
        if self.y is None:
            return IteratedBatches(self._encoded_pairs(encode), **common)
        targets = _Encoded(self.y, encode, common["columns"][1], common["dtype"])
        size = size_of_batches(batch_size, max(1, len(targets)))
        return StreamedBatches(self.X, targets, size, seed=seed, **common)

    def _encoded_pairs(self, encode: Encode) -> Generator[tuple[Any, NDArray[Any]], None, None]:
        for number, pair in enumerate(self._pairs):
            x, y = checked_pair(pair, number)
            yield dense(x), encode(y, slice(None))


class _Encoded:
    """Targets as the network has them: a matrix that is encoded as it is read."""

    def __init__(self, y: Any, encode: Encode, columns: int, dtype: np.dtype[Any]) -> None:
        self._y, self._encode = y, encode
        self._read = file_reader(y) if isinstance(y, np.memmap) else None
        self.shape, self.dtype = (int(y.shape[0]), columns), dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        y = self._y[rows]
        if self._read is not None:
            y = np.empty(y.shape, y.dtype)
            self._read(rows.start, y)
        return self._encode(y, rows)


def learn_stream(estimator: BaseMLP, stream: Stream, sample_weight: Any) -> None:
    """Go through a stream once, on from what was learned before.

    Raises
    ------
    ShapeError, DtypeError, DomainError, ValueError
        From shapes, settings and the first samples, before anything is learned.
    NonFiniteError, FileFormatError, DomainError
        From what is read later; what came before has been learned then.
    """
    hidden = estimator.check_settings(incremental=True)
    x, anew = stream.x_first, not estimator._is_trained()
    validate_data(estimator, x, skip_check_array=True, reset=anew)
    encode = _encoder(estimator, stream, sample_weight)
    rng = check_random_state(estimator.random_state)
    outputs = estimator._encode(stream.y_first, None, incremental=True).shape[1]
    if anew:
        sizes = x.shape[1], *hidden, outputs
        net = estimator._new_network(sizes, estimator._dtype(x), stream.backend, rng)
    else:
        net = estimator.network_
    if outputs != net.layer_sizes[-1]:
        raise ShapeError(
            f"y makes {count_of(outputs, 'column')}; the network has "
            f"{count_of(net.layer_sizes[-1], 'output')}"
        )
    loss = check_loss(net, estimator._loss())
    has_weights = encode(stream.y_first, slice(0, 1)).shape[1] > outputs

    def check_targets(y: Array, xp: ArrayModule, name: str) -> None:
        loss.check_targets(y[:, :outputs], xp, name)

    batches = stream.batches(
        encode,
        estimator.batch_size,
        int(rng.randint(np.iinfo(np.int32).max)) if estimator.shuffle else None,
        columns=(net.layer_sizes[0], outputs + has_weights),
        backend=net.backend,
        dtype=net.dtype,
        check_targets=check_targets,
    )
    if anew:
        estimator._start(net)
    estimator.n_outputs_ = outputs
    notes = Notes(estimator, net)
    try:
        with net.backend.computing(step_flops(net.layer_sizes, batches.batch_size or len(x))):
            if isinstance(batches, StreamedBatches) and not has_weights:
                columns = net.layer_sizes[0], outputs
                with closing(StreamBatches(batches, columns, net.backend, net.dtype)) as feed:
                    learner = Learner(estimator, net, loss, feed)
                    total, samples = _learn_files(learner, feed, stream.epoch)
            else:
                batch = OneBatch(net, outputs + has_weights)
                given = WeightedBatches(batch) if has_weights else batch
                learner = Learner(estimator, net, loss, given)
                with closing(batches.epoch(stream.epoch, room=batch.room)) as epoch:
                    total, samples = _learn_batches(learner, epoch, has_weights=has_weights)
        # What is noted is what scikit-learn does.
        notes.take(learner.pass_over(samples), total / samples, None)
        notes.have_stalled(learner.progress)
        if not net.backend.xp.isfinite(net.parameters).all():
            raise ValueError(NON_FINITE)
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=3)
    finally:
        estimator._take(net)


def _encoder(estimator: BaseMLP, stream: Stream, sample_weight: Any) -> Encode:
    """Return what makes targets of some y; with how much the samples count as the last column."""
    if sample_weight is not None and stream.y is None:
        raise DomainError("sample_weight is of arrays, and X gives batches; expected None")
    weights = check_weights(sample_weight, stream.y, stream.backend)

    def encode(y: Any, rows: slice) -> NDArray[Any]:
        y = stream.labels(y)
        targets = estimator._encode(y, None, incremental=True)
        some = estimator._weights(y, None if weights is None else weights[rows], stream.backend)
        return targets if some is None else np.column_stack([targets, some])

    return encode


def _learn_files(learner: Learner, feed: StreamBatches, epoch: int) -> tuple[float, int]:
    """Go through an epoch; return the sum of all samples' losses, and how many there were."""
    samples, batches = feed.stream.samples or 0, feed.per_epoch or 0
    counts = batch_counts(samples, feed.batch_size, np.arange(batches)).astype(np.float64)
    rate, total = learner.progress.learning_rate, 0.0
    for start in range(0, batches, CHUNK):
        some = counts[start : start + CHUNK]
        first = epoch * batches + start
        rates = np.full(len(some), rate)
        losses = learner.learn(range(first, first + len(some)), rates, some)
        if not np.isfinite(losses).all():
            raise ValueError(NON_FINITE)
        total += float((losses * some).sum())
    return total, samples


def _learn_batches(
    learner: Learner, batches: Iterable[tuple[Array, Array]], *, has_weights: bool
) -> tuple[float, int]:
    """Make a step on every batch, all of which come in one place; return what _learn_files does."""
    rate = np.array([learner.progress.learning_rate])
    step, samples, total = learner.progress.steps, 0, 0.0
    for x, y in batches:
        count = float(y[:, -1].sum()) if has_weights else len(x)
        if not count:
            raise ZeroDivisionError(NO_WEIGHT)
        (C,) = learner.learn(range(step, step + 1), rate, np.array([count])).tolist()
        if not math.isfinite(C):
            raise ValueError(NON_FINITE)
        step, samples, total = step + 1, samples + len(x), total + len(x) * C
    return total, samples

"""scikit-learn's solvers "sgd" and "adam": its epochs and its stopping rule, the core's steps."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from backprop_gpu.arrays import Array
from backprop_gpu.estimators.batches import Samples, batches_of
from backprop_gpu.estimators.losses import weighted
from backprop_gpu.history import Epoch
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.network import Gradients, Trace
from backprop_gpu.optimizers import SGD, Adam
from backprop_gpu.steps import Steps

if TYPE_CHECKING:
    from backprop_gpu.estimators.base import BaseMLP

NON_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)
# What is noted while batches are learned.
NOTES = ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_")
# Epochs that are run without a look at them, at most; Ctrl-C takes effect after so many.
CHUNK = 16


@dataclass
class Progress:
    """What a solver carries from one call of `partial_fit` to the next."""

    learning_rate: float
    steps: int = 0
    state: list[Array] = field(default_factory=list)


def fit_stochastic(
    estimator: BaseMLP,
    net: MLP,
    loss: Loss,
    samples: Samples,
    rng: np.random.RandomState,
    *,
    incremental: bool,
) -> None:
    """Train the network; note what happened in the estimator's attributes, as scikit-learn does."""
    if estimator.early_stopping and incremental:
        raise ValueError("partial_fit does not support early_stopping=True")
    if not incremental or estimator._optimizer is None:
        estimator._optimizer = Progress(float(estimator.learning_rate_init))
    _begin_notes(estimator, net)
    held_out = None
    if estimator.early_stopping:
        samples, held_out = _split(estimator, samples, net, rng)
    training = _Training(estimator, estimator._optimizer, net, loss, samples, rng, held_out)
    flops = 6.0 * training.batch_size * net.weight_count
    with net.backend.computing(flops):
        try:
            training.run(1 if incremental else estimator.max_iter, incremental=incremental)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        if held_out is not None:
            net.parameters[...] = net.backend.asarray(estimator._best, net.dtype)


def _begin_notes(estimator: BaseMLP, net: MLP) -> None:
    """Begin what an earlier call has not begun: it may have had another solver, or no scores."""
    if not hasattr(estimator, "loss_curve_"):
        estimator.loss_curve_, estimator._no_improvement_count = [], 0
    if estimator.early_stopping and getattr(estimator, "validation_scores_", None) is None:
        estimator.best_loss_, estimator._best = None, net.parameters.copy()
        estimator.validation_scores_, estimator.best_validation_score_ = [], -np.inf
    if not estimator.early_stopping and getattr(estimator, "best_loss_", None) is None:
        estimator.best_loss_ = np.inf
        estimator.validation_scores_ = estimator.best_validation_score_ = None


def _split(
    estimator: BaseMLP, samples: Samples, net: MLP, rng: np.random.RandomState
) -> tuple[Samples, Samples]:
    """Return the samples to learn from and those to watch the score of."""
    stratify = None
    if is_classifier(estimator) and estimator.n_outputs_ == 1:
        stratify = net.backend.to_numpy(samples.y).astype(bool)
    learned, watched = train_test_split(
        np.arange(len(samples)),
        random_state=rng,
        test_size=estimator.validation_fraction,
        stratify=stratify,
    )
    if len(watched) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your "
            "dataset."
        )
    return samples.take(learned, net.backend), samples.take(watched, net.backend)


class _Training:
    """One call of `fit` or `partial_fit`."""

    def __init__(
        self,
        estimator: BaseMLP,
        progress: Progress,
        net: MLP,
        loss: Loss,
        samples: Samples,
        rng: np.random.RandomState,
        held_out: Samples | None,
    ) -> None:
        self.estimator, self.net, self.samples = estimator, net, samples
        self.progress = progress
        self.rng, self.held_out = rng, held_out
        self.batch_size = _batch_size(estimator.batch_size, len(samples))
        self.order = np.arange(len(samples))
        self.orders: dict[int, NDArray[np.int64]] = {}
        self.squares: list[Any] = []
        batches = batches_of(samples, self.batch_size, self.orders.__getitem__, net.backend)
        self.per_epoch = batches.per_epoch or 1
        starts = np.arange(0, len(samples), self.batch_size)
        self.shares = np.diff(starts, append=len(samples)) / len(samples)
        self.steps = Steps(
            net,
            batches,
            loss if samples.weights is None else weighted(loss),
            _optimizer(estimator),
            self._note_squares if estimator.alpha else None,
        )
        for slot, kept in zip(self.steps.state, progress.state, strict=False):
            if slot.shape == kept.shape:
                slot[...] = net.backend.asarray(kept, net.dtype)
        progress.state = self.steps.state

    def run(self, max_iter: int, *, incremental: bool) -> None:
        """Train until the rule says stop, or for `max_iter` epochs."""
        estimator = self.estimator
        estimator.n_iter_ = 0
        while estimator.n_iter_ < max_iter:
            count = min(self._epochs_without_a_stop(), max_iter - estimator.n_iter_)
            epochs = range(estimator.n_iter_, estimator.n_iter_ + count)
            rates, losses = self._learn(epochs)
            stops = [self._note(*epoch) for epoch in zip(rates, losses, strict=False)]
            if not np.isfinite(losses[-1]):
                if self.held_out is None:
                    raise ValueError(NON_FINITE)
                return
            if self._has_stalled() or any(stops) or incremental:
                return
        warnings.warn(
            f"Stochastic Optimizer: Maximum iterations ({max_iter}) reached and the optimization "
            "hasn't converged yet.",
            ConvergenceWarning,
            stacklevel=5,
        )

    def _epochs_without_a_stop(self) -> int:
        """Return how many epochs can be run before anybody has to look at them.

        Each adds at most 1 to the count of epochs without an improvement.
        """
        estimator = self.estimator
        if self.held_out is not None or estimator.verbose or estimator.callbacks:
            return 1
        left = estimator.n_iter_no_change + 1 - estimator._no_improvement_count
        return int(max(1, min(left, CHUNK)))

    def _learn(self, epochs: range) -> tuple[list[float], list[float]]:
        """Run some epochs; return their learning rates, and losses up to one not finite."""
        estimator, backend = self.estimator, self.net.backend
        rates, sums = self._plan(epochs)
        numbers = np.ones((sums.size, 4))
        numbers[:, 0] = self._step_sizes(np.repeat(rates, self.per_epoch))
        numbers[:, 1] = estimator.alpha / sums
        steps = range(epochs.start * self.per_epoch, epochs.stop * self.per_epoch)
        run, _ = self.steps.run(steps, numbers)
        self.progress.steps += len(steps)

        losses = np.full(len(steps), np.nan)
        losses[: len(run)] = run
        if self.squares:  # the penalty, of the same weights as the loss
            squares = backend.to_numpy(backend.xp.stack(self.squares))
            losses[: len(squares)] += numbers[: len(squares), 1] / 2 * squares
            self.squares.clear()
        of_epochs = losses.reshape(len(epochs), -1) @ self.shares
        good = np.isfinite(of_epochs)
        ran = len(epochs) if good.all() else int(good.argmin()) + 1
        return rates, of_epochs[:ran].tolist()

    def _plan(self, epochs: range) -> tuple[list[float], NDArray[np.float64]]:
        """Draw the epochs' orders; return their learning rates, and how much each batch counts."""
        estimator, n, rates, sums = self.estimator, len(self.samples), [], []
        self.orders.clear()
        for epoch in epochs:
            if estimator.shuffle:
                self.order = self.order[self.rng.permutation(n)]
            self.orders[epoch] = self.order
            sums.append(self.samples.weight_sums(self.order, self.batch_size))
            rates.append(self.progress.learning_rate)
            estimator.t_ += n
            if estimator.solver == "sgd" and estimator.learning_rate == "invscaling":
                decay = (estimator.t_ + 1) ** estimator.power_t
                self.progress.learning_rate = estimator.learning_rate_init / decay
        return rates, np.concatenate(sums)

    def _step_sizes(self, rates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the steps' learning rates: Adam's with both bias corrections in them."""
        estimator = self.estimator
        if estimator.solver == "sgd":
            return rates
        t = self.progress.steps + 1 + np.arange(len(rates))
        return np.asarray(rates * np.sqrt(1 - estimator.beta_2**t) / (1 - estimator.beta_1**t))

    def _note_squares(self, trace: Trace, gradients: Gradients) -> None:
        weights = self.net.parameters[: self.net.weight_count]
        self.squares.append(weights.dot(weights))

    def _note(self, rate: float, loss: float) -> bool:
        """Note an epoch that has ended; return whether a callback wants no more of them."""
        estimator = self.estimator
        estimator.n_iter_ += 1
        estimator.loss_ = loss
        estimator.loss_curve_.append(loss)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")
        if self.held_out is None:
            better = loss <= estimator.best_loss_ - estimator.tol
            estimator.best_loss_ = min(loss, estimator.best_loss_)
        else:
            better = self._note_score(estimator.score_of(self.net, self.held_out))
        estimator._no_improvement_count = 0 if better else estimator._no_improvement_count + 1
        epoch = Epoch(estimator.n_iter_ - 1, loss, None, rate, self.net)
        return any([callback(epoch) for callback in estimator.callbacks])  # all are called

    def _note_score(self, score: float) -> bool:
        """Note the score of the samples held out; return whether it is an improvement."""
        estimator = self.estimator
        estimator.validation_scores_.append(score)
        if estimator.verbose:
            print(f"Validation score: {score:f}")
        best = estimator.best_validation_score_
        if score > best:
            estimator.best_validation_score_ = score
            estimator._best = self.net.parameters.copy()
        return not score < best + estimator.tol

    def _has_stalled(self) -> bool:
        """Return whether training stops; the rate "adaptive" falls five times lower instead."""
        estimator, progress = self.estimator, self.progress
        if estimator._no_improvement_count <= estimator.n_iter_no_change:
            return False
        watched = "Training loss" if self.held_out is None else "Validation score"
        message = (
            f"{watched} did not improve more than tol={estimator.tol:f} for "
            f"{estimator.n_iter_no_change} consecutive epochs."
        )
        if estimator.solver == "sgd" and estimator.learning_rate == "adaptive":
            if progress.learning_rate > 1e-6:
                progress.learning_rate /= 5
                estimator._no_improvement_count = 0
                if estimator.verbose:
                    print(f"{message} Setting learning rate to {progress.learning_rate:f}")
                return False
            message += " Learning rate too small."
        if estimator.verbose:
            print(f"{message} Stopping.")
        return True


def _batch_size(batch_size: int | str, n: int) -> int:
    if isinstance(batch_size, str):  # "auto"
        return min(200, n)
    if batch_size > n:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
            stacklevel=6,
        )
    return min(batch_size, n)


def _optimizer(estimator: BaseMLP) -> SGD | Adam:
    """Return the core's optimizer.

    scikit-learn's Adam is the core's with both corrections 1 and its own step size: there, epsilon
    is added to the square root of what is not yet corrected.
    """
    rate, decay = estimator.learning_rate_init, estimator.alpha
    if estimator.solver == "adam":
        return Adam(rate, estimator.beta_1, estimator.beta_2, estimator.epsilon, decay)
    nesterov = bool(estimator.nesterovs_momentum and estimator.momentum > 0)
    return SGD(rate, estimator.momentum, nesterov, decay)

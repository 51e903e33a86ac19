"""scikit-learn's solvers "sgd" and "adam": its epochs and its stopping rule, the core's steps."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from backprop_gpu.arrays import step_flops
from backprop_gpu.estimators.batches import Samples, batches_of
from backprop_gpu.estimators.checkpoints import FitCheckpoints
from backprop_gpu.estimators.learner import NON_FINITE, Learner, size_of_batches
from backprop_gpu.estimators.notes import Notes
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.training.batches import batch_counts

if TYPE_CHECKING:
    from backprop_gpu.estimators.base import BaseMLP

# Epochs that are run without a look at them, at most; after Ctrl-C so many may be in no note.
CHUNK = 16

# Epochs that steps are planned for, at most: of 14 fits 5 stopped after 25 to 51, and the average,
# counting no more than the 200 of the default `max_iter`, was 137.
PLANNED = 140


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
    if not incremental:
        estimator._optimizer = None
    notes, held_out = Notes(estimator, net), None
    if estimator.early_stopping:
        samples, held_out = _split(estimator, samples, net, rng)
    checkpoints = None
    if estimator.checkpoint is not None:
        checkpoints = FitCheckpoints(estimator, net, rng)
    training = Training(
        estimator, net, loss, samples, rng, held_out, notes, incremental, checkpoints
    )
    with net.backend.computing(step_flops(net.layer_sizes, training.batch_size)):
        try:
            training.run()
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        if held_out is not None:
            net.parameters[...] = net.backend.asarray(estimator._best, net.dtype)


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


class Training:
    """One call of `fit` or `partial_fit`."""

    def __init__(
        self,
        estimator: BaseMLP,
        net: MLP,
        loss: Loss,
        samples: Samples,
        rng: np.random.RandomState,
        held_out: Samples | None,
        notes: Notes,
        incremental: bool,
        checkpoints: FitCheckpoints | None,
    ) -> None:
        self.estimator, self.samples, self.rng = estimator, samples, rng
        self.held_out, self.notes, self.incremental = held_out, notes, incremental
        self.checkpoints = checkpoints
        self.max_iter: int = 1 if incremental else estimator.max_iter
        self.batch_size = size_of_batches(estimator.batch_size, len(samples))
        if estimator.batch_size not in ("auto", self.batch_size):
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=5,
            )
        self.order = np.arange(len(samples))
        self.orders: dict[int, NDArray[np.int64]] = {}
        batches = batches_of(samples, self.batch_size, self.orders.__getitem__, net.backend)
        self.per_epoch = batches.per_epoch or 1
        counts = batch_counts(len(samples), self.batch_size, np.arange(self.per_epoch))
        self.shares = counts / len(samples)
        path = estimator.path
        if path == "auto" and checkpoints is not None:
            path = checkpoints.path_of_newest(net.device) or path
        self.learner = Learner(estimator, net, loss, batches, min(self.max_iter, PLANNED), path)

    def run(self) -> None:
        """Train until the rule says stop, or for `max_iter` epochs."""
        estimator, notes, max_iter = self.estimator, self.notes, self.max_iter
        if self.checkpoints is not None and self.checkpoints.restore(self):
            return
        while estimator.n_iter_ < max_iter:
            count = min(self._epochs_without_a_stop(), max_iter - estimator.n_iter_)
            epochs = range(estimator.n_iter_, estimator.n_iter_ + count)
            rates, losses = self._learn(epochs)
            taken = zip(rates, losses, strict=False)
            stops = [notes.take(rate, loss, self.held_out) for rate, loss in taken]
            if not np.isfinite(losses[-1]):
                if self.held_out is None:
                    raise ValueError(NON_FINITE)
                return
            stopped = notes.have_stalled(self.learner.progress) or any(stops)
            if self.checkpoints is not None and self._is_due(stopped):
                self.checkpoints.write(stopped=stopped)
            if stopped or self.incremental:
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
        if self.checkpoints is not None:
            left = min(left, self.checkpoints.every - estimator.n_iter_ % self.checkpoints.every)
        return int(max(1, min(left, CHUNK)))

    def _is_due(self, stopped: bool) -> bool:
        """Return whether it is time for a checkpoint."""
        assert self.checkpoints is not None
        done: int = self.estimator.n_iter_
        return stopped or done == self.max_iter or done % self.checkpoints.every == 0

    def _learn(self, epochs: range) -> tuple[list[float], list[float]]:
        """Run some epochs; return their learning rates, and losses up to one not finite."""
        rates, sums = self._plan(epochs)
        steps = range(epochs.start * self.per_epoch, epochs.stop * self.per_epoch)
        losses = self.learner.learn(steps, np.repeat(rates, self.per_epoch), sums)
        # Row by row: a product would round as the number of epochs says.
        of_epochs = (losses.reshape(len(epochs), -1) * self.shares).sum(axis=1)
        good = np.isfinite(of_epochs)
        ran = len(epochs) if good.all() else int(good.argmin()) + 1
        return rates, of_epochs[:ran].tolist()

    def _plan(self, epochs: range) -> tuple[list[float], NDArray[np.float64]]:
        """Draw the epochs' orders; return their learning rates, and how much each batch counts."""
        n, rates, sums = len(self.samples), [], []
        self.orders.clear()
        for epoch in epochs:
            if self.estimator.shuffle:
                self.order = self.order[self.rng.permutation(n)]
            self.orders[epoch] = self.order
            sums.append(self.samples.weight_sums(self.order, self.batch_size))
            rates.append(self.learner.pass_over(n))
        return rates, np.concatenate(sums)

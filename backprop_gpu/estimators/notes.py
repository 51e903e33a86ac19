"""What scikit-learn notes after every epoch, in the estimator's attributes; and when it stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backprop_gpu.estimators.batches import Samples
from backprop_gpu.estimators.learner import Progress
from backprop_gpu.mlp import MLP
from backprop_gpu.training.history import Epoch

if TYPE_CHECKING:
    from backprop_gpu.estimators.base import BaseMLP

NAMES = ("loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_")


class Notes:
    """The notes on one call of `fit` or `partial_fit`.

    What an earlier call has not begun is begun: it may have had another solver, or no scores.
    """

    def __init__(self, estimator: BaseMLP, net: MLP) -> None:
        self.estimator, self.net = estimator, net
        estimator.n_iter_ = 0
        if not hasattr(estimator, "loss_curve_"):
            estimator.loss_curve_, estimator._no_improvement_count = [], 0
        if estimator.early_stopping and getattr(estimator, "validation_scores_", None) is None:
            estimator.best_loss_, estimator._best = None, net.parameters.copy()
            estimator.validation_scores_, estimator.best_validation_score_ = [], -np.inf
        if not estimator.early_stopping and getattr(estimator, "best_loss_", None) is None:
            estimator.best_loss_ = np.inf
            estimator.validation_scores_ = estimator.best_validation_score_ = None

    def take(self, rate: float, loss: float, held_out: Samples | None) -> bool:
        """Note an epoch that has ended; return whether a callback wants no more of them."""
        estimator = self.estimator
        estimator.n_iter_ += 1
        estimator.loss_ = loss
        estimator.loss_curve_.append(loss)
        if estimator.verbose:
            print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")
        score = None if held_out is None else estimator.score_of(self.net, held_out)
        if score is None:
            better = loss <= estimator.best_loss_ - estimator.tol
            estimator.best_loss_ = min(loss, estimator.best_loss_)
        else:
            better = self._take_score(score)
        estimator._no_improvement_count = 0 if better else estimator._no_improvement_count + 1
        epoch = Epoch(estimator.n_iter_ - 1, loss, None, rate, self.net, score)
        return any([callback(epoch) for callback in estimator.callbacks])  # all are called

    def _take_score(self, score: float) -> bool:
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

    def have_stalled(self, progress: Progress) -> bool:
        """Return whether training stops; the rate "adaptive" falls five times lower instead."""
        estimator = self.estimator
        if estimator._no_improvement_count <= estimator.n_iter_no_change:
            return False
        watched = "Validation score" if estimator.early_stopping else "Training loss"
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

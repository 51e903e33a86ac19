"""Checkpoints of `fit`: what it takes to go on as if nothing had happened."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from backprop_gpu.errors import DomainError, ShapeError, check_count
from backprop_gpu.saving import SavedNetwork
from backprop_gpu.training.checkpoints import Folder, kind_of, like_parameters, without_addresses
from backprop_gpu.training.glimpse import glimpse_of

if TYPE_CHECKING:
    from backprop_gpu.estimators.base import BaseMLP
    from backprop_gpu.estimators.stochastic import Training
    from backprop_gpu.mlp import MLP

# What may be another when a fit goes on.
FREE = {"max_iter", "verbose", "device", "threads", "path", "callbacks"}
FREE |= {"checkpoint", "checkpoint_every", "resume"}
KEPT = 3  # of the newest


class FitCheckpoints:
    """The checkpoints of one call of `fit`, in the folder that the estimator names.

    Raises
    ------
    DomainError
        If `random_state` is not a number, so that nobody could draw the same again, or if a
        checkpoint is of another fit.
    FileFormatError
        If the folder can't be used, or holds checkpoints and `resume` is False.
    """

    def __init__(self, estimator: BaseMLP, net: MLP, rng: np.random.RandomState) -> None:
        if not isinstance(estimator.random_state, Integral):
            raise DomainError(
                f"checkpoint= needs a number as random_state, so that a fit that goes on draws "
                f"the same again; it is {estimator.random_state!r}"
            )
        every = estimator.checkpoint_every
        self.every = check_count("checkpoint_every", 1 if every is None else every)
        self._rng = rng
        self._folder = Folder(
            estimator.checkpoint, KEPT, resume=estimator.resume, activations=net.activations
        )
        self.path_of_newest = self._folder.path_of_newest

    def restore(self, training: Training) -> bool:
        """Go on from the newest checkpoint, if there is one; return whether the fit had ended."""
        self._training, self._identity = training, _identity_of(training)
        if not self._folder.restore(self._identity, self._take):
            self.write(stopped=False)
        return self._stopped

    def write(self, *, stopped: bool) -> None:
        """Write where the fit is."""
        training, estimator = self._training, self._training.estimator
        net, progress = training.learner.net, training.learner.progress
        to_numpy = net.backend.to_numpy
        arrays: dict[str, Any] = {
            f"optimizer.{i}": to_numpy(slot) for i, slot in enumerate(progress.state)
        }
        _, keys, position, has_gauss, cached = self._rng.get_state()
        arrays |= {"order": training.order, "random": keys}
        arrays["loss_curve"] = np.array(estimator.loss_curve_)
        if estimator.validation_scores_ is not None:
            arrays["scores"] = np.array(estimator.validation_scores_)
            arrays["best"] = to_numpy(estimator._best)
        notes = {
            "random": [int(position), int(has_gauss), float(cached)],
            "solver": [progress.learning_rate, progress.steps, estimator.t_],
            "best": [estimator.best_loss_, estimator.best_validation_score_],
            "stalled": estimator._no_improvement_count,
            "stopped": stopped,
        }
        self._stopped = stopped
        identity = self._identity | {"path": estimator.path_}
        self._folder.write(estimator.n_iter_, net, identity, notes, arrays)

    def _take(self, saved: SavedNetwork) -> None:
        training, estimator = self._training, self._training.estimator
        net, progress = training.learner.net, training.learner.progress
        notes, arrays = saved.notes, saved.arrays
        parameters = like_parameters(net, saved.net.parameters)
        slots = [like_parameters(net, arrays[f"optimizer.{i}"]) for i in range(len(progress.state))]
        best = like_parameters(net, arrays["best"]) if "best" in arrays else None
        order, keys, curve = arrays["order"], arrays["random"], arrays["loss_curve"].tolist()
        if not np.array_equal(np.sort(order), np.arange(len(order))) or len(keys) != 624:
            raise ShapeError("it holds no order of the samples")
        position, has_gauss, cached = notes["random"]
        rate, steps, t = notes["solver"]
        best_loss, best_score = notes["best"]
        scores = arrays["scores"].tolist() if "scores" in arrays else None
        state = "MT19937", keys, int(position), int(has_gauss), float(cached)
        stalled, self._stopped = int(notes["stalled"]), bool(notes["stopped"])

        self._rng.set_state(state)
        net.parameters[...] = parameters
        for slot, kept in zip(progress.state, slots, strict=True):
            slot[...] = kept
        progress.learning_rate, progress.steps = float(rate), int(steps)
        training.order = order
        estimator.t_, estimator.n_iter_ = int(t), len(curve)
        estimator.loss_curve_, estimator.validation_scores_ = curve, scores
        estimator.best_loss_, estimator.best_validation_score_ = best_loss, best_score
        estimator._best, estimator._no_improvement_count = best, stalled
        if curve:
            estimator.loss_ = curve[-1]


def _identity_of(training: Training) -> dict[str, Any]:
    """Return what has to be the same for a fit to go on, as JSON has it."""
    estimator, net = training.estimator, training.learner.net
    samples, parameters = training.samples, estimator.get_params(deep=False).items()
    return {
        "estimator": type(estimator).__name__,
        "layer_sizes": list(net.layer_sizes),
        "dtype": net.dtype.name,
        "device": kind_of(net.device),
        "samples": len(samples),
        "t_ at the beginning": estimator.t_,  # a warm start is another fit than the first
        **{name: without_addresses(value) for name, value in parameters if name not in FREE},
        "data": glimpse_of(samples.x, samples.y, samples.weights),
    }

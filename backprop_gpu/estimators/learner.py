"""scikit-learn's steps, by the core: its learning rates, its penalty of the weights, its Adam."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array
from backprop_gpu.estimators.batches import SparseBatches
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import SGD, Adam, write_factors
from backprop_gpu.training.batches import ArrayBatches, Batches
from backprop_gpu.training.paths.runner import StepRunner
from backprop_gpu.training.planned import planned_steps
from backprop_gpu.training.planning import PathName, plan
from backprop_gpu.training.streams import StreamBatches
from backprop_gpu.training.weighting import WeightedBatches

if TYPE_CHECKING:
    from backprop_gpu.estimators.base import BaseMLP

NON_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and "
    "need to be preprocessed."
)


@dataclass
class Progress:
    """What a solver carries from one call of `partial_fit` to the next."""

    learning_rate: float
    steps: int = 0
    state: list[Array] = field(default_factory=list)


class Learner:
    """The steps of one call of `fit` or `partial_fit`, on from where the estimator's solver is.

    Parameters
    ----------
    estimator : BaseMLP
    net : MLP
    loss : Loss
        Of the samples, without their weights.
    batches : Batches
    epochs : int
        For how many the steps are planned.
    path : {"auto", "steps", "fused", "compiled"}, optional
        Default: the estimator's.
    """

    def __init__(
        self,
        estimator: BaseMLP,
        net: MLP,
        loss: Loss,
        batches: Batches,
        epochs: int = 1,
        path: PathName | None = None,
    ) -> None:
        self.estimator, self.net = estimator, net
        before = estimator._optimizer or Progress(float(estimator.learning_rate_init))
        self.progress = estimator._optimizer = replace(before)  # it may have to be taken back
        self._optimizer = _optimizer(estimator)
        self._steps, estimator.path_ = self._new_steps(
            batches, loss, epochs, path or estimator.path
        )
        for slot, kept in zip(self._steps.state, self.progress.state, strict=False):
            if slot.shape == kept.shape:
                slot[...] = net.backend.asarray(kept, net.dtype)
        self.progress.state = self._steps.state

    def learn(
        self, steps: range, rates: NDArray[np.float64], sums: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Run steps; return their losses with the penalty, NaN from one that is not finite.

        Parameters
        ----------
        steps : range
        rates : ndarray
            The learning rate of every step.
        sums : ndarray
            How much every batch counts: the penalty is shared out by it.
        """
        numbers = np.ones((len(steps), 4))
        numbers[:, 0] = self._step_sizes(rates)
        numbers[:, 1] = self.estimator.alpha / sums
        write_factors(self._optimizer, numbers)
        self.estimator._learns_now()
        run = self._run(steps, numbers)
        self.progress.steps += len(steps)

        losses = np.full(len(steps), np.nan)
        losses[: len(run)] = run
        return losses

    def _run(self, steps: range, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Run steps up to the first whose loss is not finite; return their losses."""
        if self._steps.reads_all:
            return self._steps.run(steps, numbers)[0]
        arrays = self.net.parameters, *self._steps.state
        before = [array.copy() for array in arrays]
        losses, _ = self._steps.run(steps, numbers)
        if not np.isfinite(losses).all():  # nobody looked, and the steps after it were made
            for array, kept in zip(arrays, before, strict=True):
                array[...] = kept
            self._steps.reads_all = True
            losses, _ = self._steps.run(steps, numbers)
            self._steps.reads_all = False
        return losses

    def pass_over(self, samples: int) -> float:
        """Note that an epoch is over; return its learning rate, and choose that of the next."""
        estimator, rate = self.estimator, self.progress.learning_rate
        estimator.t_ += samples
        if estimator.solver == "sgd" and estimator.learning_rate == "invscaling":
            decay = (estimator.t_ + 1) ** estimator.power_t
            self.progress.learning_rate = estimator.learning_rate_init / decay
        return rate

    def _new_steps(
        self, batches: Batches, loss: Loss, epochs: int, path: PathName
    ) -> tuple[StepRunner, PathName]:
        net, optimizer = self.net, self._optimizer
        given = batches.unscaled if isinstance(batches, WeightedBatches) else batches
        chosen = plan(
            net,
            samples=batches.batch_size * (batches.per_epoch or 1),
            loss=loss,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batches.batch_size,
            path=path,
            streams=isinstance(given, StreamBatches),
            singly=_needs_single_steps(net, given),
        )
        return planned_steps(
            net,
            batches,
            loss,
            optimizer,
            chosen,
            insists=path == chosen.path,
            stacklevel=8,
            penalizes=bool(self.estimator.alpha),
        )

    def _step_sizes(self, rates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the steps' learning rates: Adam's with both bias corrections in them."""
        estimator = self.estimator
        if estimator.solver == "sgd":
            return rates
        t = self.progress.steps + 1 + np.arange(len(rates))
        return np.asarray(rates * np.sqrt(1 - estimator.beta_2**t) / (1 - estimator.beta_1**t))


def size_of_batches(batch_size: int | str, n: int) -> int:
    """Return the samples in a batch of n samples altogether."""
    return min(200, n) if isinstance(batch_size, str) else min(batch_size, n)  # or "auto"


def _needs_single_steps(net: MLP, batches: Batches) -> str | None:
    """Return what only single steps can do, in words; see `plan`."""
    if net.device != "cpu":
        return "scikit-learn's order of the samples"
    if isinstance(batches, ArrayBatches | StreamBatches):
        return None
    return "a sparse matrix" if isinstance(batches, SparseBatches) else "a stream of batches"


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

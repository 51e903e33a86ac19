"""scikit-learn's solver "lbfgs": SciPy minimises, the network says the loss and its gradient."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from sklearn.utils.optimize import _check_optimize_result

from backprop_gpu.arrays import dense, step_flops
from backprop_gpu.backends import Backend
from backprop_gpu.estimators.batches import Samples
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.network import feed_forward, propagate_back
from backprop_gpu.training.history import Epoch
from backprop_gpu.training.paths.workspace import Workspace
from backprop_gpu.training.weighting import weighted

if TYPE_CHECKING:
    from backprop_gpu.estimators.base import BaseMLP


def fit_lbfgs(estimator: BaseMLP, net: MLP, loss: Loss, samples: Samples) -> None:
    """Minimise the loss of all samples, with the penalty of the weights; note how it ended."""
    backend, weight_count = net.backend, net.weight_count
    entry = loss if samples.weights is None else weighted(loss)
    (total,) = samples.weight_sums(np.arange(len(samples)), len(samples))
    decay = estimator.alpha / total
    x = backend.asarray(dense(samples.x), net.dtype)
    space = Workspace(net, entry, x, samples.targets(backend)).rows(len(samples))

    def propagate(backend: Backend) -> None:
        trace, y, gradients = space
        feed_forward(backend, net.layers, trace)
        propagate_back(backend, net.layers, trace, y, entry, gradients)

    def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        net.parameters[...] = backend.asarray(parameters, net.dtype)
        repeat()
        weights = parameters[:weight_count]
        gradient = np.array(backend.to_numpy(space.gradients.flat), np.float64)
        gradient[:weight_count] += decay * weights
        return space.gradients.loss + decay / 2 * float(weights @ weights), gradient

    def after_iteration(intermediate_result: OptimizeResult) -> None:
        net.parameters[...] = backend.asarray(intermediate_result.x, net.dtype)
        epoch = Epoch(next(iterations), float(intermediate_result.fun), None, 1.0, net)
        if any([callback(epoch) for callback in estimator.callbacks]):  # all are called
            raise StopIteration

    iterations = count()
    with backend.computing(step_flops(net.layer_sizes, len(samples))):
        repeat = backend.record(propagate)
        estimator._learns_now()
        result: Any = minimize(
            objective,
            np.array(backend.to_numpy(net.parameters), np.float64),
            method="L-BFGS-B",
            jac=True,
            callback=after_iteration if estimator.callbacks else None,
            options={
                "maxfun": estimator.max_fun,
                "maxiter": estimator.max_iter,
                "gtol": estimator.tol,
            },
        )
        net.parameters[...] = backend.asarray(result.x, net.dtype)
    estimator.n_iter_ = _check_optimize_result("lbfgs", result, estimator.max_iter)
    estimator.loss_ = float(result.fun)

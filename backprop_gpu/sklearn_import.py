"""Networks that scikit-learn trained; scikit-learn itself is not needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.arrays import numeric
from backprop_gpu.backends import Backend
from backprop_gpu.errors import DomainError, DtypeError, ShapeError
from backprop_gpu.mlp import MLP

# What scikit-learn calls an activation, where it has another name here.
CORE_NAMES = {"logistic": "sigmoid"}


def from_sklearn(estimator: Any, *, device: str | Backend = "auto", dtype: Any = None) -> MLP:
    """Return the network of a fitted ``MLPClassifier`` or ``MLPRegressor`` of scikit-learn.

    It predicts what a regressor's ``predict`` does, and a classifier's ``predict_proba``: one
    column for every class of ``classes_``, or for every label; of two classes the second one's
    column alone.

    Parameters
    ----------
    estimator : object
        Anything with ``coefs_``, ``intercepts_``, ``activation`` and ``out_activation_``. This
        library's own estimators hand out a copy of their ``network_``.
    device : {"auto", "cpu", "cuda", "cuda:N"} or Backend
    dtype : {"float32", "float64"}, optional
        Default: that of the coefficients.

    Raises
    ------
    DtypeError
        If it is not fitted, or something else.
    DomainError
        If it has an activation that is not registered here.
    """
    kind = type(estimator).__name__
    if isinstance(own := getattr(estimator, "network_", None), MLP):
        return own.copy(device=device, dtype=dtype)
    for name in ("activation", "coefs_", "intercepts_", "out_activation_"):
        if not hasattr(estimator, name):
            unfitted = hasattr(estimator, "activation")
            remedy = (
                "call its fit first"
                if unfitted
                else "a pipeline's is its last step, and a search's its best_estimator_"
            )
            raise DtypeError(
                f"{kind} has no {name}; expected a fitted MLPClassifier or MLPRegressor of "
                f"scikit-learn: {remedy}"
            )
    coefs = [numeric(W, f"coefs_[{i}]") for i, W in enumerate(estimator.coefs_)]
    if not coefs or any(W.ndim != 2 for W in coefs):
        shapes = [W.shape for W in coefs]
        raise ShapeError(f"coefs_ of shapes {shapes}; expected one matrix (inputs, nodes) a layer")
    hidden = [estimator.activation] * (len(coefs) - 1)
    net = MLP(
        [len(coefs[0]), *(W.shape[1] for W in coefs)],
        [_named(name, kind) for name in (*hidden, estimator.out_activation_)],
        device=device,
        dtype=np.result_type(*coefs) if dtype is None else dtype,
    )
    net.set_parameters([W.T for W in coefs], estimator.intercepts_)
    return net


def _named(theirs: Any, kind: str) -> str:
    name: str = CORE_NAMES.get(str(theirs), theirs)
    if name not in tuple(ACTIVATIONS):
        raise DomainError(
            f"the {kind} has the activation {theirs!r}, which is not built in; "
            "register_activation(Activation(...)) makes one known by this name"
        )
    return name

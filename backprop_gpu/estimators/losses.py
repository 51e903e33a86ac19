"""The losses of scikit-learn's networks, as entries for the core.

They are what scikit-learn computes, so that the same data give the same `loss_curve_`, and the
same number of epochs. Its log losses clip the probability of what is right at the machine's
epsilon; the core's cross-entropies, which are exact, would give a higher loss there.
"""

from __future__ import annotations

import numpy as np

from backprop_gpu.arrays import Array, ArrayModule
from backprop_gpu.losses import OF_THE_LIBRARY, Loss

_EPSILON = "(sizeof(real) == 4 ? real(1.1920928955078125e-07) : real(2.220446049250313e-16))"
_MOST = f"(real(1) - {_EPSILON})"
_CLIPPED = f"(a < {_EPSILON} ? {_EPSILON} : a > {_MOST} ? {_MOST} : a)"  # NaN stays NaN


def _half_squared_errors(xp: ArrayModule, a: Array, y: Array) -> Array:
    error = a - y
    error *= error
    return error.sum(axis=1) * (0.5 / a.shape[1])


def _clip(xp: ArrayModule, a: Array) -> Array:
    epsilon = float(np.finfo(a.dtype).eps)
    return xp.clip(a, epsilon, 1 - epsilon)


def _log_loss(xp: ArrayModule, a: Array, y: Array) -> Array:
    return -(y * xp.log(_clip(xp, a))).sum(axis=1)


def _binary_log_loss(xp: ArrayModule, a: Array, y: Array) -> Array:
    a = _clip(xp, a)
    return -(y * xp.log(a) + (1 - y) * xp.log(1 - a)).sum(axis=1)


def _poisson(xp: ArrayModule, a: Array, y: Array) -> Array:
    return (xp.where(y > 0, y * xp.log(y / a), 0) - y + a).sum(axis=1)


SQUARED_ERROR = Loss(
    name="squared_error",
    value=_half_squared_errors,
    gradient=lambda xp, a, y: a - y,  # of m outputs: m times the derivative of the value
    latex=r"\frac{1}{2m} \sum_j (a_j - y_j)^2",
    latex_gradient=r"a_j - y_j",
    canonical="identity",
    cuda="(a - y) * (a - y) / (real(2) * m)",
    cuda_gradient="a - y",
    cuda_canonical="(a - y) * (a - y) / (real(2) * m)",
)

POISSON = Loss(
    name="poisson",
    value=_poisson,
    gradient=lambda xp, a, y: 1 - y / a,
    latex=r"\sum_j y_j \ln \frac{y_j}{a_j} - y_j + a_j",
    latex_gradient=r"1 - \frac{y_j}{a_j}",
    canonical="exp",
    cuda_gradient="real(1) - y / a",
    cuda_canonical="(y > real(0) ? y * log(y / a) : real(0)) - y + a",
)

LOG_LOSS = Loss(
    name="log_loss",
    value=_log_loss,
    gradient=lambda xp, a, y: -y / a,
    latex=r"-\sum_j y_j \ln a_j",
    latex_gradient=r"-\frac{y_j}{a_j}",
    canonical="softmax",
    cuda_gradient="-y / a",
    cuda_canonical=f"y > real(0) ? -y * log({_CLIPPED}) : real(0)",
)

BINARY_LOG_LOSS = Loss(
    name="binary_log_loss",
    value=_binary_log_loss,
    gradient=lambda xp, a, y: (1 - y) / (1 - a) - y / a,
    latex=r"-\sum_j \bigl(y_j \ln a_j + (1 - y_j) \ln (1 - a_j)\bigr)",
    latex_gradient=r"\frac{1 - y_j}{1 - a_j} - \frac{y_j}{a_j}",
    canonical="sigmoid",
    cuda_gradient="(real(1) - y) / (real(1) - a) - y / a",
    cuda_canonical=(f"-(y * log({_CLIPPED}) + (real(1) - y) * log(real(1) - {_CLIPPED}))"),
)

OF_THE_LIBRARY.extend((SQUARED_ERROR, POISSON, LOG_LOSS, BINARY_LOG_LOSS))

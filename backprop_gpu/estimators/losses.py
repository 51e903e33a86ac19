"""The losses of scikit-learn's networks, as entries for the core; and losses of weighted samples.

They are what scikit-learn computes, so that the same data give the same `loss_curve_`, and the
same number of epochs. Its log losses clip the probability of what is right at the machine's
epsilon; the core's cross-entropies, which are exact, would give a higher loss there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array, ArrayModule
from backprop_gpu.losses import Loss

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


@dataclass(frozen=True)
class Weighted(Loss):
    """A loss whose targets have one more column: how much a sample counts, 1 on average."""

    unweighted: Loss | None = None

    def output_delta(
        self,
        xp: ArrayModule,
        activation: Activation,
        z: Array,
        a: Array,
        y: Array,
        C: Array,
        dC_da: Array | None,
        delta: Array | None,
        n: int | None = None,
    ) -> None:
        if delta is None or not self.is_canonical_for(activation):
            super().output_delta(xp, activation, z, a, y, C, dC_da, delta, n)
            return
        dC_da = None if dC_da is delta else dC_da
        super().output_delta(xp, activation, z, a, y, C, dC_da, None, n)
        xp.subtract(a, y[:, :-1], out=delta)
        delta *= y[:, -1:] / (n or len(a))


def weighted(loss: Loss) -> Loss:
    """Return the loss of samples that count differently: their weights are y's last column."""
    of_z = loss.canonical_value

    def value_of_z(xp: ArrayModule, z: Array, y: Array) -> Array:
        assert of_z is not None
        return y[:, -1] * of_z(xp, z, y[:, :-1])

    return Weighted(
        loss.name,
        value=lambda xp, a, y: y[:, -1] * loss.value(xp, a, y[:, :-1]),
        gradient=lambda xp, a, y: y[:, -1:] * loss.gradient(xp, a, y[:, :-1]),
        canonical=loss.canonical,
        canonical_value=None if of_z is None else value_of_z,
        unweighted=loss,
    )

"""Samples that count differently: how much each does is one more column of its targets.

The loss of a batch is the weighted average, C = sum_i w_i C_i / sum_i w_i. The weights of a batch
are brought to 1 on average, so that the 1/n stays in its one place: C = (1/n) sum_i w_i C_i.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array, ArrayModule, check_finite, numeric
from backprop_gpu.backends import Backend
from backprop_gpu.errors import ShapeError, check_not_negative, check_positive
from backprop_gpu.losses import Loss
from backprop_gpu.training.batches import Batches


def weigh(x: Array, y: Array, sample_weight: Any, backend: Backend) -> tuple[Array, Array, bool]:
    """Return the samples that count, and whether they count differently: y has their weights then.

    Parameters
    ----------
    x, y : array, shapes (n, inputs) and (n, outputs)
        On the device.
    sample_weight : array_like, shape (n,), or None

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, DomainError
        If the weights are not one number a sample, 0 or above, or none is above.
    """
    if sample_weight is None:
        return x, y, False
    weights = _checked(sample_weight, len(y), backend)
    # So no batch is without weight: less than this times the largest may be 0 in the dtype.
    counting = np.flatnonzero(weights > float(np.finfo(y.dtype).tiny) * weights.max())
    if len(counting) < len(y):
        with backend.computing(0):
            rows = backend.asarray(counting, np.dtype(np.int64))
            x, y = x[rows], y[rows]
        weights = weights[counting]
    if (weights == weights[0]).all():  # every path can take these, and has the bits of none
        return x, y, False
    return x, with_weights(y, weights, backend), True


def _checked(sample_weight: Any, samples: int, backend: Backend) -> NDArray[np.float64]:
    """Return weights on the CPU."""
    given = numeric(sample_weight, "sample_weight")
    shape = tuple(given.shape)
    if shape != (samples,):
        remedy = "; write numpy.ravel(sample_weight)" if shape == (samples, 1) else ""
        raise ShapeError(
            f"sample_weight has shape {shape}; expected ({samples},): one number per sample{remedy}"
        )
    weights = backend.to_numpy(backend.asarray(given, np.dtype(np.float64)))
    check_finite(weights, "sample_weight", np)
    least = int(weights.argmin())
    check_not_negative(f"sample_weight[{least}]", float(weights[least]))
    with np.errstate(over="ignore"):
        total = float(weights.sum())
    check_positive("the sum of sample_weight", total)
    return weights


def with_weights(y: Array, weights: NDArray[np.float64], backend: Backend) -> Array:
    """Return targets with one more column: the samples' weights, 1 on average."""
    column = backend.asarray(weights[:, None] / weights.mean(), y.dtype)
    with backend.computing(0):
        return backend.xp.concatenate([y, column], axis=1)


class WeightedBatches:
    """Batches whose weights, the last column of their targets, are 1 on average in each."""

    def __init__(self, batches: Batches) -> None:
        self.unscaled, self.per_epoch, self.arrays = batches, batches.per_epoch, batches.arrays

    @property
    def batch_size(self) -> int:
        return self.unscaled.batch_size

    def load(self, step: int) -> int:
        count = self.unscaled.load(step)
        if self.per_epoch != 1:  # those of all samples are so already, and stay to the bit
            weights = self.arrays()[1][:count, -1]
            weights *= count / weights.sum()
        return count


class _Weighted(Loss):
    """A loss whose targets have one more column: how much a sample counts, 1 on average."""

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

    return _Weighted(
        f"weighted {loss.name}",
        value=lambda xp, a, y: y[:, -1] * loss.value(xp, a, y[:, :-1]),
        gradient=lambda xp, a, y: y[:, -1:] * loss.gradient(xp, a, y[:, :-1]),
        canonical=loss.canonical,
        canonical_value=None if of_z is None else value_of_z,
    )

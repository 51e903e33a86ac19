"""What explicit backpropagation gives for next to nothing: the gradient of every single sample.

Sample i's share of dC/dW is the outer product of its delta and its a, so that its squared norm is
|delta_i|^2 |a_i|^2 (Goodfellow, 2015): norms of n gradients, and none of the gradients themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array, ArrayModule, on_gpu
from backprop_gpu.backends import Backend
from backprop_gpu.checks import check_data, check_loss
from backprop_gpu.errors import check_count
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP, check_network
from backprop_gpu.network import Gradients, Trace
from backprop_gpu.passes import pieces


class Outliers(NamedTuple):
    """Rows of the data, the one with the largest gradient first."""

    rows: NDArray[np.int64]
    norms: NDArray[Any]


def per_sample_gradient_norms(
    net: MLP, x: Any, y: Any, loss: str | Loss = "mse", *, by_layer: bool = False
) -> Array:
    """Return the Euclidean norm of every sample's own gradient, dC_i/dW and dC_i/db together.

    Parameters
    ----------
    net : MLP
    x : array_like, shape (n, inputs)
    y : array_like, shape (n, outputs)
    loss : str or Loss
    by_layer : bool
        Whether to return the norms of the layers apart.

    Returns
    -------
    array, shape (n,) or (n, L)
        A NumPy array for a NumPy array; column l - 1 belongs to layer l.

    Examples
    --------
    >>> import backprop_gpu as bp
    >>> net, x, y = bp.textbook(device="cpu")
    >>> grads = net.backward(net.forward(x), y)
    >>> bool(abs(bp.per_sample_gradient_norms(net, x, y)[0] - (grads.flat**2).sum() ** 0.5) < 1e-15)
    True
    """
    check_network(net)
    xp = net.backend.xp
    entry = check_loss(net, loss)
    stays = on_gpu(x)
    x, y = check_data(net, x, y, entry)
    norms = net.backend.empty((len(x), len(net.layers)), net.dtype)
    with net.backend.computing():
        for rows, trace, grads in _backward_in_pieces(net, x, y, entry, input_gradient=False):
            # backward's deltas are of C, the average; C_i is n times as much.
            norms[rows] = layer_norms(xp, trace, grads) * len(trace.output)
        if not by_layer:
            norms = _row_norms(xp, norms)
    return norms if stays else net.backend.to_numpy(norms)


def outliers(net: MLP, x: Any, y: Any, loss: str | Loss = "mse", *, count: int = 10) -> Outliers:
    """Return the rows whose gradients are largest: what the network fits least, or wrong labels.

    Parameters
    ----------
    net, x, y, loss
        As for `per_sample_gradient_norms`.
    count : int
        How many rows, at most.
    """
    check_network(net)
    check_count("count", count)
    norms = net.backend.to_numpy(per_sample_gradient_norms(net, x, y, loss))
    rows = np.argsort(-norms, kind="stable")[:count]
    return Outliers(rows, norms[rows])


def saliency(net: MLP, x: Any, y: Any, loss: str | Loss = "mse") -> Array:
    """Return dC_i/dx for every sample: how its own loss changes with each of its inputs.

    Returns
    -------
    array, shape (n, inputs)
        A NumPy array for a NumPy array.
    """
    check_network(net)
    entry = check_loss(net, loss)
    stays = on_gpu(x)
    x, y = check_data(net, x, y, entry)
    result = net.backend.empty((len(x), net.layer_sizes[0]), net.dtype)
    with net.backend.computing():
        for rows, trace, grads in _backward_in_pieces(net, x, y, entry, input_gradient=True):
            dC_dx = grads.activations[0]
            assert dC_dx is not None
            result[rows] = dC_dx * len(trace.output)
    return result if stays else net.backend.to_numpy(result)


def layer_norms(xp: ArrayModule, trace: Trace, grads: Gradients) -> Array:
    """Return, shape (n, L), the norms of the samples' shares of dC/dW and dC/db in each layer."""
    return xp.stack(
        [
            _row_norms(xp, delta) * xp.hypot(_row_norms(xp, a), 1)  # the bias's input is 1
            for a, delta in zip(trace.a[:-1], grads.deltas, strict=True)
        ],
        axis=1,
    )


def clip_samples(backend: Backend, trace: Trace, grads: Gradients, limit: float) -> None:
    """Scale every sample's gradient to at most a norm, then add them up into dC/dW and dC/db.

    The norm is that of all the network's parameters, of dC_i/dW and dC_i/db. The deltas are
    scaled in place.
    """
    xp, n = backend.xp, len(trace.output)
    norms = _row_norms(xp, layer_norms(xp, trace, grads)) * n
    factors = xp.minimum(limit / xp.maximum(norms, np.finfo(norms.dtype).tiny), 1)
    for a_before, delta, dC_dW, dC_db in zip(
        trace.a[:-1], grads.deltas, grads.weights, grads.biases, strict=True
    ):
        delta *= factors[:, None]
        backend.column_sum(delta, dC_db)
        backend.gemm(delta.T, a_before, out=dC_dW)


def _row_norms(xp: ArrayModule, rows: Array) -> Array:
    """Return the Euclidean norm of every row; squares of large entries don't overflow."""
    peaks = xp.maximum(xp.abs(rows).max(axis=1), np.finfo(rows.dtype).tiny)
    scaled = rows / peaks[:, None]
    return xp.sqrt(xp.einsum("ij,ij->i", scaled, scaled)) * peaks


def _backward_in_pieces(
    net: MLP, x: Array, y: Array, loss: Loss, *, input_gradient: bool
) -> Iterator[tuple[slice, Trace, Gradients]]:
    for rows in pieces(net, len(x)):
        trace = net.forward(x[rows])
        yield rows, trace, net.backward(trace, y[rows], loss, input_gradient=input_gradient)

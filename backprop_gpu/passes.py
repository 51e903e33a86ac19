"""Passes through a network: their memory, many samples in pieces, and small ones recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend
from backprop_gpu.losses import Loss
from backprop_gpu.network import Gradients, Trace, feed_forward
from backprop_gpu.parameters import Views, split

if TYPE_CHECKING:
    from backprop_gpu.mlp import MLP

# Many samples are computed in pieces of rows, so that no layer has more entries than this.
PIECE = 1 << 24

# Small forward passes are recorded, so that the next one allocates nothing: those with at most so
# many numbers in all layers, for at most so many different numbers of samples.
RECORDED, MOST_RECORDED = 1 << 18, 4

Recorded: TypeAlias = dict[tuple[int, int], tuple[Trace, Callable[[], None]]]
"""Forward passes that can be repeated, by the number of samples and the backend's turn."""


def new_trace(net: MLP, x: Array, *, keep_z: Sequence[bool] | None = None) -> Trace:
    """Allocate a trace for x. Where `keep_z` is False, z and a of a layer share memory."""
    n, nodes = len(x), net.layer_sizes[1:]
    keep = [True] * len(nodes) if keep_z is None else keep_z
    a = tuple(net.backend.empty((n, m), net.dtype) for m in nodes)
    z = tuple(
        net.backend.empty((n, m), net.dtype) if kept else shared
        for m, kept, shared in zip(nodes, keep, a, strict=True)
    )
    return Trace((x, *a), z)


def new_gradients(net: MLP, n: int, *, input_gradient: bool = False) -> Gradients:
    """Allocate gradients for n samples."""
    empty, dtype, nodes = net.backend.empty, net.dtype, net.layer_sizes[1:]
    deltas = tuple(empty((n, m), dtype) for m in nodes)
    dC_da = tuple(empty((n, m), dtype) for m in nodes)
    dC_dx = empty((n, net.layer_sizes[0]), dtype) if input_gradient else None
    flat = empty(net.parameters.shape, dtype)
    W, b = split(flat, net.layer_sizes)
    weights, biases = Views("weights", W, net.backend), Views("biases", b, net.backend)
    return Gradients(weights, biases, deltas, (dC_dx, *dC_da), flat, empty((1,), dtype))


def pieces(net: MLP, n: int) -> list[slice]:
    """Return slices of n samples, small enough to bound the memory of a pass."""
    step = max(1, PIECE // max(net.layer_sizes))
    return [slice(start, start + step) for start in range(0, n, step)]


def predict(net: MLP, x: Array, recorded: Recorded) -> Array:
    """Return the output for checked inputs, in new memory."""
    if len(x) * sum(net.layer_sizes) <= RECORDED:
        return _repeat(net, x, recorded)
    output = net.backend.empty((len(x), net.layer_sizes[-1]), net.dtype)
    with net.backend.computing():
        for rows, trace in _traces(net, x):
            feed_forward(net.backend, net.layers, trace)
            output[rows] = trace.output
    return output


def loss_of(net: MLP, x: Array, y: Array, loss: Loss) -> Callable[[], float]:
    """Return a function that computes C anew for checked data.

    All calls compute in the same memory, and each reads once from the device.
    """
    g = net.layers[-1].g
    traces = [*_traces(net, x, keep_last_z=loss.is_canonical_for(g))]
    losses = net.backend.empty((len(traces),), net.dtype)
    shares = [len(trace.output) / len(x) for _, trace in traces]

    def work(backend: Backend) -> None:
        for i, (rows, trace) in enumerate(traces):
            feed_forward(backend, net.layers, trace)
            C = losses[i : i + 1]
            backend.output_delta(loss, g, trace.z[-1], trace.output, y[rows], C)

    with net.backend.computing():
        compute = net.backend.record(work)

    def now() -> float:
        with net.backend.computing():
            compute()
            found: list[float] = net.backend.to_numpy(losses).tolist()
        return sum(C * share for C, share in zip(found, shares, strict=True))

    return now


def _traces(net: MLP, x: Array, *, keep_last_z: bool = False) -> Iterator[tuple[slice, Trace]]:
    """Yield the pieces of x, and a trace for each; the traces share their memory."""
    slices = pieces(net, len(x))
    keep_z = [False] * (len(net.layers) - 1) + [keep_last_z]
    whole = new_trace(net, x[slices[0]], keep_z=keep_z)
    for rows in slices:
        yield rows, whole.first_rows(x[rows])


def _repeat(net: MLP, x: Array, recorded: Recorded) -> Array:
    """Repeat the forward pass that was recorded for this number of samples, or record it."""
    n = len(x)
    with net.backend.computing(2.0 * n * net.weight_count):
        # A recording is taken out while it is used, so another thread records its own. On
        # another stream of a GPU it may still be in use.
        key = n, net.backend.turn()
        trace, replay = taken = recorded.pop(key, None) or _record(net, n)
        trace.a[0][...] = x
        replay()
        output = trace.output.copy()
    if len(recorded) < MOST_RECORDED:
        recorded[key] = taken
    return output


def _record(net: MLP, n: int) -> tuple[Trace, Callable[[], None]]:
    x = net.backend.empty((n, net.layer_sizes[0]), net.dtype)
    trace = new_trace(net, x, keep_z=[False] * len(net.layers))
    return trace, net.backend.record(partial(feed_forward, layers=net.layers, trace=trace))

"""Backpropagation itself: the file to read first.

A network is a list of layers; a layer is weights W, biases b and an activation function g. Layer 0
is the input, L the last layer. Samples are rows, and * multiplies entry by entry. C is the loss,
averaged over the samples of the batch. docs/maths.md has all of the notation.

    forward         z[l] = a[l-1] W[l]^T + b[l]         a[l] = g[l](z[l])          a[0] = x

    backward   1.   dC/da[L]                            from the loss
               2.   delta[l] = dC/dz[l] = dC/da[l] * g'[l](z[l])
               3.   dC/dW[l] = delta[l]^T a[l-1]        dC/db[l] = sum of delta[l] over samples
               4.   dC/da[l-1] = delta[l] W[l]          then 2. for layer l-1

Python counts from 0, so W[l] of the equations is ``layers[l - 1].W``. But a and dC/da begin with
the input, so a[l] is ``trace.a[l]``. `gemm` is the matrix product, as in BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend
from backprop_gpu.errors import count_of
from backprop_gpu.losses import Loss


class Layer(NamedTuple):
    """One layer: its weights W (nodes, inputs), its biases b (nodes,), its activation g."""

    W: Array
    b: Array
    g: Activation

    def __setattr__(self, name: str, value: object) -> None:
        if value is not getattr(self, name):  # it is after `layer.W -= step`, which changes W
            raise AttributeError(
                f"a layer's {name} can't be replaced; for other weights or biases, write "
                "layer.W[...] = array, or net.weights[0] = array"
            )


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """Everything that a forward pass computes, on the network's device. Its repr is one line.

    Attributes
    ----------
    a : tuple of arrays
        a[0] is x, shape (n, inputs); a[l] the output of layer l, shape (n, nodes).
    z : tuple of arrays
        z[l - 1] is the input of the nodes of layer l, shape (n, nodes).
    """

    a: tuple[Array, ...]
    z: tuple[Array, ...]

    @property
    def output(self) -> Array:
        """The prediction, a[L]."""
        return self.a[-1]

    def __repr__(self) -> str:
        return f"Trace({_outline([a.shape[1] for a in self.a], self.output)})"

    def first_rows(self, x: Array) -> Trace:
        """Return a trace for x, in the first rows of this trace's arrays; x may have fewer samples.

        Where z and a of a layer are one array here, they are one in the new trace, too.
        """
        a = tuple(array[: len(x)] for array in self.a[1:])
        kept = zip(self.z, self.a[1:], a, strict=True)
        return Trace((x, *a), tuple(new if z is own else z[: len(x)] for z, own, new in kept))


@dataclass(frozen=True, eq=False, repr=False)
class Gradients:
    """Everything that a backward pass computes, on the network's device. Its repr is one line.

    Attributes
    ----------
    weights, biases : tuple of arrays
        weights[l - 1] is dC/dW of layer l, shaped as W; biases[l - 1] is dC/db.
    deltas : tuple of arrays
        deltas[l - 1] is delta = dC/dz of layer l, shape (n, nodes).
    activations : tuple of arrays
        activations[l] is dC/da of layer l for every sample, shape (n, nodes); activations[0] is
        dC/dx, or None where it was not asked for.
    flat : array
        dC/dW and dC/db of all layers in one array; `weights` and `biases` are views of it.
    C : array, shape (1,)
        The loss of the batch, on the device.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    deltas: tuple[Array, ...]
    activations: tuple[Array | None, ...]
    flat: Array
    C: Array

    @property
    def loss(self) -> float:
        """C as a Python float."""
        return float(self.C[0])

    def __repr__(self) -> str:
        nodes = [self.weights[0].shape[1], *map(len, self.weights)]
        return f"Gradients({_outline(nodes, self.deltas[-1])})"


def _outline(nodes: Sequence[int], last: Array) -> str:
    return f"{'-'.join(map(str, nodes))}; {count_of(len(last), 'sample')}; {last.dtype}"


def feed_forward(backend: Backend, layers: Sequence[Layer], trace: Trace) -> None:
    """Compute z and a of every layer; the trace holds a[0] = x, and takes the rest."""
    for l, (W, b, g) in enumerate(layers, start=1):
        a_before, z, a = trace.a[l - 1], trace.z[l - 1], trace.a[l]
        backend.gemm(a_before, W.T, out=z)  # z = a W^T ...
        backend.bias_activation(z, b, g, a)  # ... + b,  a = g(z)


def propagate_back(
    backend: Backend,
    layers: Sequence[Layer],
    trace: Trace,
    y: Array,
    loss: Loss,
    out: Gradients,
) -> None:
    """Compute the loss and all gradients from a trace and the targets y: equations 1 to 4."""
    output_error(backend, layers, trace, y, loss, out)
    propagate_error(backend, layers, trace, out)


def output_error(
    backend: Backend,
    layers: Sequence[Layer],
    trace: Trace,
    y: Array,
    loss: Loss,
    out: Gradients,
) -> None:
    """Compute the loss, and dC/da and delta of the last layer: equations 1 and 2."""
    g, z, a = layers[-1].g, trace.z[-1], trace.a[-1]
    backend.output_delta(loss, g, z, a, y, out.C, out.activations[-1], out.deltas[-1])


def propagate_error(
    backend: Backend, layers: Sequence[Layer], trace: Trace, out: Gradients
) -> None:
    """Compute the other gradients from those of `output_error`: equations 2 to 4."""
    L = len(layers)
    for l in range(L, 0, -1):
        W, _, g = layers[l - 1]
        a_before, z, a = trace.a[l - 1], trace.z[l - 1], trace.a[l]
        dC_da_before, dC_da, delta = out.activations[l - 1], out.activations[l], out.deltas[l - 1]
        dC_dW, dC_db = out.weights[l - 1], out.biases[l - 1]

        if l == L:
            backend.column_sum(delta, dC_db)  # 3; `output_error` did 2
        else:
            z_or_a = z if g.derivative_from == "z" else a
            backend.delta(dC_da, g, z_or_a, delta, dC_db)  # 2 and 3
        if dC_da_before is not None:
            backend.gemm(delta, W, out=dC_da_before)  # 4, first: in training, 3 may update W
        backend.gemm(delta.T, a_before, out=dC_dW)  # 3

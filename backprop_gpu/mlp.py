"""The class `MLP`: a network, which holds its parameters on a device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array, check_same_rows, float_dtype, on_gpu, weight_count
from backprop_gpu.backends import Backend, Precision, choose_backend
from backprop_gpu.checks import (
    check_data,
    check_inputs,
    check_loss,
    check_targets,
    check_trace,
    checked_activations,
    checked_sizes,
)
from backprop_gpu.errors import DomainError, DtypeError, brief, check_count
from backprop_gpu.initializers import initial_weights
from backprop_gpu.losses import Loss
from backprop_gpu.network import Gradients, Layer, Trace, feed_forward, propagate_back
from backprop_gpu.parameters import Views, assign, checked_copies, split
from backprop_gpu.passes import Recorded, loss_of, new_gradients, new_trace, predict
from backprop_gpu.predictor import PredictionPath, Predictor
from backprop_gpu.summary import summarize

# What is decided when a network is made. Its layers are views of its parameters, and what was
# recorded or compiled for it has their addresses.
OPTIONS = {"layer_sizes", "activations", "dtype", "backend", "device", "threads", "precision"}
FIXED = {"layers", "weights", "biases"} | OPTIONS


class MLP:
    """A multilayer perceptron.

    Parameters
    ----------
    layer_sizes : sequence of int
        Nodes in every layer, the input's first: at least two numbers, each at least 1.
    activations : sequence of str or Activation, optional
        One for every layer but the input. Default: leaky ReLU in hidden layers, identity in the
        last.
    device : {"auto", "cpu", "cuda", "cuda:N"} or Backend
        Where the network lives. "auto" takes a GPU if there is a usable one; `device_reason` says
        why it chose as it did. "cuda" raises where there is none.
    dtype : {"float32", "float64"}
        The type of all numbers; data of another type are converted.
    seed : int
        Decides the initial weights, which are the same on every device.
    initializer : str, optional
        A name from `initializers.INITIALIZERS` for all layers. Default: what suits each
        activation. Biases start at zero.
    threads : int, optional
        How many threads compute, at most: BLAS's (with threadpoolctl, extra ``threads``) and the
        compiled loop's. It has no effect on a GPU. Default: one per core, but one for small steps.
    precision : {"float32", "tf32", "bf16"}
        How a GPU multiplies matrices of float32. With "tf32" or "bf16", tensor cores are faster,
        and round what they multiply to 11 or 8 significant bits; sums, parameters and everything
        else stay float32.

    Attributes
    ----------
    layers : tuple of Layer
        W, b and g of every layer. The arrays are views of `parameters`.
    parameters : array
        All weights, layer by layer, then all biases, in one flat array on the device. What is
        assigned is copied into it: ``net.parameters = net.parameters - step``.

    Raises
    ------
    ShapeError, DomainError, DtypeError, UnknownNameError, DeviceError
        The message says what was given, what is expected, and what to do.

    Examples
    --------
    >>> import numpy as np, backprop_gpu as bp
    >>> net = bp.MLP([2, 3, 1], activations=["tanh", "sigmoid"], device="cpu", seed=1)
    >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> net(x).shape
    (4, 1)
    """

    # A misspelled name can't be assigned.
    __slots__ = (
        "__weakref__",
        "_parameters",
        "_recorded",
        "backend",
        "device_reason",
        "dtype",
        "layer_sizes",
        "layers",
    )

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activations: Sequence[str | Activation] | None = None,
        *,
        device: str | Backend = "auto",
        dtype: Any = "float32",
        seed: int = 0,
        initializer: str | None = None,
        threads: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.layer_sizes = checked_sizes(layer_sizes)
        entries = checked_activations(activations, len(self.layer_sizes) - 1)
        self.dtype = float_dtype(dtype)
        if self.dtype != np.float32 and precision != "float32":
            raise DomainError(
                f"precision={precision!r} is for float32, and dtype is {self.dtype.name!r}"
            )
        rng = np.random.default_rng(check_count("seed", seed, least=0))
        names = [g.initializer if initializer is None else initializer for g in entries]
        shapes = zip(names, self.layer_sizes[1:], self.layer_sizes[:-1], strict=True)
        weights = [initial_weights(name, nodes, inputs, rng) for name, nodes, inputs in shapes]
        self.backend, self.device_reason = choose_backend(device, threads, precision)

        size = self.weight_count + sum(self.layer_sizes[1:])
        self._parameters = self.backend.empty((size,), self.dtype)
        self.layers = tuple(map(Layer, *split(self._parameters, self.layer_sizes), entries))
        self.set_parameters(weights, [np.zeros(nodes) for nodes in self.layer_sizes[1:]])
        self._recorded: Recorded = {}

    if not TYPE_CHECKING:  # for checkers, it would be leave to assign anything

        def __setattr__(self, name: str, value: object) -> None:
            self._check_free(name)
            super().__setattr__(name, value)

        def __delattr__(self, name: str) -> None:
            self._check_free(name)
            super().__delattr__(name)

    def _compute_by(self, backend: Backend) -> None:
        """Let another backend of the same device compute: one with other threads."""
        object.__setattr__(self, "backend", backend)

    def _check_free(self, name: str) -> None:
        if name in FIXED and hasattr(self, name):
            remedy = (
                "make another network, with MLP(...) or net.copy(device=, dtype=, precision=)"
                if name in OPTIONS
                else "write net.set_parameters(weights, biases), or net.weights[0] = array"
            )
            raise AttributeError(f"a network's {name} can't be replaced; {remedy}")

    @property
    def parameters(self) -> Array:
        return self._parameters

    @parameters.setter
    def parameters(self, values: Any) -> None:
        assign(values, self._parameters, "parameters", self.backend)

    @property
    def weights(self) -> Views:
        """The weight matrices: weights[l - 1] is W of layer l, shape (nodes, inputs); views."""
        return Views("weights", [layer.W for layer in self.layers], self.backend)

    @property
    def biases(self) -> Views:
        """The biases: biases[l - 1] is b of layer l, shape (nodes,); views."""
        return Views("biases", [layer.b for layer in self.layers], self.backend)

    @property
    def activations(self) -> tuple[Activation, ...]:
        """The activation of every layer but the input."""
        return tuple(layer.g for layer in self.layers)

    @property
    def device(self) -> str:
        """Where the network lives: "cpu" or "cuda:N"."""
        return self.backend.device

    @property
    def precision(self) -> str:
        """How matrices are multiplied: "float32", "float64", "tf32" or "bf16"."""
        return self.backend.precision if self.dtype == np.float32 else self.dtype.name

    @property
    def threads(self) -> int | None:
        """How many threads may compute on the CPU, at most; None where that was left open."""
        return self.backend.threads

    @property
    def weight_count(self) -> int:
        """How many of the flat `parameters` are weights; the rest are biases."""
        return weight_count(self.layer_sizes)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies are built anew: the arrays of the layers have to be views of `parameters`.
        options: dict[str, Any] = {
            "device": self.device,
            "dtype": self.dtype.name,
            "threads": self.threads,
            "precision": "float32" if self.dtype != np.float32 else self.precision,
        }
        of_subclass = getattr(self, "__dict__", {})  # all that MLP itself has is in slots
        state = self.backend.to_numpy(self.parameters), of_subclass
        return partial(_anew, type(self), self.layer_sizes, self.activations, **options), (), state

    def __setstate__(self, state: tuple[NDArray[Any], dict[str, Any]] | NDArray[Any]) -> None:
        # One array is all that 0.1.0 wrote before it was released.
        parameters, of_subclass = state if isinstance(state, tuple) else (state, {})
        with self.backend.computing():
            self.backend.write(parameters, self.parameters)
        self.backend.synchronize()
        if of_subclass:
            vars(self).update(of_subclass)

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.layer_sizes))
        names = ", ".join(map(str, self.activations))
        return f"MLP({sizes}; {names}; {self.dtype} on {self.device})"

    def summary(self, *, batch_size: int | None = None) -> str:
        """Return a table of the layers and their memory, and where the network lives, and why.

        With `batch_size`, it also has the memory that training in such batches takes.
        """
        return summarize(self, batch_size)

    def set_parameters(self, weights: Sequence[Any], biases: Sequence[Any]) -> None:
        """Copy weights and biases into the network; all are checked before any is changed.

        Parameters
        ----------
        weights : sequence of array_like
            weights[l - 1] for layer l, shape (nodes, inputs): NumPy, CuPy, nested lists.
        biases : sequence of array_like
            biases[l - 1], shape (nodes,).
        """
        new = *checked_copies(weights, self.weights), *checked_copies(biases, self.biases)
        with self.backend.computing():
            for own, array in zip((*self.weights, *self.biases), new, strict=True):
                own[...] = array
        self.backend.synchronize()  # another stream of the GPU may read them next

    def __call__(self, x: Any) -> Array:
        """Return the prediction for x, shape (n, outputs): a NumPy array for a NumPy array."""
        stays = on_gpu(x)
        output = predict(self, check_inputs(self, x), self._recorded)
        return output if stays else self.backend.to_numpy(output)

    def predictor(self, *, path: PredictionPath = "auto") -> Predictor:
        """Return a `Predictor`: it predicts as the network does now, but faster.

        It feeds forward as an `MLP` does, whatever a subclass makes of ``net(x)``.
        """
        return Predictor(self, path)

    def forward(self, x: Any) -> Trace:
        """Feed x forward and keep every z and a.

        Parameters
        ----------
        x : array_like, shape (n, inputs)
            One sample a row. Converted to the network's dtype and device; not copied if it has
            them already.

        Returns
        -------
        Trace
            New arrays on the network's device.
        """
        x = check_inputs(self, x)
        trace = new_trace(self, x)
        with self.backend.computing(2.0 * len(x) * self.weight_count):
            feed_forward(self.backend, self.layers, trace)
        return trace

    def backward(
        self, trace: Trace, y: Any, loss: str | Loss = "mse", *, input_gradient: bool = True
    ) -> Gradients:
        """Propagate the loss of a trace's output back to every weight, bias and activation.

        Parameters
        ----------
        trace : Trace
            From `forward`, with the parameters that the network still has.
        y : array_like, shape (n, outputs)
            The desired outputs.
        loss : str or Loss
            A name ("mse", "sse", "binary_cross_entropy", "categorical_cross_entropy", or a
            registered one) or an entry.
        input_gradient : bool
            Whether to compute dC/dx too.

        Returns
        -------
        Gradients
            New arrays on the network's device. They are the gradients of C, the batch's average.
        """
        entry = check_loss(self, loss)
        check_trace(self, trace)
        y = check_targets(self, y, entry)
        check_same_rows(trace.a[0], y, "the trace's x")
        out = new_gradients(self, len(y), input_gradient=input_gradient)
        with self.backend.computing():
            propagate_back(self.backend, self.layers, trace, y, entry, out)
        return out

    def loss(self, x: Any, y: Any, loss: str | Loss = "mse") -> float:
        """Return C for the data x, y."""
        entry = check_loss(self, loss)
        return loss_of(self, *check_data(self, x, y, entry), entry)()

    def copy(
        self,
        *,
        device: str | Backend | None = None,
        dtype: Any = None,
        precision: Precision = "float32",
    ) -> MLP:
        """Return a network with the same parameters, on another device or in another dtype.

        `precision` is for another device; on the same one it stays as it is. It is a plain `MLP`,
        of a subclass too, whose attributes `copy.copy` and `copy.deepcopy` keep.
        """
        twin = MLP(
            self.layer_sizes,
            self.activations,
            device=self.backend if device is None else device,
            dtype=self.dtype if dtype is None else dtype,
            threads=self.threads if isinstance(device, str) else None,  # a backend has its own
            precision=precision,
        )
        if device is None:
            twin.device_reason = self.device_reason
        to_numpy = self.backend.to_numpy
        twin.set_parameters([to_numpy(W) for W in self.weights], [to_numpy(b) for b in self.biases])
        return twin


def _anew(kind: type[MLP], *args: Any, **options: Any) -> MLP:
    """Return a network of a subclass, whose own __init__ may take something else."""
    net = kind.__new__(kind)
    MLP.__init__(net, *args, **options)
    return net


def check_network(net: object) -> None:
    """Raise DtypeError unless it is an MLP."""
    if not isinstance(net, MLP):
        remedy = ": its network_" if hasattr(net, "network_") else ""
        raise DtypeError(f"net is {brief(net)}; expected an MLP{remedy}")

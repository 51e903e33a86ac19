"""The class `MLP`: it holds the parameters on a device, checks input and returns results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import Activation, LeakyReLU, find_activation
from backprop_gpu.arrays import (
    Array,
    as_matrix,
    check_finite,
    check_same_rows,
    float_dtype,
    on_gpu,
    weight_count,
)
from backprop_gpu.backends import Backend, Precision, choose_backend
from backprop_gpu.errors import (
    DeviceError,
    DomainError,
    DtypeError,
    ShapeError,
    brief,
    check_count,
    count_of,
)
from backprop_gpu.initializers import initial_weights
from backprop_gpu.losses import Loss, find_loss
from backprop_gpu.network import Gradients, Layer, Trace, feed_forward, propagate_back
from backprop_gpu.parameters import Views, assign, checked_copy
from backprop_gpu.predictor import PredictionPath, Predictor
from backprop_gpu.summary import summarize

# Many samples are predicted in pieces of rows, so that no layer has more entries than this.
PIECE = 1 << 24

# Small forward passes are recorded, so that the next one allocates nothing: those with at most so
# many numbers in all layers, for at most so many different numbers of samples.
RECORDED, MOST_RECORDED = 1 << 18, 4

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
        self.layer_sizes = _checked_sizes(layer_sizes)
        entries = _checked_activations(activations, len(self.layer_sizes) - 1)
        self.dtype = float_dtype(dtype)
        if self.dtype != np.float32 and precision != "float32":
            raise DomainError(
                f"precision={precision!r} is for float32, and dtype is {self.dtype.name!r}"
            )
        rng = np.random.default_rng(check_count("seed", seed, least=0))
        weights = [
            initial_weights(g.initializer if initializer is None else initializer, *shape, rng)
            for g, shape in zip(entries, self._weight_shapes(), strict=True)
        ]
        self.backend, self.device_reason = choose_backend(device, threads, precision)

        size = self.weight_count + sum(self.layer_sizes[1:])
        self._parameters = self.backend.empty((size,), self.dtype)
        self.layers = tuple(
            Layer(W, b, g) for W, b, g in zip(*self.split(self.parameters), entries, strict=True)
        )
        self.set_parameters(weights, [np.zeros(nodes) for nodes in self.layer_sizes[1:]])
        self._recorded: dict[tuple[int, int], tuple[Trace, Callable[[], None]]] = {}

    if not TYPE_CHECKING:  # for checkers, it would be leave to assign anything

        def __setattr__(self, name: str, value: object) -> None:
            if name in FIXED and hasattr(self, name):
                remedy = (
                    "make another network, with MLP(...) or net.copy(device=, dtype=, precision=)"
                    if name in OPTIONS
                    else "write net.set_parameters(weights, biases), or net.weights[0] = array"
                )
                raise AttributeError(f"a network's {name} can't be replaced; {remedy}")
            super().__setattr__(name, value)

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

    def step_flops(self, n: int) -> float:
        """Return the FLOPs of a step on n samples: of 3 products, each 2 a weight and sample."""
        return 6.0 * n * self.weight_count

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
        new = []
        for name, given, own in (
            ("weights", weights, self.weights),
            ("biases", biases, self.biases),
        ):
            if not hasattr(given, "__len__"):
                raise DtypeError(f"{name} is {brief(given)}; expected a list of {len(own)} arrays")
            if len(given) != len(own):
                raise ShapeError(
                    f"{len(given)} {name} given; the network has {count_of(len(own), 'layer')}"
                )
            for i, (values, target) in enumerate(zip(given, own, strict=True)):
                new.append((target, checked_copy(values, target, f"{name}[{i}]", self.backend)))
        with self.backend.computing():
            for target, array in new:
                target[...] = array
        self.backend.synchronize()  # another stream of the GPU may read them next

    def __call__(self, x: Any) -> Array:
        """Return the prediction for x, shape (n, outputs): a NumPy array for a NumPy array."""
        stays = on_gpu(x)
        x = self.check_inputs(x)
        if len(x) * sum(self.layer_sizes) <= RECORDED:
            output = self._recorded_output(x)
            return output if stays else self.backend.to_numpy(output)
        output = self.backend.empty((len(x), self.layer_sizes[-1]), self.dtype)
        with self.backend.computing():
            for rows, trace in self._pieces(x):
                feed_forward(self.backend, self.layers, trace)
                output[rows] = trace.output
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
        x = self.check_inputs(x)
        trace = self.new_trace(x)
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
        entry = self.check_loss(loss)
        if not isinstance(trace, Trace):
            raise DtypeError(f"trace is {brief(trace)}; expected what forward(x) returned")
        widths = tuple(a.shape[1] for a in trace.a)
        if widths != self.layer_sizes:
            raise ShapeError(
                f"the trace is of layers {widths}; this network's are {self.layer_sizes}"
            )
        if trace.output.dtype != self.dtype:
            raise DtypeError(
                f"the trace is in {trace.output.dtype}; this network computes in {self.dtype}"
            )
        if on_gpu(trace.output) != on_gpu(self.parameters):
            where = "a GPU" if on_gpu(trace.output) else "the CPU"
            raise DeviceError(f"the trace is on {where}; this network is on {self.device}")
        y = self._targets(y, entry)
        check_same_rows(trace.a[0], y, "the trace's x")
        out = self.new_gradients(len(y), input_gradient=input_gradient)
        with self.backend.computing():
            propagate_back(self.backend, self.layers, trace, y, entry, out)
        return out

    def loss(self, x: Any, y: Any, loss: str | Loss = "mse") -> float:
        """Return C for the data x, y."""
        entry = self.check_loss(loss)
        return self.loss_of(*self.check_data(x, y, entry), entry)()

    def loss_of(self, x: Array, y: Array, loss: Loss) -> Callable[[], float]:
        """Return a function that computes C anew for data that `check_data` returned.

        All calls compute in the same memory, and each reads once from the device.
        """
        g = self.layers[-1].g
        pieces = [*self._pieces(x, keep_last_z=loss.is_canonical_for(g))]
        losses = self.backend.empty((len(pieces),), self.dtype)
        shares = [len(trace.output) / len(x) for _, trace in pieces]

        def work(backend: Backend) -> None:
            for i, (rows, trace) in enumerate(pieces):
                feed_forward(backend, self.layers, trace)
                C = losses[i : i + 1]
                backend.output_delta(loss, g, trace.z[-1], trace.output, y[rows], C)

        with self.backend.computing():
            compute = self.backend.record(work)

        def now() -> float:
            with self.backend.computing():
                compute()
                found: list[float] = self.backend.to_numpy(losses).tolist()
            return sum(C * share for C, share in zip(found, shares, strict=True))

        return now

    def _recorded_output(self, x: Array) -> Array:
        """Repeat the forward pass that was recorded for this number of samples, or record it."""
        n = len(x)
        with self.backend.computing(2.0 * n * self.weight_count):
            # A recording is taken out while it is used, so another thread records its own. On
            # another stream of a GPU it may still be in use.
            key = n, self.backend.turn()
            recorded = self._recorded.pop(key, None) or self._record_forward(n)
            trace, replay = recorded
            trace.a[0][...] = x
            replay()
            output = trace.output.copy()
        if len(self._recorded) < MOST_RECORDED:
            self._recorded[key] = recorded
        return output

    def _record_forward(self, n: int) -> tuple[Trace, Callable[[], None]]:
        x = self.backend.empty((n, self.layer_sizes[0]), self.dtype)
        trace = self.new_trace(x, keep_z=[False] * len(self.layers))
        return trace, self.backend.record(lambda backend: feed_forward(backend, self.layers, trace))

    def _pieces(self, x: Array, *, keep_last_z: bool = False) -> Iterator[tuple[slice, Trace]]:
        """Yield slices of x, small enough to bound the memory, and a trace for each.

        The traces share their memory, and keep every a.
        """
        step = max(1, PIECE // max(self.layer_sizes))
        keep_z = [False] * (len(self.layers) - 1) + [keep_last_z]
        whole = self.new_trace(x[:step], keep_z=keep_z)
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            yield rows, whole.first_rows(x[rows])

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

    def check_loss(self, loss: str | Loss, *, to_learn: bool = False) -> Loss:
        """Return the loss's entry; raise if the network's outputs can leave its domain.

        With `to_learn`, raise also if the outputs can't change by learning.
        """
        entry, g = find_loss(loss), self.layers[-1].g
        entry.check_output(g)
        if to_learn and self.layer_sizes[-1] == 1 and g == find_activation("softmax"):
            raise DomainError(
                "the last layer has one output, of which 'softmax' is always 1, so there is "
                "nothing to learn; use 'sigmoid', or an output for each class"
            )
        return entry

    def check_inputs(self, x: Any, name: str = "x") -> Array:
        """Check and convert inputs."""
        return as_matrix(x, name, self.layer_sizes[0], "input node", self.backend, self.dtype)

    def check_data(self, x: Any, y: Any, loss: Loss, suffix: str = "") -> tuple[Array, Array]:
        """Check and convert inputs and targets that belong together."""
        x, y = self.check_inputs(x, f"x{suffix}"), self._targets(y, loss, f"y{suffix}")
        check_same_rows(x, y, f"x{suffix}", f"y{suffix}")
        return x, y

    def check_parameters(self) -> None:
        """Raise NonFiniteError, naming the first weight or bias that is NaN or infinite."""
        with self.backend.computing(0):
            for i, (W, b, _) in enumerate(self.layers):
                for name, array in ((f"weights[{i}]", W), (f"biases[{i}]", b)):
                    remedy = f"assign finite ones, net.{name} = array, or make the network anew"
                    check_finite(array, f"{name}, of layer {i + 1},", self.backend.xp, remedy)

    def new_trace(self, x: Array, *, keep_z: Sequence[bool] | None = None) -> Trace:
        """Allocate a trace for x. Where `keep_z` is False, z and a of a layer share memory."""
        n, nodes = len(x), self.layer_sizes[1:]
        keep = [True] * len(nodes) if keep_z is None else keep_z
        a = tuple(self.backend.empty((n, m), self.dtype) for m in nodes)
        z = tuple(
            self.backend.empty((n, m), self.dtype) if kept else shared
            for m, kept, shared in zip(nodes, keep, a, strict=True)
        )
        return Trace((x, *a), z)

    def new_gradients(self, n: int, *, input_gradient: bool = False) -> Gradients:
        """Allocate gradients for n samples."""
        nodes = self.layer_sizes[1:]
        deltas = tuple(self.backend.empty((n, m), self.dtype) for m in nodes)
        dC_da = tuple(self.backend.empty((n, m), self.dtype) for m in nodes)
        dC_dx = self.backend.empty((n, self.layer_sizes[0]), self.dtype) if input_gradient else None
        flat = self.backend.empty(self.parameters.shape, self.dtype)
        W, b = self.split(flat)
        weights, biases = Views("weights", W, self.backend), Views("biases", b, self.backend)
        C = self.backend.empty((1,), self.dtype)
        return Gradients(weights, biases, deltas, (dC_dx, *dC_da), flat, C)

    def split(self, flat: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Return views of a flat array: every layer's weights, then every layer's biases."""
        shapes = self._weight_shapes()
        views: list[Array] = []
        start = 0
        for shape in (*shapes, *((nodes,) for nodes, _ in shapes)):
            stop = start + math.prod(shape)
            views.append(flat[start:stop].reshape(shape))
            start = stop
        return tuple(views[: len(shapes)]), tuple(views[len(shapes) :])

    def _weight_shapes(self) -> list[tuple[int, int]]:
        return list(zip(self.layer_sizes[1:], self.layer_sizes[:-1], strict=True))

    def _targets(self, y: Any, loss: Loss, name: str = "y") -> Array:
        y = as_matrix(y, name, self.layer_sizes[-1], "output node", self.backend, self.dtype)
        with self.backend.computing(0):
            loss.check_targets(y, self.backend.xp, name)
        return y


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


def _checked_sizes(layer_sizes: Sequence[int]) -> tuple[int, ...]:
    listed = (
        isinstance(layer_sizes, list | tuple | range | np.ndarray) and np.ndim(layer_sizes) == 1
    )
    sizes = tuple(layer_sizes) if listed else ()
    whole = all(isinstance(s, int | np.integer) and not isinstance(s, bool) for s in sizes)
    if len(sizes) < 2 or not whole or any(s < 1 for s in sizes):
        raise ShapeError(
            f"layer_sizes is {brief(layer_sizes)}; expected at least two whole numbers, each at "
            "least 1: the inputs, the hidden layers, the outputs, for example [5, 3, 4]"
        )
    return tuple(int(s) for s in sizes)


def _checked_activations(
    activations: Sequence[str | Activation] | None, count: int
) -> list[Activation]:
    if activations is None:
        return [LeakyReLU()] * (count - 1) + [find_activation("identity")]
    if isinstance(activations, str | Activation):
        raise ShapeError(
            f"activations is {str(activations)!r}; expected a list of {count}, one for every "
            f"layer but the input, for example {[str(activations)] * count}"
        )
    if not hasattr(activations, "__len__"):
        raise DtypeError(f"activations is {brief(activations)}; expected a list of {count} names")
    if len(activations) != count:
        raise ShapeError(
            f"{len(activations)} activations given; expected {count}, one for every layer but the "
            "input"
        )
    return [find_activation(entry) for entry in activations]

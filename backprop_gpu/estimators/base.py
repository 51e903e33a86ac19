"""What both estimators share: scikit-learn's surface around a network of the core."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from operator import is_not
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.neural_network import MLPRegressor as SklearnRegressor
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    _check_y,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from backprop_gpu.activations import Activation, LeakyReLU, find_activation
from backprop_gpu.arrays import Array, check_finite, float_dtype, numeric, on_gpu, to_cpu
from backprop_gpu.backends import Backend, Precision
from backprop_gpu.checks import check_loss, check_parameters
from backprop_gpu.data import is_streamed
from backprop_gpu.errors import (
    DeviceError,
    DomainError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
    brief,
    check_positive,
)
from backprop_gpu.estimators.batches import Samples, check_data, held, outputs_of
from backprop_gpu.estimators.fitted import FittedNetwork
from backprop_gpu.estimators.lbfgs import fit_lbfgs
from backprop_gpu.estimators.learner import NON_FINITE
from backprop_gpu.estimators.notes import NAMES
from backprop_gpu.estimators.stochastic import fit_stochastic
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.sklearn_import import CORE_NAMES
from backprop_gpu.training.checkpoints import check_folder_given
from backprop_gpu.training.history import Epoch
from backprop_gpu.training.planning import PathName

SKLEARN_NAMES = {ours: theirs for theirs, ours in CORE_NAMES.items()}

Y_SHAPES = "expected (samples,) or (samples, outputs)"

Weights: TypeAlias = NDArray[np.float64] | None


@dataclass(eq=False, repr=False, kw_only=True)
class BaseMLP(FittedNetwork):
    """The parameters that both estimators have, and all but what depends on the kind of target."""

    loss: Any
    hidden_layer_sizes: Any
    activation: Any
    solver: str = "adam"
    alpha: float = 0.0001
    batch_size: int | str = "auto"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: bool | int = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    max_fun: int = 15000
    device: str | Backend = "auto"
    dtype: Any = None
    leak: float = 0.01
    precision: Precision = "float32"
    threads: int | None = None
    path: PathName = "auto"
    callbacks: Sequence[Callable[[Epoch], bool | None]] = ()
    checkpoint: Any = None
    checkpoint_every: int | None = None
    resume: bool = False

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **SklearnRegressor._parameter_constraints,
        "loss": [str, Loss],
        "activation": [str, Activation, list, tuple],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "device": [str, HasMethods(["gemm"])],
        "dtype": "no_validation",
        "leak": [Real],
        "precision": [StrOptions({"float32", "tf32", "bf16"})],
        "threads": [Interval(Integral, 1, None, closed="left"), None],
        "path": [StrOptions({"auto", "steps", "fused", "compiled"})],
        "callbacks": [list, tuple],
        "checkpoint": [None, str, os.PathLike],
        "checkpoint_every": [Interval(Integral, 1, None, closed="left"), None],
        "resume": ["boolean"],
    }

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, inputs)
            Arrays in GPU memory stay there.
        y : array_like, shape (n,) or (n, outputs)
        sample_weight : array_like, shape (n,), optional
            How much each sample counts: 0 or above. Default: all the same.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            With scikit-learn's message, or one of `backprop_gpu.errors`; if NaN or infinity
            arises in training, too. What is raised before the first step changes nothing.
        """
        with self._unchanged_unless_it_learns():
            return self._fit(X, y, sample_weight, incremental=False)

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, incremental: bool) -> Self:
        hidden = self.check_settings(incremental=incremental)
        anew = not self._is_trained() or not (self.warm_start or incremental)
        if anew:
            backend = self._choose_backend()
        else:  # `device` may have been set to another one since
            net = self.network_
            backend = net.backend
        x, y = self._check_samples(X, y, backend, anew=anew)
        targets = self._encode(y, backend if on_gpu(y) else None, incremental=incremental)
        given = check_weights(sample_weight, x, backend)
        weights = self._weights(y, given, backend)
        rng = check_random_state(self.random_state)
        if anew:
            sizes = x.shape[1], *hidden, targets.shape[1]
            net = self._new_network(sizes, self._dtype(x), backend, rng)
        loss = check_loss(net, self._loss())
        samples = Samples(*check_data(net, x, targets, loss), weights)
        if anew:
            self._start(net)
        self.n_outputs_ = net.layer_sizes[-1]
        try:
            with net.backend.computing():
                if self.solver == "lbfgs":
                    self.__dict__.pop("path_", None)
                    fit_lbfgs(self, net, loss, samples)
                else:
                    fit_stochastic(self, net, loss, samples, rng, incremental=incremental)
            check_parameters(net)
        except NonFiniteError as error:
            raise ValueError(NON_FINITE) from error
        finally:
            self._take(net)
        return self

    def check_settings(self, *, incremental: bool) -> list[int]:
        """Raise if a parameter is not what it can be; return the hidden layers' sizes."""
        if hasattr(self.solver, "update"):
            raise DomainError(
                f"solver is {brief(self.solver)}; expected 'adam', 'sgd' or 'lbfgs'. An optimizer "
                "is for train: make the network by one partial_fit, and train model.network_"
            )
        settings = [getattr(self, name, None) for name in self._parameter_constraints]
        if not self._checked or any(map(is_not, settings, self._checked)):
            self._validate_params()  # only then: it takes as long as some steps
            self._checked = settings
        hidden: list[Any] = np.atleast_1d(np.asarray(self.hidden_layer_sizes, object)).tolist()
        if not all(isinstance(n, int | np.integer) and n is not True and n > 0 for n in hidden):
            raise DomainError(
                f"hidden_layer_sizes must be > 0, got {hidden}; expected a whole number for every "
                "hidden layer"
            )
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if incremental and self.checkpoint is not None:
            raise DomainError(
                f"checkpoint={os.fspath(self.checkpoint)!r} is of fit, and partial_fit writes no "
                "checkpoints; write pickle.dumps(model) to a file between its calls, and set "
                "checkpoint=None, checkpoint_every=None and resume=False"
            )
        if self.checkpoint is not None and self.solver == "lbfgs":
            raise DomainError("checkpoint= is for the solvers 'sgd' and 'adam', not for 'lbfgs'")
        if self.path in ("fused", "compiled") and self.solver == "lbfgs":
            raise DomainError(
                f"path={self.path!r} is for the solvers 'sgd' and 'adam', not for 'lbfgs'"
            )
        check_folder_given(
            self.checkpoint, checkpoint_every=self.checkpoint_every, resume=self.resume or None
        )
        if not all(map(callable, self.callbacks)):
            raise DomainError(f"callbacks is {self.callbacks!r}; expected functions of an Epoch")
        self._entries(len(hidden))  # raises if it cannot be
        return hidden

    def _new_network(
        self, sizes: tuple[int, ...], dtype: np.dtype[Any], backend: Backend, rng: Any
    ) -> MLP:
        """Return a network with the weights and biases that scikit-learn draws (Glorot's)."""
        entries = self._entries(len(sizes) - 2)
        weights, biases = [], []
        for g, inputs, nodes in zip(entries, sizes[:-1], sizes[1:], strict=True):
            bound = np.sqrt((2 if g.name == "sigmoid" else 6) / (inputs + nodes))
            weights.append(rng.uniform(-bound, bound, (inputs, nodes)).T)
            biases.append(rng.uniform(-bound, bound, nodes))
        activations = self._activations(len(sizes) - 2)
        net = MLP(sizes, activations, device=backend, dtype=dtype, precision=self.precision)
        net.set_parameters(weights, biases)
        return net

    def _start(self, net: MLP) -> None:
        """Forget what was learned."""
        self._take(net)
        self.n_iter_, self.t_, self.n_layers_ = 0, 0, len(net.layer_sizes)
        out = self._output_activation()
        self.out_activation_ = SKLEARN_NAMES.get(out, out)
        for name in NAMES:
            self.__dict__.pop(name, None)

    def _activations(self, hidden: int) -> tuple[Activation, ...]:
        return (*self._entries(hidden)[:-1], find_activation(self._output_activation()))

    def _entries(self, hidden: int) -> list[Activation]:
        """Return the hidden layers' activations, and one more: initial weights depend on them.

        The last layer's weights are drawn for the activation of a hidden layer.
        """
        given = self.activation
        if not isinstance(given, list | tuple):
            given = [given] * (hidden + 1)
        elif len(given) == hidden:
            given = [*given, *(given[-1:] or ["identity"])]
        else:
            raise ShapeError(
                f"activation is a list of {len(given)}; expected one for each of the {hidden} "
                "hidden layers"
            )
        given = [CORE_NAMES.get(g, g) if isinstance(g, str) else g for g in given]
        try:
            return [
                LeakyReLU(self.leak) if g == "leaky_relu" else find_activation(g) for g in given
            ]
        except UnknownNameError as error:
            kind, name, known, remedy = error.arguments
            remedy += "; or a list with one for each hidden layer"
            raise UnknownNameError(kind, name, [*known, *CORE_NAMES], remedy) from None

    def _dtype(self, x: Any) -> np.dtype[Any]:
        if self.dtype is not None:
            return float_dtype(self.dtype)
        # The line search of L-BFGS takes differences of losses that are nearly equal.
        wide = self.solver == "lbfgs" or "float32" not in str(x.dtype)
        return np.dtype("float64" if wide else "float32")

    def _check_samples(self, X: Any, y: Any, backend: Backend, *, anew: bool) -> tuple[Any, Any]:
        """Return X and y as scikit-learn checks them; on a GPU the network does, later."""
        X, y = held(X), held(y)
        for name, values in (("X", X), ("y", y)):
            if on_gpu(values) and backend.device == "cpu":
                raise DeviceError(
                    f"{name} ({type(values).__name__}) is in GPU memory and the network on the "
                    "CPU; bring the array to the CPU first, or fit with device='cuda'"
                )
        if on_gpu(X):
            check_matrix(X)
            if on_gpu(y):
                with backend.computing():
                    y = numeric(backend.xp.asarray(y), "y")
                    check_finite(y, "y", backend.xp)
                if y.ndim not in (1, 2) or 0 in y.shape[1:]:
                    raise ShapeError(f"y has shape {y.shape}; {Y_SHAPES}")
            elif y is not None:  # text can't be on a GPU
                y = _check_y(y, multi_output=True, y_numeric=not is_classifier(self))
            check_consistent_length(X, y)
            validate_data(self, X, y, skip_check_array=True, reset=anew)
            return X, y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        y = on_cpu(y, backend)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            y_numeric=not is_classifier(self),
            dtype=(np.float64, np.float32) if self.dtype is None else float_dtype(self.dtype),
            reset=anew,
        )
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _weights(self, y: Any, given: NDArray[Any] | None, backend: Backend) -> Weights:
        """Return how much each sample counts, on the CPU; None if all the same."""
        return given

    def _outputs(self, X: Any) -> Array:
        """Return the network's outputs, shape (n, outputs), where X is."""
        check_is_fitted(self)
        if is_streamed(X) and len(X.shape) == 2:
            validate_data(self, X, skip_check_array=True, reset=False)
        elif not on_gpu(X):
            X = validate_data(self, X, accept_sparse="csr", reset=False)
        return outputs_of(self.network_, X)

    def _for_metric(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, ...]:
        """Return a metric's arguments on the CPU: the prediction for X, y and the weights."""
        predicted, backend = self.predict(X), self.network_.backend
        weights = check_weights(held(sample_weight), predicted, backend)
        return on_cpu(predicted, backend), on_cpu(held(y), backend), weights

    def score_of(self, net: MLP, held_out: Samples) -> float:
        """Return the score of a network that is being trained."""
        to_numpy = net.backend.to_numpy
        outputs, targets = outputs_of(net, held_out.x), held_out.y
        return self._score_outputs(to_numpy(outputs), to_numpy(targets), held_out.weights)

    @abstractmethod
    def predict(self, X: Any) -> Array:
        """Return the predictions for X."""

    @abstractmethod
    def _loss(self) -> Loss:
        """Return the loss to minimise."""

    @abstractmethod
    def _encode(self, y: Any, on_device: Backend | None, *, incremental: bool) -> Array:
        """Return the targets, shape (n, outputs), where y is: on a device, or on the CPU (None)."""

    @abstractmethod
    def _score_outputs(
        self, outputs: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64] | None
    ) -> float:
        """Return the score of outputs that the network gave."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def check_matrix(X: Any) -> None:
    """Raise ShapeError, as scikit-learn would, unless X has samples and features."""
    shape = tuple(X.shape)
    if len(shape) != 2:
        raise ShapeError(
            f"Expected 2D array, got {len(shape)}D array instead: X has shape {shape}; reshape it "
            "with X.reshape(-1, 1) if it is a single feature, or X.reshape(1, -1) if it is a "
            "single sample"
        )
    for count, of in zip(shape, ("sample(s)", "feature(s)"), strict=True):
        if not count:
            raise ShapeError(
                f"Found array with 0 {of} (shape={shape}) while a minimum of 1 is required: X"
            )


def check_weights(sample_weight: Any, X: Any, backend: Backend) -> Weights:
    """Return the weights of X's samples on the CPU; raise as scikit-learn does, and below 0."""
    if sample_weight is None:
        return None
    given, rows = on_cpu(sample_weight, backend), np.empty((X.shape[0], 1))
    if np.asarray(given).dtype != object:
        numeric(given, "sample_weight")
    weights = np.asarray(_check_sample_weight(given, rows, ensure_non_negative=True))
    with np.errstate(over="ignore"):
        check_positive("the sum of sample_weight", float(weights.sum(dtype=np.float64)))
    return weights


def on_cpu(values: Any, backend: Backend) -> Any:
    """Bring an array from a GPU to the CPU; return anything else as it is."""
    values = to_cpu(values)
    return backend.to_numpy(backend.xp.asarray(values)) if on_gpu(values) else values


def learns_in_steps(estimator: BaseMLP) -> bool:
    """Return True if the solver learns batch by batch; raise AttributeError if it does not."""
    if estimator.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
        )
    return True

"""`MLPRegressor`, as scikit-learn's."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import cleandoc
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if

from backprop_gpu.arrays import Array, numeric
from backprop_gpu.backends import Backend
from backprop_gpu.errors import DomainError
from backprop_gpu.estimators.base import BaseMLP, learns_in_steps
from backprop_gpu.estimators.losses import POISSON, SQUARED_ERROR
from backprop_gpu.estimators.streams import Stream, is_stream, learn_stream
from backprop_gpu.losses import Loss, find_loss

T = TypeVar("T")

SKLEARN_LOSSES = {entry.name: entry for entry in (SQUARED_ERROR, POISSON)}


SHARED = """hidden_layer_sizes : int or sequence of int = (100,)
    activation : {"identity", "logistic", "tanh", "relu"}, Activation, core name, list = "relu"
        Of the hidden layers; a list has one for each.
    solver : {"adam", "sgd", "lbfgs"} = "adam"; for AdamW and others `train` the ``network_``
    alpha : float = 0.0001; L2 penalty
    batch_size : int or "auto" = "auto"; which is 200, or all samples if there are fewer
    learning_rate : {"constant", "invscaling", "adaptive"} = "constant"; of "sgd"
    learning_rate_init : float = 0.001; the first learning rate
    power_t : float = 0.5; exponent of "invscaling"
    max_iter : int = 200; epochs, or iterations of "lbfgs", at most
    shuffle : bool = True; the samples, in every epoch
    random_state : int, RandomState or None = None; draws weights and orders
    tol : float = 0.0001; what counts as an improvement
    verbose : bool = False; print the losses
    warm_start : bool = False; `fit` goes on from the last one
    momentum : float = 0.9; of "sgd", below 1
    nesterovs_momentum : bool = True; of "sgd"
    early_stopping : bool = False; stop by the score of samples held out
    validation_fraction : float = 0.1; how many are held out
    beta_1 : float = 0.9; of "adam"
    beta_2 : float = 0.999; of "adam"
    epsilon : float = 1e-08; of "adam"
    n_iter_no_change : int = 10; epochs without improvement, then stop
    max_fun : int = 15000; evaluations of the loss by "lbfgs", at most
    device : {"auto", "cpu", "cuda", "cuda:N"} or NumpyBackend = "auto"
        Where the network lives and learns; "auto" takes a GPU if there is a usable one.
    dtype : {"float32", "float64"} or None = None
        What is computed in. None: as scikit-learn, float32 for float32 data (but not with
        "lbfgs"), float64 for all others.
    leak : float = 0.01; the slope of ``activation="leaky_relu"`` for z <= 0
    precision : {"float32", "tf32", "bf16"} = "float32"
        How a GPU multiplies float32 matrices; see `MLP`.
    threads : int or None = None; how many compute on the CPU, at most; see `MLP`
    path : {"auto", "steps", "fused", "compiled"} = "auto"
        How the steps of "sgd" and "adam" are run; see `train`. "auto" compiles where that would
        gain in `max_iter` epochs, but in 140 at most. The ways agree but for rounding.
    callbacks : sequence of callable (Epoch) -> bool or None = ()
        Called after every epoch, or iteration of "lbfgs"; returning True stops the training.
        With `early_stopping`, an epoch has a `validation_score`.
    checkpoint : path or None = None
        A folder: `fit` writes where it is there (extra ``io``; not with "lbfgs", and
        `random_state` has to be a number). `partial_fit` does not, and refuses it.
    checkpoint_every : int or None = None; epochs from one checkpoint to the next; None: 1
    resume : bool = False
        Whether `fit` goes on from the newest checkpoint in the folder, if there is one: it ends
        with the same model as without interruption, to the bit on the same device."""


def documented(estimator: type[T]) -> type[T]:
    """Put the parameters that both estimators have into a docstring."""
    if estimator.__doc__:  # python -OO has none
        estimator.__doc__ = cleandoc(estimator.__doc__).replace("SHARED", cleandoc(SHARED))
    return estimator


@documented
@dataclass(eq=False, repr=False)
class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]
    """Multilayer perceptron that predicts numbers: scikit-learn's, on the CPU or a GPU.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}, Loss, or name of a core one = "squared_error"
        A core loss decides the last layer's activation: the one it is canonical for, or identity.
    SHARED

    Attributes
    ----------
    coefs_, intercepts_ : list of ndarray
        Weights, shape (inputs, nodes), and biases of every layer. They can be changed and assigned.
    network_ : MLP
        The network itself, for `save`, `explain` and everything else in this library.
    path_ : {"steps", "fused", "compiled"}
        How the steps were run; not with "lbfgs".
    loss_, loss_curve_, n_iter_, t_, out_activation_, ...
        All that scikit-learn's has.

    Notes
    -----
    With the same `random_state` it draws what scikit-learn draws, so that the model is
    scikit-learn's to rounding. That includes the gradient of "squared_error" for several outputs,
    which is as many times too large for the loss that is reported as there are outputs
    (scikit-learn's issue 8349). The core's ``loss="mse"`` has the gradient of what it reports.

    Examples
    --------
    >>> import numpy as np
    >>> from backprop_gpu.estimators import MLPRegressor
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> model = MLPRegressor(hidden_layer_sizes=20, solver="lbfgs", random_state=0, device="cpu")
    >>> model.fit(x, np.sin(3 * x[:, 0])).score(x, np.sin(3 * x[:, 0])) > 0.99
    True
    """

    loss: str | Loss = "squared_error"
    hidden_layer_sizes: Any = (100,)
    activation: Any = "relu"

    def predict(self, X: Any) -> Array:
        """Return the predictions for X.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, inputs)

        Returns
        -------
        array, shape (n,) or (n, outputs)
            A CuPy array for an array in GPU memory, a NumPy array for everything else.
        """
        outputs = self._outputs(X)
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    @available_if(learns_in_steps)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch, on from what was learned before.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`. What lies in files (a `numpy.memmap`, an HDF5 or Zarr dataset,
            `ParquetColumns`, anything that has a shape and can be sliced) is streamed: read a
            window at a time, in the order of `train`. With y None, X is an iterable of batches
            (x, y), or a function of the epoch that returns one; each is one step.
        """
        with self._unchanged_unless_it_learns():
            if not is_stream(X, y):
                return self._fit(X, y, sample_weight, incremental=True)
            learn_stream(self, Stream(self, X, y), sample_weight)
        return self

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination R^2 of the predictions for X."""
        predicted, y, weights = self._for_metric(X, y, sample_weight)
        return float(r2_score(y, predicted, sample_weight=weights))

    def _loss(self) -> Loss:
        if isinstance(self.loss, str) and self.loss in SKLEARN_LOSSES:
            return SKLEARN_LOSSES[self.loss]
        return find_loss(self.loss, others=SKLEARN_LOSSES)

    def _output_activation(self) -> str:
        return self._loss().canonical or "identity"

    def _encode(self, y: Any, on_device: Backend | None, *, incremental: bool) -> Array:
        y = numeric(y, "y")
        if self._loss() is POISSON and (y < 0).any():
            raise DomainError("y has values below 0; the loss 'poisson' is of counts")
        return y[:, None] if y.ndim == 1 else y

    def _score_outputs(
        self, outputs: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64] | None
    ) -> float:
        if not np.isfinite(outputs).all():
            return float("nan")
        return float(r2_score(targets, outputs, sample_weight=weights))

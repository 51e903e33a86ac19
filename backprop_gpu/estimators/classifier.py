"""`MLPClassifier`, as scikit-learn's."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
    type_of_target,
    unique_labels,
)

from backprop_gpu.arrays import Array, ArrayModule, dense, on_gpu
from backprop_gpu.backends import Backend, NumpyBackend
from backprop_gpu.errors import DomainError, DtypeError, ShapeError, check_not_negative
from backprop_gpu.estimators.base import BaseMLP, Weights, learns_in_steps, on_cpu
from backprop_gpu.estimators.losses import BINARY_LOG_LOSS, LOG_LOSS
from backprop_gpu.estimators.regressor import documented
from backprop_gpu.estimators.streams import Stream, is_stream, learn_stream
from backprop_gpu.losses import Loss, find_loss

MULTIOUTPUT = "Multioutput target data is not supported with label binarization"


@documented
@dataclass(eq=False, repr=False)
class MLPClassifier(ClassifierMixin, BaseMLP):  # type: ignore[misc]
    """Multilayer perceptron that predicts classes: scikit-learn's, on the CPU or a GPU.

    Parameters
    ----------
    SHARED
    loss : "log_loss", Loss, or name of a core one = "log_loss"
    class_weight : dict, list of dict, "balanced" or None = None
        How much the samples of each class count; "balanced": all classes the same together.

    Attributes
    ----------
    classes_ : ndarray
        The classes, in the order of the columns of `predict_proba`.
    coefs_, intercepts_, network_, path_, loss_, loss_curve_, n_iter_, t_, out_activation_, ...
        As `MLPRegressor` has them.

    Notes
    -----
    With the same `random_state` the model is scikit-learn's to rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from backprop_gpu.estimators import MLPClassifier
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = np.where(x[:, 0] * x[:, 1] > 0, "same", "different")
    >>> model = MLPClassifier(solver="lbfgs", random_state=0, device="cpu").fit(x, y)
    >>> model.predict([[1, 2], [1, -2]]).tolist()
    ['same', 'different']
    """

    hidden_layer_sizes: Any = (100,)
    activation: Any = "relu"
    _: KW_ONLY
    loss: str | Loss = "log_loss"
    class_weight: Any = None

    _several = False  # labels, each with a column of y

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def predict(self, X: Any) -> Array:
        """Return the most probable classes.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (n, inputs)

        Returns
        -------
        array, shape (n,) or (n, labels)
            A CuPy array for an array in GPU memory, unless the classes are text or anything else
            that is not a number; a NumPy array for everything else.
        """
        outputs, backend = self._outputs(X), self._backend_of(X)
        with backend.computing():
            decided = self._decide(backend.xp, outputs)
            if self._several:
                return decided
            decided = decided.clip(0, len(self.classes_) - 1)  # there may be one class
            if self.classes_.dtype.kind not in "biuf":  # CuPy has no such dtype
                return self.classes_[backend.to_numpy(decided)]
            return backend.xp.asarray(self.classes_)[decided]

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of every class, shape (n, classes); X as in `predict`."""
        outputs, backend = self._outputs(X), self._backend_of(X)
        if outputs.shape[1] > 1:
            return outputs
        with backend.computing():
            return backend.xp.concatenate([1 - outputs, outputs], axis=1)

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`."""
        probabilities, backend = self.predict_proba(X), self._backend_of(X)
        with backend.computing():
            return backend.xp.log(probabilities, out=probabilities)

    @available_if(learns_in_steps)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, classes: Any = None
    ) -> Self:
        """Train for one epoch, on from what was learned before.

        Parameters
        ----------
        X, y, sample_weight
            As in `MLPRegressor.partial_fit`: in files, or batches, too.
        classes : array_like, optional
            All classes that there will ever be; needed in the first call.
        """
        if self.class_weight == "balanced":
            raise DomainError(
                "class_weight='balanced' needs all samples at once, and partial_fit gets some; "
                "give a dict of weights"
            )
        if on_gpu(classes):
            classes = on_cpu(classes, self._choose_backend())
        with self._unchanged_unless_it_learns():
            _check_partial_fit_first_call(self, classes)
            if not is_stream(X, y):
                return self._fit(X, y, sample_weight, incremental=True)
            learn_stream(self, Stream(self, X, y), sample_weight)
        return self

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of right predictions for X."""
        predicted, y, weights = self._for_metric(X, y, sample_weight)
        return float(accuracy_score(y, predicted, sample_weight=weights))

    def _loss(self) -> Loss:
        if self.loss == "log_loss":
            return LOG_LOSS if self._output_activation() == "softmax" else BINARY_LOG_LOSS
        return find_loss(self.loss, others=["log_loss"])

    def _output_activation(self) -> str:
        return "sigmoid" if self._several or len(self.classes_) <= 2 else "softmax"

    def _encode(self, y: Any, on_device: Backend | None, *, incremental: bool) -> Array:
        self._check_columns(y, incremental=incremental)
        if self._several:
            known = _same_labels(y, on_device) if on_device else y
            self._learn_classes(known, incremental=incremental)
            return dense(y)
        backend = on_device or NumpyBackend()
        with backend.computing():
            known = backend.to_numpy(backend.xp.unique(y)) if on_device else y
            try:
                self._learn_classes(known, incremental=incremental)
            except TypeError as error:  # as they are sorted
                raise DtypeError(
                    f"y has classes that can't be compared ({error}); expected all of them as "
                    "text, or all as numbers"
                ) from error
            classes = backend.xp.asarray(self.classes_)
            if len(classes) == 1:
                return backend.xp.zeros((len(y), 1), bool)
            return y[:, None] == (classes if len(classes) > 2 else classes[1:])

    def _check_columns(self, y: Any, *, incremental: bool) -> None:
        """Note whether y has a column for every label; or check that it still has, or has not."""
        several = y.ndim == 2
        goes_on = "_several" in vars(self) and (incremental or self.warm_start)
        if (goes_on and several != self._several) or (
            incremental and several and y.shape[1] != len(self.classes_)
        ):
            columns = f"(samples, {len(self.classes_)}), a column for every label"
            expected = columns if goes_on and self._several else "(samples,)"
            raise ShapeError(
                f"y has shape {tuple(y.shape)}; expected {expected}"
                + (" as before" if goes_on else f", or {columns}")
            )
        if not goes_on:
            self._several = several

    def _learn_classes(self, y: Any, *, incremental: bool) -> None:
        """Find the classes; or check that there are no others, if training goes on."""
        if incremental and not self._several and np.isin(y, self.classes_).all():
            return  # what follows takes longer than a step on a small batch
        if self._several and not type_of_target(y).startswith("multilabel"):
            raise ValueError(MULTIOUTPUT)
        check_classification_targets(y)
        classes = unique_labels(y)
        if not (incremental or (self.warm_start and hasattr(self, "classes_"))):
            self.classes_: NDArray[Any] = classes
        elif not incremental:
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous "
                    f"call to fit. Previously got {self.classes_}, `y` has {classes}"
                )
        elif not np.isin(classes, self.classes_).all():
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _weights(self, y: Any, given: Weights, backend: Backend) -> Weights:
        if self.class_weight is None:
            return given
        labels = on_cpu(y, backend)
        if self.class_weight == "balanced":
            by_class = compute_sample_weight("balanced", labels)
        else:
            by_class = _weights_by_class(self.class_weight, labels, self.classes_)
        return np.asarray(by_class if given is None else given * by_class)

    def _backend_of(self, X: Any) -> Backend:
        """Return what computes on predictions for X."""
        return self.network_.backend if on_gpu(X) else NumpyBackend()

    def _decide(self, xp: ArrayModule, outputs: Array) -> Array:
        """Return the index of every sample's class; 0 or 1 for every label of several."""
        if self._output_activation() == "softmax":
            return outputs.argmax(axis=1)
        decided = (outputs > 0.5).astype(xp.int64)
        return decided if self._several else decided[:, 0]

    def _score_outputs(
        self, outputs: NDArray[Any], targets: NDArray[Any], weights: NDArray[np.float64] | None
    ) -> float:
        decided, right = self._decide(np, outputs), self._decide(np, targets)
        return float(accuracy_score(right, decided, sample_weight=weights))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _weights_by_class(class_weight: Any, y: Any, classes: NDArray[Any]) -> NDArray[np.float64]:
    """Return the product of what a sample's labels weigh; what is not mentioned weighs 1.

    Some of the samples need not have all of the classes, as in `partial_fit`.
    """
    columns = np.atleast_2d(dense(y).T)
    settings = class_weight if isinstance(class_weight, list) else [class_weight]
    if len(settings) != len(columns) or not all(isinstance(s, dict) for s in settings):
        raise DomainError(
            f"class_weight is {class_weight!r}; expected a dict for each of the {len(columns)} "
            "columns of y"
        )
    if y.ndim == 1:
        missing = [label for label in classes.tolist() if label not in settings[0]]
        if missing and len(classes) - len(missing) != len(settings[0]):
            raise ValueError(f"The classes, {missing}, are not in class_weight")
    weights = np.ones(y.shape[0])
    for column, by_label in zip(columns, settings, strict=True):
        for label, weight in by_label.items():
            weights[column == label] *= check_not_negative(f"class_weight[{label!r}]", weight)
    return weights


def _same_labels(y: Array, backend: Backend) -> NDArray[np.int64]:
    """Return a small matrix on the CPU with the labels that y on a GPU has; or raise ValueError."""
    with backend.computing():
        if not ((y == 0) | (y == 1)).all():
            raise ValueError(MULTIOUTPUT)
    return np.eye(y.shape[1], dtype=np.int64)

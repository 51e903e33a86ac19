"""Data, settings, and what makes two models the same, or one unchanged."""

from contextlib import contextmanager

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.datasets import load_iris, make_multilabel_classification

import backprop_gpu as bp
from backprop_gpu.arrays import to_cpu
from backprop_gpu.backends.cupy_device import unusable
from backprop_gpu.estimators import MLPClassifier, MLPRegressor
from backprop_gpu.estimators.learner import Progress

X, SPECIES = load_iris(return_X_y=True)
LENGTH = X[:, 2]
LABELS = make_multilabel_classification(150, 4, n_classes=3, random_state=0)[1]
WEIGHTS = np.random.default_rng(0).uniform(0.1, 2, len(X))
BOTH = pytest.mark.parametrize(
    ("Estimator", "y"), [(MLPClassifier, SPECIES), (MLPRegressor, LENGTH)]
)
SMALL = {"hidden_layer_sizes": (7, 5), "batch_size": 40, "max_iter": 12, "random_state": 0}
FEW = {"hidden_layer_sizes": 5, "batch_size": 80, "max_iter": 2, "random_state": 0}


def both(Estimator, x, y, sample_weight=None, **settings):
    """Fit scikit-learn's estimator and ours."""
    theirs = getattr(sklearn.neural_network, Estimator.__name__)(**SMALL | settings)
    ours = Estimator(**SMALL | settings, device="cpu")
    return theirs.fit(x, y, sample_weight), ours.fit(x, y, sample_weight)


def assert_same_model(theirs, ours, rtol=1e-10):
    for name in ("coefs_", "intercepts_"):
        for one, other in zip(getattr(theirs, name), getattr(ours, name), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(other, one, rtol=rtol, atol=rtol)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "n_features_in_", "out_activation_"):
        assert getattr(theirs, name) == getattr(ours, name), name
    for name in ("loss_", "loss_curve_", "best_loss_", "validation_scores_"):
        if hasattr(theirs, name):
            same(getattr(theirs, name), getattr(ours, name), rtol)


def same(one, other, rtol):
    if one is None:
        assert other is None
    else:
        np.testing.assert_allclose(other, one, rtol=max(rtol, 1e-9))


def on_cuda(values):
    if reason := unusable():
        pytest.skip(reason)
    return pytest.importorskip("cupy").asarray(values)


def bits(value):
    """All that a model, or a part of it, holds, to the bit."""
    if isinstance(value, bp.estimators.base.BaseMLP | Progress):
        return {name: bits(part) for name, part in vars(value).items()}
    if isinstance(value, bp.MLP):
        return id(value), bits(value.parameters)
    if isinstance(value, list | tuple):
        return [bits(part) for part in value]
    if hasattr(value, "dtype"):
        return str(value.dtype), value.shape, to_cpu(value).tobytes()
    return value


@contextmanager
def unchanged(model):
    before = bits(model)
    yield
    assert bits(model) == before

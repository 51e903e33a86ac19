"""Networks that scikit-learn trained: the same predictions, and what is refused."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline

import backprop_gpu as bp
from backprop_gpu import estimators
from backprop_gpu.sklearn_import import from_sklearn

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5))
TARGETS = {
    "one output": X[:, 0] * X[:, 1],
    "three outputs": np.tanh(X @ RNG.normal(size=(5, 3))),
    "two classes": np.where(X[:, 0] > 0, "yes", "no"),
    "four classes": np.digitize(X[:, 0], [-0.7, 0, 0.7]),
    "labels": (X[:, :3] > 0).astype(int),
}


def fitted(kind, y, x=X, **parameters):
    estimator = kind(hidden_layer_sizes=(7, 4), max_iter=3, random_state=0, **parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(x, y)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("target", ["one output", "three outputs"])
def test_a_regressor_predicts_the_same(activation, target):
    estimator = fitted(MLPRegressor, TARGETS[target], activation=activation)
    net = from_sklearn(estimator)
    assert net.dtype == "float64"
    predicted = net(X).reshape(estimator.predict(X).shape)
    np.testing.assert_allclose(predicted, estimator.predict(X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", ["four classes", "labels"])
def test_a_classifier_predicts_the_same_probabilities(target):
    estimator = fitted(MLPClassifier, TARGETS[target])
    probabilities = estimator.predict_proba(X)
    np.testing.assert_allclose(from_sklearn(estimator)(X), probabilities, rtol=1e-12, atol=1e-12)


def test_of_two_classes_there_is_the_second_one_s_probability():
    estimator = fitted(MLPClassifier, TARGETS["two classes"])
    net = from_sklearn(estimator)
    assert str(net.activations[-1]) == "sigmoid"
    probability = estimator.predict_proba(X)[:, 1:]
    np.testing.assert_allclose(net(X), probability, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(net(X)[:, 0] > 0.5, estimator.predict(X) == "yes")


def test_float32_stays_float32_and_another_dtype_can_be_asked_for():
    estimator = fitted(MLPRegressor, TARGETS["one output"], X.astype("float32"))
    assert from_sklearn(estimator).dtype == "float32"
    assert from_sklearn(estimator, dtype="float64").dtype == "float64"


def test_the_network_is_on_the_device_asked_for(backend):
    net = from_sklearn(fitted(MLPRegressor, TARGETS["three outputs"]), device=backend)
    assert net.device == backend.device
    assert net.layer_sizes == (5, 7, 4, 3)


def test_the_estimator_is_left_as_it_was():
    estimator = fitted(MLPRegressor, TARGETS["one output"])
    before = estimator.predict(X)
    from_sklearn(estimator).parameters[...] = 0
    np.testing.assert_array_equal(estimator.predict(X), before)


def test_scikit_learn_is_not_needed():
    script = """if True:
        import sys
        sys.modules["sklearn"] = None
        from types import SimpleNamespace
        from backprop_gpu.sklearn_import import from_sklearn
        layer = dict(coefs_=[[[1.0], [2.0]]], intercepts_=[[3.0]])
        net = from_sklearn(
            SimpleNamespace(activation="relu", out_activation_="identity", **layer)
        )
        print(net([[1.0, 1.0]]))
    """
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout == "[[6.]]\n", run.stderr


def test_an_exponential_output():
    estimator = fitted(MLPRegressor, np.abs(TARGETS["one output"]), loss="poisson")
    predicted = from_sklearn(estimator)(X)[:, 0]
    np.testing.assert_allclose(predicted, estimator.predict(X), rtol=1e-12)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (MLPClassifier(), "MLPClassifier has no coefs_; .*: call its fit first"),
        (make_pipeline(MLPRegressor()), "Pipeline has no activation; .* last step"),
        (GridSearchCV(MLPRegressor(), {}), "GridSearchCV has no .*search's its best_estimator_"),
        ("an estimator", "str has no activation; expected a fitted MLPClassifier"),
    ],
)
def test_what_is_not_fitted_or_something_else(estimator, message):
    with pytest.raises(bp.DtypeError, match=message):
        from_sklearn(estimator)


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (
            {"activation": ["relu"]},
            bp.DomainError,
            r"Namespace has the activation \['relu'\]",
        ),
        ({"coefs_": []}, bp.ShapeError, "one matrix"),
        ({"coefs_": [[1.0], [1.0]]}, bp.ShapeError, r"coefs_ of shapes \[\(1,\), \(1,\)\]"),
        ({"coefs_": [np.ones((2, 3)), np.ones((4, 1))]}, bp.ShapeError, r"weights\[1\]"),
        ({"intercepts_": [np.ones(3)]}, bp.ShapeError, "1 biases"),
        ({"coefs_": [np.full((2, 3), np.nan), np.ones((3, 1))]}, bp.NonFiniteError, "weights"),
    ],
)
def test_what_does_not_fit_together(wrong, kind, message):
    estimator = {
        "activation": "relu",
        "out_activation_": "identity",
        "coefs_": [np.ones((2, 3)), np.ones((3, 1))],
        "intercepts_": [np.ones(3), np.ones(1)],
    }
    assert from_sklearn(SimpleNamespace(**estimator)).layer_sizes == (2, 3, 1)
    with pytest.raises(kind, match=message):
        from_sklearn(SimpleNamespace(**estimator | wrong))


def test_an_estimator_of_this_library_hands_out_a_copy_of_its_network():
    settings = {"activation": ["leaky_relu", "gelu"], "leak": 0.3, "device": "cpu"}
    estimator = fitted(estimators.MLPClassifier, TARGETS["four classes"], **settings)
    net = from_sklearn(estimator, device="cpu")
    assert net.activations == estimator.network_.activations
    np.testing.assert_array_equal(net(X), estimator.predict_proba(X))
    net.parameters[:] = 0
    assert estimator.network_.parameters.any()
    with pytest.raises(bp.DtypeError, match="call its fit first"):
        from_sklearn(estimators.MLPClassifier())

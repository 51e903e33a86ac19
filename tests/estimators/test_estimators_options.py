"""What the estimators can that scikit-learn's can not."""

import ast
import inspect
import pickle
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from small_models import BOTH, LENGTH, SMALL, SPECIES, WEIGHTS, X, assert_same_model

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@BOTH
def test_every_parameter_is_documented_with_its_default(Estimator, y):
    section = inspect.getdoc(Estimator).split("\nAttributes\n")[0]
    told = dict(re.findall(r"^(\w+) : .* = ([^;\n]+)", section, re.MULTILINE))
    parameters = inspect.signature(Estimator).parameters.values()
    assert told.keys() == {parameter.name for parameter in parameters}
    assert {name: ast.literal_eval(text) for name, text in told.items()} == {
        parameter.name: parameter.default for parameter in parameters
    }


@BOTH
def test_early_stopping_keeps_the_best_parameters(Estimator, y):
    scores = []
    model = Estimator(
        **SMALL | {"max_iter": 40},
        early_stopping=True,
        learning_rate_init=0.1,
        device="cpu",
        callbacks=[lambda epoch: scores.append(epoch.net.parameters.copy())],
    ).fit(X, y)
    best = int(np.argmax(model.validation_scores_))
    np.testing.assert_array_equal(model.network_.parameters, scores[best])


@BOTH
def test_a_callback_finds_the_score_of_its_epoch(Estimator, y):
    seen = []
    model = Estimator(**SMALL, early_stopping=True, device="cpu")
    model.callbacks = [lambda epoch: seen.append((epoch.number, epoch.validation_score))]
    model.fit(X, y)
    assert seen == [*enumerate(model.validation_scores_)]
    model.set_params(early_stopping=False, max_iter=1).fit(X, y)
    assert seen[-1] == (0, None)


@BOTH
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_callback_sees_every_epoch_and_can_stop(Estimator, y, solver):
    seen = []

    def stop(epoch):
        seen.append((epoch.number, epoch.loss))
        return len(seen) == 3

    model = Estimator(**SMALL, solver=solver, callbacks=[stop], device="cpu").fit(X, y)
    assert model.n_iter_ == 3
    assert [number for number, _ in seen] == [0, 1, 2]
    assert seen[-1][1] == pytest.approx(model.loss_)


def test_hidden_layers_take_every_activation():
    def prediction(activation, **settings):
        model = MLPRegressor(**SMALL, activation=activation, device="cpu", **settings)
        return model.fit(X, LENGTH).predict(X)

    leaky = prediction("leaky_relu", leak=0.3)
    np.testing.assert_array_equal(leaky, prediction(bp.LeakyReLU(0.3)))
    np.testing.assert_array_equal(leaky, prediction([bp.LeakyReLU(0.3)] * 2))
    assert not np.array_equal(leaky, prediction(["leaky_relu", "gelu"], leak=0.3))
    np.testing.assert_array_equal(prediction("leaky_relu", leak=0), prediction("relu"))
    np.testing.assert_array_equal(prediction("sigmoid"), prediction("logistic"))
    np.testing.assert_array_equal(prediction(["logistic"] * 2), prediction("logistic"))


def test_core_losses_are_minimised():
    y = np.column_stack([LENGTH > 4, LENGTH > 2])
    model = MLPRegressor("binary_cross_entropy", **SMALL, device="cpu").fit(X, y)
    assert model.out_activation_ == "logistic"
    assert ((model.predict(X) > 0) & (model.predict(X) < 1)).all()
    model.partial_fit(X, y, WEIGHTS)
    classifier = MLPClassifier(**SMALL | {"max_iter": 100}, loss="mse", device="cpu")
    assert classifier.fit(X, SPECIES).score(X, SPECIES) > 0.9


@BOTH
def test_threads_are_those_of_the_network(Estimator, y):
    model = clone(Estimator(**SMALL, threads=1, device="cpu")).fit(X, y)
    assert model.network_.threads == 1
    assert pickle.loads(pickle.dumps(model)).network_.threads == 1
    model.coefs_, model.intercepts_ = [np.ones((4, 2)), np.ones((2, 1))], [np.zeros(2), [0.0]]
    assert model.network_.threads == 1
    with pytest.raises(ValueError, match="The 'threads' parameter of MLP"):
        model.set_params(threads=0).fit(X, y)
    model.set_params(threads=2, device=NumpyBackend(threads=1))
    with pytest.raises(bp.DomainError, match="threads is 2, and device is a backend"):
        model.fit(X, y)


@BOTH
def test_a_fitted_network_has_other_threads_when_they_are_set(Estimator, y):
    model = Estimator(**SMALL, threads=1, device="cpu").fit(X, y)
    net = model.network_
    model.set_params(threads=2).partial_fit(X, y)
    assert (net.threads, pickle.loads(pickle.dumps(model)).network_.threads) == (2, 2)
    model.set_params(threads=None).predict(X)
    assert net.threads is None
    assert net is model.network_


@BOTH
def test_a_backend_can_be_searched_with(Estimator, y):
    backend = NumpyBackend(threads=1)
    one, other = (Estimator(**SMALL, device=device) for device in (backend, "cpu"))
    assert clone(one).fit(X, y).network_.threads == 1
    np.testing.assert_array_equal(*(cross_val_score(m, X, y, cv=2) for m in (one, other)))


@BOTH
def test_one_weight_is_that_of_all_samples(Estimator, y):
    one, other = (Estimator(**SMALL, device="cpu").fit(X, y, w) for w in (2, np.full(len(X), 2)))
    assert_same_model(one, other, rtol=0)


def test_class_weights_are_sample_weights():
    by_class = {0: 0.5, 1: 2.0, 2: 1.0}
    weights = np.array([0.5, 2.0, 1.0])[SPECIES]
    one = MLPClassifier(**SMALL, class_weight=by_class, device="cpu").fit(X, SPECIES, WEIGHTS)
    other = MLPClassifier(**SMALL, device="cpu").fit(X, SPECIES, WEIGHTS * weights)
    assert_same_model(other, one)


def test_class_weights_serve_parts_without_some_of_the_classes():
    by_class = {0: 0.5, 1: 2.0}
    weights = np.array([0.5, 2.0, 1.0])[SPECIES]
    one = MLPClassifier(**SMALL, class_weight=by_class, device="cpu")
    other = MLPClassifier(**SMALL, device="cpu")
    for part in (SPECIES > 0, SPECIES < 2):
        one.partial_fit(X[part], SPECIES[part], classes=[0, 1, 2])
        other.partial_fit(X[part], SPECIES[part], weights[part], classes=[0, 1, 2])
    assert_same_model(other, one)

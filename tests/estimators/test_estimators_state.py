"""What an estimator has learned: shown, assigned, copied, and gone on from."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from small_models import BOTH, LENGTH, SMALL, X, assert_same_model, both

import backprop_gpu as bp
from backprop_gpu.estimators import MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@BOTH
def test_what_is_assigned_to_coefs_is_what_predicts_and_learns(Estimator, y):
    theirs, ours = both(Estimator, X, y)
    for model in (theirs, ours):
        model.coefs_ = [W + 0.1 for W in model.coefs_]
        model.intercepts_[0][:] = 0.5
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y))
    assert_same_model(theirs.partial_fit(X, y), ours.partial_fit(X, y))
    assert np.shares_memory(ours.network_.weights[0], ours.coefs_[0])


def test_assigned_coefs_of_another_size_make_another_network():
    model = MLPRegressor(**SMALL, device="cpu").fit(X, LENGTH)
    model.coefs_, model.intercepts_ = [np.ones((4, 2)), np.ones((2, 1))], [np.zeros(2), [1.0]]
    np.testing.assert_allclose(model.predict(X), 2 * X.sum(axis=1) + 1)


@BOTH
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_partial_fit_goes_on_where_it_was_even_after_pickling(Estimator, y, solver):
    theirs, ours = both(Estimator, X, y, solver=solver)
    for _ in range(3):
        theirs.partial_fit(X, y)
        ours = pickle.loads(pickle.dumps(ours)).partial_fit(X, y)
    assert_same_model(theirs, ours)


@BOTH
def test_fit_begins_anew_even_after_pickling(Estimator, y):
    model = Estimator(**SMALL, device="cpu")
    other = pickle.loads(pickle.dumps(copy.copy(model).fit(X[::2], y[::2])))
    assert_same_model(model.fit(X, y), other.fit(X, y))


@BOTH
def test_warm_start_goes_on(Estimator, y):
    theirs, ours = both(Estimator, X, y, warm_start=True)
    assert_same_model(theirs.fit(X, y), ours.fit(X, y))


@BOTH
def test_solvers_and_stopping_rules_take_turns(Estimator, y):
    model = Estimator(**SMALL, solver="lbfgs", warm_start=True, device="cpu").fit(X, y)
    assert not hasattr(model, "loss_curve_")
    for settings in ({"solver": "adam"}, {"early_stopping": True}, {"early_stopping": False}):
        before = model.loss_
        model.set_params(**settings).fit(X, y)
        assert model.loss_ < 2 * before
    assert len(model.loss_curve_) == 3 * SMALL["max_iter"]


@BOTH
def test_an_interrupted_training_leaves_a_model(Estimator, y):
    def interrupt(epoch):
        raise KeyboardInterrupt

    model = Estimator(**SMALL, callbacks=[interrupt], device="cpu")
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(X, y)
    assert model.n_iter_ == 1
    assert model.predict(X).shape == y.shape


@BOTH
def test_copies_predict_the_same(Estimator, y):
    model = Estimator(**SMALL, device="cpu").fit(X, y)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(twin.predict(X), model.predict(X))
    with pytest.raises(NotFittedError):
        clone(model).predict(X)
    assert clone(model).get_params() == model.get_params()


@BOTH
def test_the_same_seed_gives_the_same_bits(Estimator, y):
    one, other = (Estimator(**SMALL, device="cpu").fit(X, y) for _ in range(2))
    for a, b in zip(one.coefs_, other.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_network_inside_is_for_everything_else():
    model = MLPRegressor(**SMALL, device="cpu").fit(X, LENGTH)
    assert isinstance(model.network_, bp.MLP)
    np.testing.assert_array_equal(model.network_(X)[:, 0], model.predict(X))
    with pytest.raises(bp.DtypeError, match=r"MLPRegressor\(.*; expected an MLP: its network_"):
        bp.check_gradients(model, X, LENGTH[:, None])


def test_another_activation_keeps_weights_and_biases():
    one, other = (MLPRegressor(**SMALL, device="cpu").fit(X, LENGTH) for _ in range(2))
    (U, V, W), (b, c, d) = one.coefs_, one.intercepts_
    predicted = other.set_params(activation="tanh").predict(X)
    np.testing.assert_allclose(predicted, (np.tanh(np.tanh(X @ U + b) @ V + c) @ W + d)[:, 0])

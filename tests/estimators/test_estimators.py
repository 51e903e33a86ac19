"""`MLPRegressor` and `MLPClassifier` are scikit-learn's."""

import inspect
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from small_models import BOTH, LABELS, LENGTH, SMALL, SPECIES, WEIGHTS, X, assert_same_model, both

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.estimators import MLPClassifier, MLPRegressor
from backprop_gpu.estimators.losses import BINARY_LOG_LOSS, LOG_LOSS, POISSON, SQUARED_ERROR

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@BOTH
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activation": "logistic", "hidden_layer_sizes": 6},
        {"activation": "tanh", "hidden_layer_sizes": ()},
        {"activation": "identity", "shuffle": False, "batch_size": 1000},
        {"solver": "sgd", "learning_rate_init": 0.1},
        {"solver": "sgd", "momentum": 0, "learning_rate": "invscaling"},
        {"solver": "sgd", "nesterovs_momentum": False, "alpha": 0},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 1, "max_iter": 50},
        {"early_stopping": True, "validation_fraction": 0.3, "tol": 0.1, "max_iter": 50},
        {"n_iter_no_change": 3, "tol": 0.1, "max_iter": 50},
        {"solver": "lbfgs"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_the_model_is_that_of_scikit_learn(Estimator, y, settings):
    assert_same_model(*both(Estimator, X, y, **settings))


class Descending(NumpyBackend):
    """Plain gradient descent is a part of the products, as it is with MKL and on a GPU."""

    def descends(self, flops):
        return True


@BOTH
def test_the_model_is_the_same_where_products_update_the_weights(Estimator, y):
    settings = {"solver": "sgd", "momentum": 0, "learning_rate": "invscaling", "alpha": 0.1}
    theirs, _ = both(Estimator, X, y, **settings)
    assert_same_model(theirs, Estimator(**SMALL | settings, device=Descending()).fit(X, y))


@pytest.mark.parametrize(
    ("Estimator", "y", "settings"),
    [
        (MLPClassifier, SPECIES == 1, {}),
        (MLPClassifier, SPECIES == 1, {"early_stopping": True}),
        (MLPClassifier, np.array(["a", "b", "c"])[SPECIES], {}),
        (MLPClassifier, LABELS, {}),
        (MLPRegressor, X[:, :3], {}),
        (MLPRegressor, SPECIES, {"loss": "poisson"}),
    ],
    ids=["two classes", "stratified", "text", "several labels", "several outputs", "poisson"],
)
def test_every_kind_of_target_is_learned_as_in_scikit_learn(Estimator, y, settings):
    theirs, ours = both(Estimator, X, y, **settings)
    assert_same_model(theirs, ours)
    predicted = ours.predict(X)
    assert predicted.dtype == theirs.predict(X).dtype
    if Estimator is MLPClassifier:
        np.testing.assert_array_equal(predicted, theirs.predict(X))
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X))
        np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X))
    else:
        np.testing.assert_allclose(predicted, theirs.predict(X))
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y))


@BOTH
@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_samples_weigh_what_they_weigh_in_scikit_learn(Estimator, y, settings):
    assert_same_model(*both(Estimator, X, y, WEIGHTS, **settings))


@BOTH
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_sparse_data_give_the_model_of_dense_data(Estimator, y, weights):
    settings = SMALL | {"device": "cpu"}
    dense = Estimator(**settings).fit(X, y, weights)
    sparse = Estimator(**settings).fit(scipy.sparse.csc_array(X), y, weights)
    assert_same_model(dense, sparse)
    np.testing.assert_array_equal(sparse.predict(scipy.sparse.csr_array(X)), dense.predict(X))


@BOTH
def test_float32_data_are_learned_in_float32(Estimator, y):
    theirs, ours = both(Estimator, X.astype(np.float32), y)
    assert ours.network_.dtype == np.float32
    assert_same_model(theirs, ours, rtol=1e-4)


@BOTH
def test_dtype_says_what_is_computed_in(Estimator, y):
    model = Estimator(**SMALL, dtype="float32", device="cpu").fit(X, y)
    assert {W.dtype for W in model.coefs_} == {np.dtype(np.float32)}


@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
def test_parameters_are_those_of_scikit_learn_and_more_by_name(Estimator):
    theirs = inspect.signature(getattr(sklearn.neural_network, Estimator.__name__)).parameters
    ours = inspect.signature(Estimator).parameters

    def positional(parameters):
        return [p.name for p in parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]

    assert positional(ours) == positional(theirs)
    assert {name: ours[name].default for name in theirs} == {
        name: theirs[name].default for name in theirs
    }
    assert [name for name in ours if name in theirs and ours[name].kind == theirs[name].kind] == [
        *theirs
    ]


@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
def test_scikit_learns_checks_of_an_estimator_pass(Estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(Estimator(max_iter=100, device="cpu"), on_skip=None)


@BOTH
def test_they_work_in_pipelines_and_searches(Estimator, y):
    pipeline = make_pipeline(StandardScaler(), Estimator(**SMALL, device="cpu"))
    name = f"{Estimator.__name__.lower()}__alpha"
    search = GridSearchCV(pipeline, {name: [1e-4, 1.0]}, cv=2).fit(X, y)
    assert search.best_params_[name] in (1e-4, 1.0)
    assert cross_val_score(pipeline, X, y, cv=2).shape == (2,)
    assert "MLP" in search.best_estimator_._repr_html_()


@pytest.mark.parametrize(
    ("loss", "last", "y"),
    [
        (SQUARED_ERROR, "identity", X[:, :1]),
        (POISSON, "exp", X[:, :3]),
        (LOG_LOSS, "softmax", np.eye(3)[SPECIES]),
        (BINARY_LOG_LOSS, "sigmoid", LABELS),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_gradients_are_those_of_the_losses(loss, last, y):
    net = bp.MLP([4, 3, y.shape[1]], ["tanh", last], device="cpu", dtype="float64")
    bp.check_gradients(net, X[::10], y[::10], loss)


def test_one_class_alone_is_always_predicted():
    model = MLPClassifier(**SMALL, device="cpu").fit(X, np.full(len(X), "only"))
    assert set(model.predict(X)) == {"only"}


@pytest.mark.parametrize("y", [SPECIES > 0, SPECIES, LABELS], ids=["two", "three", "several"])
def test_what_is_no_more_probable_than_the_first_class_is_not_predicted(y):
    theirs, ours = both(MLPClassifier, X, y, max_iter=1)
    for model in (theirs, ours):
        for array in (*model.coefs_, *model.intercepts_):
            array[...] = 0
    assert not ours.predict(X).any()
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_a_warning_says_that_more_epochs_are_needed():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(12\) reached"):
        MLPRegressor(**SMALL, device="cpu").fit(X, LENGTH)


def test_without_scikit_learn_it_says_what_to_install():
    script = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import backprop_gpu\n"
        "try: import backprop_gpu.estimators\n"
        "except backprop_gpu.MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert 'pip install "backprop-gpu[sklearn]"' in done.stdout, done.stderr

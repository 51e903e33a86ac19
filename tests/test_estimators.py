"""`MLPRegressor` and `MLPClassifier` are scikit-learn's, and more."""

import copy
import inspect
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from host.backend import emulated_backend
from host.launcher import unavailable_reason
from sklearn.base import clone
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.backends.cupy_device import unusable
from backprop_gpu.estimators import MLPClassifier, MLPRegressor
from backprop_gpu.estimators.losses import BINARY_LOG_LOSS, LOG_LOSS, POISSON, SQUARED_ERROR

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, SPECIES = load_iris(return_X_y=True)
LENGTH = X[:, 2]
LABELS = make_multilabel_classification(150, 4, n_classes=3, random_state=0)[1]
WEIGHTS = np.random.default_rng(0).uniform(0.1, 2, len(X))
BOTH = pytest.mark.parametrize(
    ("Estimator", "y"), [(MLPClassifier, SPECIES), (MLPRegressor, LENGTH)]
)
SMALL = {"hidden_layer_sizes": (7, 5), "batch_size": 40, "max_iter": 12, "random_state": 0}


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


def test_assigned_coefs_that_fit_nothing_are_refused():
    model = MLPRegressor(**SMALL, device="cpu").fit(X, LENGTH)
    model.intercepts_[1] = np.zeros(3)
    with pytest.raises(bp.ShapeError, match=r"biases\[1\]"):
        model.predict(X)


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


@BOTH
def test_they_work_in_pipelines_and_searches(Estimator, y):
    pipeline = make_pipeline(StandardScaler(), Estimator(**SMALL, device="cpu"))
    name = f"{Estimator.__name__.lower()}__alpha"
    search = GridSearchCV(pipeline, {name: [1e-4, 1.0]}, cv=2).fit(X, y)
    assert search.best_params_[name] in (1e-4, 1.0)
    assert cross_val_score(pipeline, X, y, cv=2).shape == (2,)
    assert "MLP" in search.best_estimator_._repr_html_()


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


def test_core_losses_are_minimised():
    y = np.column_stack([LENGTH > 4, LENGTH > 2])
    model = MLPRegressor("binary_cross_entropy", **SMALL, device="cpu").fit(X, y)
    assert model.out_activation_ == "logistic"
    assert ((model.predict(X) > 0) & (model.predict(X) < 1)).all()
    model.partial_fit(X, y, WEIGHTS)
    classifier = MLPClassifier(**SMALL | {"max_iter": 100}, loss="mse", device="cpu")
    assert classifier.fit(X, SPECIES).score(X, SPECIES) > 0.9


def test_class_weights_are_sample_weights():
    by_class = {0: 0.5, 1: 2.0, 2: 1.0}
    weights = np.array([0.5, 2.0, 1.0])[SPECIES]
    one = MLPClassifier(**SMALL, class_weight=by_class, device="cpu").fit(X, SPECIES, WEIGHTS)
    other = MLPClassifier(**SMALL, device="cpu").fit(X, SPECIES, WEIGHTS * weights)
    assert_same_model(other, one)


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


def test_the_network_inside_is_for_everything_else():
    model = MLPRegressor(**SMALL, device="cpu").fit(X, LENGTH)
    assert isinstance(model.network_, bp.MLP)
    np.testing.assert_array_equal(model.network_(X)[:, 0], model.predict(X))
    with pytest.raises(bp.DtypeError, match=r"MLPRegressor\(.*; expected an MLP: its network_"):
        bp.check_gradients(model, X, LENGTH[:, None])


@pytest.mark.parametrize(
    ("settings", "y", "error", "message"),
    [
        ({"activation": "rleu"}, LENGTH, bp.UnknownNameError, "did you mean 'relu'"),
        ({"activation": ["relu"]}, LENGTH, bp.ShapeError, "list of 1.*2 hidden"),
        ({"loss": "absolute_error"}, LENGTH, bp.UnknownNameError, "did you mean 'squared_error'"),
        ({"loss": "poisson"}, -LENGTH, bp.DomainError, "below 0"),
        ({"loss": "binary_cross_entropy"}, LENGTH, bp.DomainError, "between 0 and 1"),
        ({"device": "gpu"}, LENGTH, bp.DeviceError, "unknown device"),
        ({"dtype": "float16"}, LENGTH, bp.DtypeError, "float16"),
        ({"callbacks": [print, 3]}, LENGTH, bp.DomainError, "callbacks"),
        ({"alpha": -1}, LENGTH, ValueError, "'alpha' parameter of MLPRegressor must be"),
        ({"hidden_layer_sizes": [3, 0]}, LENGTH, ValueError, "must be > 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_said_before_anything_is_learned(settings, y, error, message):
    model = MLPRegressor(**SMALL | {"device": "cpu"} | settings)
    with pytest.raises(error, match=message):
        model.fit(X, y)
    assert not hasattr(model, "coefs_")


def test_one_class_alone_is_always_predicted():
    model = MLPClassifier(**SMALL, device="cpu").fit(X, np.full(len(X), "only"))
    assert set(model.predict(X)) == {"only"}


def test_classes_that_come_later_are_named_at_first():
    model = MLPClassifier(**SMALL, device="cpu")
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X[:100], SPECIES[:100])
    model.partial_fit(X[:100], SPECIES[:100], classes=[0, 1, 2])
    assert model.partial_fit(X, SPECIES).predict_proba(X).shape == (150, 3)
    with pytest.raises(ValueError, match="has classes not in"):
        model.partial_fit(X, SPECIES + 1)


def test_class_weights_serve_parts_without_some_of_the_classes():
    by_class = {0: 0.5, 1: 2.0}
    weights = np.array([0.5, 2.0, 1.0])[SPECIES]
    one = MLPClassifier(**SMALL, class_weight=by_class, device="cpu")
    other = MLPClassifier(**SMALL, device="cpu")
    for part in (SPECIES > 0, SPECIES < 2):
        one.partial_fit(X[part], SPECIES[part], classes=[0, 1, 2])
        other.partial_fit(X[part], SPECIES[part], weights[part], classes=[0, 1, 2])
    assert_same_model(other, one)


@pytest.mark.parametrize("weight", [-2, np.nan, np.inf])
def test_class_weights_are_not_negative(weight):
    model = MLPClassifier(**SMALL, class_weight={0: 1.0, 1: weight}, device="cpu")
    for learn in (model.fit, model.partial_fit):
        with pytest.raises(bp.DomainError, match=rf"class_weight\[1\] is {weight}"):
            learn(X, SPECIES > 0, **{} if learn == model.fit else {"classes": [False, True]})


def test_balanced_classes_need_all_samples():
    model = MLPClassifier(class_weight="balanced", device="cpu")
    assert model.fit(X, SPECIES).score(X, SPECIES) > 0.5
    with pytest.raises(bp.DomainError, match="all samples at once"):
        model.partial_fit(X, SPECIES)


def test_a_batch_without_weight_is_refused():
    model = MLPRegressor(**SMALL, shuffle=False, device="cpu")
    with pytest.raises(ZeroDivisionError, match="of a batch"):
        model.fit(X, LENGTH, sample_weight=np.arange(len(X)) >= 40)


@BOTH
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_divergence_is_an_error(Estimator, y, solver):
    model = Estimator(
        **SMALL, solver=solver, activation="identity", learning_rate_init=1e200, device="cpu"
    )
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        model.fit(X, y)


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


class OnDevice(np.ndarray):
    """Stands for an array in GPU memory, where NumPy stands for CuPy."""

    __array_priority__ = 1

    @property
    def __cuda_array_interface__(self):
        return self.__array_interface__


@pytest.fixture
def device():
    """Return the CUDA backend on the CPU; it counts what is brought to the host."""
    if reason := unavailable_reason():
        pytest.skip(reason)
    backend, to_numpy = emulated_backend(), emulated_backend().to_numpy
    backend.brought = []

    def counted(array):
        backend.brought.append(array.size)
        return to_numpy(array)

    backend.to_numpy = counted
    return backend


FEW = {"hidden_layer_sizes": 5, "batch_size": 80, "max_iter": 2, "random_state": 0}


@pytest.mark.parametrize(
    ("Estimator", "y"),
    [
        (MLPClassifier, SPECIES),
        (MLPClassifier, (SPECIES == 1).astype(int)),
        (MLPClassifier, LABELS),
        (MLPRegressor, LENGTH),
        (MLPRegressor, X[:, :2]),
    ],
    ids=["classes", "two classes", "several labels", "number", "several numbers"],
)
def test_arrays_on_a_gpu_stay_there(Estimator, y, device):
    on_cpu = Estimator(**FEW, device="cpu").fit(X, y)
    x, target = X.view(OnDevice), np.asarray(y).view(OnDevice)
    model = Estimator(**FEW, device=device).fit(x, target)
    predicted = model.predict(x)
    assert max(device.brought) < len(X)  # classes and losses, no data
    np.testing.assert_allclose(predicted, on_cpu.predict(X), rtol=1e-9)
    assert_same_model(on_cpu, model, rtol=1e-8)
    assert model.score(x, target) == pytest.approx(on_cpu.score(X, y))
    np.testing.assert_allclose(model.predict(X), on_cpu.predict(X), rtol=1e-9)


@BOTH
def test_a_gpu_learns_what_the_cpu_learns(Estimator, y, device):
    settings = FEW | {"early_stopping": True, "class_weight": "balanced"}
    if Estimator is MLPRegressor:
        del settings["class_weight"]
    on_cpu = Estimator(**settings, device="cpu").fit(X, y, WEIGHTS)
    model = Estimator(**settings, device=device).fit(X, y, WEIGHTS)
    assert_same_model(on_cpu, model, rtol=1e-8)


def on_cuda(values):
    if reason := unusable():
        pytest.skip(reason)
    return pytest.importorskip("cupy").asarray(values)


def classifier(device="cuda", **settings):
    return MLPClassifier(**FEW | settings, device=device)


def regressor(device="cuda"):
    return MLPRegressor(**FEW, device=device)


@pytest.mark.gpu
@pytest.mark.parametrize("factor", [2, 0.4, -1])
def test_several_labels_on_a_gpu_are_0_or_1(factor):
    x, y = on_cuda(X), on_cuda(LABELS)
    assert classifier().fit(x, y).predict(x).shape == LABELS.shape
    model = classifier()
    for learn in (model.fit, lambda x, y: model.partial_fit(x, y, classes=range(3))):
        with pytest.raises(ValueError, match="Multioutput target data is not supported"):
            learn(x, y * factor)
    assert not hasattr(model, "coefs_")
    assert model.partial_fit(x, on_cuda(SPECIES), classes=range(3)).predict(x).ndim == 1


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"class_weight": "balanced", "early_stopping": True}])
def test_text_is_learned_and_predicted_on_a_gpu(settings):
    x, names = on_cuda(X), np.array(["a", "b", "c"])[SPECIES]
    expected = classifier("cpu", **settings).fit(X, names)
    for given in (X, x):
        model = classifier(**settings).fit(given, names)
        np.testing.assert_array_equal(model.predict(x), expected.predict(X))
        assert model.score(x, names) == expected.score(X, names)


@pytest.mark.gpu
@BOTH
def test_targets_may_be_elsewhere_than_inputs(Estimator, y):
    x, target = on_cuda(X), on_cuda(y)
    on_cpu = Estimator(**FEW, device="cpu").fit(X, y)
    for given, targets in ((X, target), (x, y)):
        assert_same_model(on_cpu, Estimator(**FEW, device="cuda").fit(given, targets), rtol=1e-8)
    assert on_cpu.score(X, target, on_cuda(WEIGHTS)) == on_cpu.score(X, y, WEIGHTS)
    for name, data in {"X": (x, target), "y": (X, target)}.items():
        model = Estimator(**FEW, device="cpu")
        with pytest.raises(bp.DeviceError, match=f"^{name} .* is in GPU memory and the network on"):
            model.fit(*data)
        assert not hasattr(model, "n_features_in_")


@pytest.mark.gpu
def test_classes_may_be_on_a_gpu():
    classes = on_cuda(np.arange(3))
    model = classifier().partial_fit(on_cuda(X), on_cuda(SPECIES), classes=classes)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])


@pytest.mark.gpu
def test_a_network_learns_on_where_it_is():
    for device, x, y in (("cuda", on_cuda(X), on_cuda(LENGTH)), ("cpu", X, LENGTH)):
        model = regressor(device).fit(x, y)
        model.set_params(device="cpu" if device == "cuda" else "cuda").partial_fit(x, y)
        assert model.network_.device.startswith(device)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[0], LENGTH, r"got 1D array instead: X has shape \(4,\)"),
        (X[0, 0], LENGTH, "got 0D array"),
        (X[:0], LENGTH[:0], r"Found array with 0 sample\(s\) \(shape=\(0, 4\)\)"),
        (X[:, :0], LENGTH, r"Found array with 0 feature\(s\)"),
        (X, LENGTH[0], r"y has shape \(\)"),
        (X, LENGTH[1:], "inconsistent numbers of samples"),
    ],
)
@pytest.mark.parametrize("make", [classifier, regressor])
def test_shapes_on_a_gpu_are_checked_at_once(make, x, y, message):
    model = make()
    with pytest.raises(ValueError, match=message):
        model.fit(on_cuda(x), on_cuda(y))
    assert not hasattr(model, "n_features_in_")

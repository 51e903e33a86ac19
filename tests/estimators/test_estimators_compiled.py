"""scikit-learn's solvers by the compiled loop: the model of single steps, and when it is chosen."""

import warnings

import numpy as np
import pytest
from cases import Killed, killed_after
from host.needs import needs_compiler

pytest.importorskip("sklearn")

import sklearn.neural_network
from sklearn.base import clone
from sklearn.datasets import load_iris, make_multilabel_classification

import backprop_gpu as bp
from backprop_gpu.compiled import CompileError, loop
from backprop_gpu.estimators import MLPClassifier, MLPRegressor
from backprop_gpu.training import planning

pytestmark = [
    needs_compiler,
    pytest.mark.usefixtures("compiled_soon"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

X, SPECIES = load_iris(return_X_y=True)
LENGTH = X[:, 2]
LABELS = make_multilabel_classification(150, 4, n_classes=3, random_state=0)[1]
SMALL = {"hidden_layer_sizes": (9, 5), "batch_size": 40, "max_iter": 12, "random_state": 0}
SOLVERS = {
    "adam": {},
    "adam without a penalty": {"alpha": 0, "hidden_layer_sizes": ()},
    "adam in their order": {"shuffle": False, "alpha": 0.1},
    "one batch": {"batch_size": 150},
    "single samples": {"batch_size": 1, "max_iter": 3},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.1},
    "sgd without momentum": {"solver": "sgd", "momentum": 0, "learning_rate": "invscaling"},
    "sgd with momentum": {"solver": "sgd", "nesterovs_momentum": False, "alpha": 0},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 1, "max_iter": 50},
    "early stopping": {"early_stopping": True, "validation_fraction": 0.3, "tol": 0.1},
    "until it stalls": {"n_iter_no_change": 3, "tol": 0.1, "max_iter": 50},
}
TARGETS = {
    "classes": (MLPClassifier, SPECIES),
    "two classes": (MLPClassifier, SPECIES == 1),
    "labels": (MLPClassifier, LABELS),
    "a number": (MLPRegressor, LENGTH),
    "numbers": (MLPRegressor, X[:, :3]),
}


@pytest.fixture
def every_fit_is_long(monkeypatch):
    monkeypatch.setattr(loop, "WORTH_COMPILING", 0)


def new(Estimator, path, **settings):
    return Estimator(**SMALL | settings, device="cpu", path=path)


def assert_same_model(one, other, tolerance=1e-12):
    assert one.n_iter_ == other.n_iter_
    assert one.t_ == other.t_
    shown = [*one.coefs_, *one.intercepts_, one.loss_curve_]
    expected = [*other.coefs_, *other.intercepts_, other.loss_curve_]
    for a, b in zip(shown, expected, strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance * np.max(np.abs(b)))
    if getattr(other, "validation_scores_", None) is not None:
        np.testing.assert_allclose(
            one.validation_scores_, other.validation_scores_, max(tolerance, 1e-9)
        )


def assert_same_bits(one, other):
    for a, b in zip(
        [*one.coefs_, *one.intercepts_], [*other.coefs_, *other.intercepts_], strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert one.loss_curve_ == other.loss_curve_


@pytest.mark.parametrize("settings", SOLVERS)
@pytest.mark.parametrize("target", ["classes", "a number"])
def test_the_model_is_that_of_single_steps_and_of_scikit_learn(target, settings):
    (Estimator, y), settings = TARGETS[target], SOLVERS[settings]
    compiled = new(Estimator, "compiled", **settings).fit(X, y)
    steps = new(Estimator, "steps", **settings).fit(X, y)
    theirs = getattr(sklearn.neural_network, Estimator.__name__)(**SMALL | settings).fit(X, y)
    assert (compiled.path_, steps.path_) == ("compiled", "steps")
    assert_same_model(compiled, steps)
    assert_same_model(compiled, theirs, 1e-10)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_every_kind_of_target(dtype, tolerance, target):
    (Estimator, y), settings = TARGETS[target], {"dtype": dtype, "solver": "sgd"}
    compiled = new(Estimator, "compiled", **settings).fit(X, y)
    assert compiled.coefs_[0].dtype == dtype
    assert_same_model(compiled, new(Estimator, "steps", **settings).fit(X, y), tolerance)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 1, "max_iter": 3},
        {"solver": "sgd", "alpha": 0.1},
        {"early_stopping": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-12)])
def test_samples_that_count_differently(dtype, tolerance, target, settings):
    Estimator, y = TARGETS[target]
    if target == "labels":
        settings = settings | {"early_stopping": False}
    weights = np.random.default_rng(0).uniform(0.1, 2, len(X))
    compiled = new(Estimator, "compiled", dtype=dtype, **settings).fit(X, y, weights)
    assert compiled.path_ == "compiled"
    steps = new(Estimator, "steps", dtype=dtype, **settings).fit(X, y, weights)
    assert_same_model(compiled, steps, tolerance)


def test_classes_that_count_differently():
    settings = {"class_weight": {0: 3.0, 2: 0.5}}
    compiled = new(MLPClassifier, "compiled", **settings).fit(X, SPECIES)
    assert compiled.path_ == "compiled"
    assert_same_model(compiled, new(MLPClassifier, "steps", **settings).fit(X, SPECIES))
    without = new(MLPClassifier, "compiled").fit(X, SPECIES)
    assert not np.array_equal(compiled.coefs_[0], without.coefs_[0])


def test_the_order_in_memory_does_not_matter():
    rows, columns = (
        new(MLPRegressor, "compiled").fit(np.asarray(X, order=order), LENGTH) for order in "CF"
    )
    assert_same_bits(rows, columns)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_what_was_learned_is_gone_on_from(solver):
    """By `partial_fit`, by `fit` with `warm_start`, and by another path."""
    models = [new(MLPClassifier, path, solver=solver) for path in ("compiled", "steps")]
    for model in models:
        for rows in (slice(0, 100), slice(30, 150), slice(0, 45)):
            model.partial_fit(X[rows], SPECIES[rows], classes=range(3))
        model.set_params(warm_start=True).fit(X, SPECIES)
    assert [model.path_ for model in models] == ["compiled", "steps"]
    assert_same_model(*models)
    for model in reversed(models):
        model.set_params(path="steps").partial_fit(X, SPECIES)
        assert model.path_ == "steps"
    assert_same_model(*models)


def test_epochs_that_are_watched_give_the_same_bits():
    epochs = []
    watched = new(MLPClassifier, "compiled", callbacks=[epochs.append]).fit(X, SPECIES)
    assert len(epochs) == 12
    assert_same_bits(watched, new(MLPClassifier, "compiled").fit(X, SPECIES))


@pytest.mark.parametrize("alpha", [0, 1e-4])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("target", ["classes", "labels", "a number"])
def test_nan_ends_the_fit_where_it_ends_that_of_single_steps(target, early, alpha):
    Estimator, y = TARGETS[target]
    early = early and target != "labels"
    settings = {"solver": "sgd", "learning_rate_init": 1e200, "momentum": 0, "alpha": alpha}
    curves = []
    for path in ("compiled", "steps"):
        model = new(Estimator, path, **settings, early_stopping=early)
        if early:  # the best parameters so far are kept
            assert np.isfinite(model.fit(X, y).coefs_[0]).all()
        else:
            with pytest.raises(ValueError, match="non-finite"):
                model.fit(X, y)
        assert model.path_ == path
        curves.append(np.isfinite(model.loss_curve_).tolist())
    assert curves[0] == curves[1]
    assert not curves[0][-1]


@pytest.mark.parametrize("settings", ["adam", "sgd without momentum", "early stopping"])
def test_a_fit_that_was_killed_ends_with_the_same_bits(settings, tmp_path):
    """On the path of its checkpoint: "auto" would not compile anything for so short a fit."""
    pytest.importorskip("safetensors")
    settings, checkpoints = SOLVERS[settings], {"checkpoint": tmp_path, "checkpoint_every": 3}
    whole = new(MLPClassifier, "compiled", **settings).fit(X, SPECIES)
    killed = new(MLPClassifier, "compiled", **settings, **checkpoints)
    with pytest.raises(Killed):
        killed.set_params(callbacks=[killed_after(7)]).fit(X, SPECIES)
    resumed = new(MLPClassifier, "auto", **settings, **checkpoints, resume=True)
    assert_same_bits(resumed.fit(X, SPECIES), whole)
    assert resumed.path_ == "compiled"
    assert new(MLPClassifier, "auto", **settings).fit(X, SPECIES).path_ == "steps"


@pytest.mark.parametrize(("planned", "max_iter"), [(12, 12), (139, 139), (140, 5000)])
def test_it_is_chosen_for_the_epochs_that_a_fit_may_take_but_140_at_most(
    planned, max_iter, monkeypatch
):
    rows, weights = 40, 4 * 9 + 9 * 5 + 5 * 3
    step = planning.SECONDS_PER_STEP + 2 * planning.SECONDS_PER_SLOT  # of Adam
    step += 6 * rows * weights * planning.SECONDS_PER_FLOP
    enough_for = {"callbacks": [lambda epoch: True], "max_iter": max_iter}
    for epochs, path in ((planned, "compiled"), (planned + 1, "steps")):
        monkeypatch.setattr(loop, "WORTH_COMPILING", 4 * step * (epochs - 0.5))
        assert new(MLPClassifier, "auto", **enough_for).fit(X, SPECIES).path_ == path


def test_a_call_of_partial_fit_is_one_epoch_whatever_max_iter_says(monkeypatch):
    monkeypatch.setattr(loop, "WORTH_COMPILING", 2e-4)
    assert new(MLPClassifier, "auto").fit(X, SPECIES).path_ == "compiled"
    assert new(MLPClassifier, "auto").partial_fit(X, SPECIES, classes=range(3)).path_ == "steps"


def sparse(path):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    return new(MLPRegressor, path).fit(scipy_sparse.csr_array(X), LENGTH)


def streamed(path):
    return new(MLPRegressor, path).partial_fit([(X, LENGTH)])


def own_loss(path):
    loss = bp.Loss("l1", lambda xp, a, y: abs(a - y).sum(1), lambda xp, a, y: xp.sign(a - y))
    return new(MLPRegressor, path, loss=loss).fit(X, LENGTH)


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        (sparse, "a sparse matrix takes single steps"),
        (streamed, "a stream of batches takes single steps"),
        (own_loss, r"'l1' has no C\+\+"),
    ],
)
@pytest.mark.usefixtures("every_fit_is_long")
def test_what_only_single_steps_can_do(fit, reason):
    assert fit("auto").path_ == "steps"
    with pytest.raises(bp.DomainError, match=reason):
        fit("compiled")


@pytest.mark.parametrize("warm_start", [False, True])
def test_another_solver_has_no_path(warm_start):
    model = new(MLPRegressor, "steps", warm_start=warm_start).fit(X, LENGTH)
    assert not hasattr(model.set_params(solver="lbfgs", path="auto").fit(X, LENGTH), "path_")


@pytest.mark.usefixtures("every_fit_is_long")
def test_numpy_takes_over_if_nothing_can_be_compiled():
    wrong = bp.Activation(
        *("wrong", lambda xp, z: 1 * z, lambda xp, a: xp.ones_like(a)),
        **{"derivative_from": "a", "cuda": "no_such(z)", "cuda_derivative": "real(1)"},
    )
    with pytest.warns(UserWarning, match=r"no_such[\s\S]*NumPy runs") as caught:
        model = new(MLPRegressor, "auto", activation=wrong).fit(X, LENGTH)
    assert caught[0].filename == __file__
    assert model.path_ == "steps"
    with pytest.raises(CompileError, match="no_such"):
        new(MLPRegressor, "compiled", activation=wrong).fit(X, LENGTH)


@pytest.mark.usefixtures("every_fit_is_long")
def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "c++")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        assert new(MLPRegressor, "auto").fit(X, LENGTH).path_ == "steps"
    with pytest.raises(bp.DomainError, match=r"install g\+\+"):
        new(MLPRegressor, "compiled").fit(X, LENGTH)


def test_the_parameter():
    model = new(MLPRegressor, "compiled")
    assert clone(model).get_params()["path"] == "compiled"
    assert MLPClassifier().get_params()["path"] == "auto"
    with pytest.raises(ValueError, match="path"):
        new(MLPRegressor, "one launch").fit(X, LENGTH)
    with pytest.raises(bp.DomainError, match="'lbfgs'"):
        new(MLPRegressor, "compiled", solver="lbfgs").fit(X, LENGTH)

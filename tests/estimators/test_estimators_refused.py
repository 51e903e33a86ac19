"""What cannot be is said before anything is learned, and changes nothing."""

import re
from itertools import product

import numpy as np
import pytest
import scipy.sparse
from small_models import (
    BOTH,
    FEW,
    LABELS,
    LENGTH,
    SMALL,
    SPECIES,
    WEIGHTS,
    X,
    assert_same_model,
    on_cuda,
    unchanged,
)

import backprop_gpu as bp
from backprop_gpu.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


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
        ({"solver": bp.AdamW()}, LENGTH, bp.DomainError, r"AdamW\(.* train model.network_"),
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


def test_an_unknown_activation_is_told_of_scikit_learns_names_and_of_lists():
    for activation, name in (
        ("logistics", "'logistics'"),
        (["relu", "tan"], "'tan'"),
        ([["relu"], "tanh"], r"\['relu'\]"),
    ):
        model = MLPClassifier(**SMALL, activation=activation, device="cpu")
        known = rf"unknown activation {name}; .*'logistic', .*; or a list with one for each hidden"
        with pytest.raises(bp.UnknownNameError, match=known):
            model.fit(X, SPECIES)


def models(Estimator, settings, **more):
    """One that has learned nothing, and one that learned before it got these settings."""
    y = SPECIES if Estimator is MLPClassifier else LENGTH
    common = SMALL | {"device": "cpu"} | more
    fitted = Estimator(**common).fit(X, y).set_params(**settings)
    assert fitted.coefs_  # they are among what may not change
    return Estimator(**common | settings), fitted


def learn(model, way, *data):
    if way == "partial_fit" and isinstance(model, MLPClassifier):
        return model.partial_fit(*data, classes=range(3))
    return getattr(model, way)(*data)


def case(error, message, *, kind=MLPClassifier, x=X, y=SPECIES, weights=None, **settings):
    return kind, settings, (x, y, weights), error, message


TEXT = LENGTH.astype(str)
CASES = {
    "few weights": case(ValueError, "sample_weight.shape", weights=WEIGHTS[:-1]),
    "text as weights": case(bp.DtypeError, "sample_weight has dtype <U32", weights=TEXT),
    "a weight below 0": case(
        ValueError, "Negative values in data passed to `sample_weight`", weights=WEIGHTS - 0.2
    ),
    "weights below 0 that cancel out": case(
        ValueError, "Negative values", weights=np.tile([1, -1], 75)
    ),
    "one weight for all, below 0": case(ValueError, "Negative values", weights=-1),
    "no weight above 0": case(ValueError, "Sample weights must contain", weights=0 * WEIGHTS),
    "weights that overflow": case(
        bp.DomainError, "the sum of sample_weight is inf", weights=np.full(len(X), 1e308)
    ),
    "a batch without weight": case(
        ZeroDivisionError, "of a batch", weights=np.arange(len(X)) >= 40, shuffle=False
    ),
    "a class that weighs a text": case(
        bp.DomainError, "class_weight[0] is 'a'", class_weight={0: "a", 1: 1, 2: 1}
    ),
    "class weights of no class": case(
        bp.DomainError, "a dict for each of the 1 columns", class_weight=[3]
    ),
    "numbers as classes": case(
        ValueError, "Maybe you are trying to fit a classifier", y=LENGTH / 3
    ),
    "classes of all kinds": case(
        bp.DtypeError, "classes that can't be compared", y=np.array(["a", 1, None] * 50, object)
    ),
    "a loss of the regressor": case(bp.UnknownNameError, "unknown loss", loss="poisson"),
    "a path not to be had": case(
        bp.DomainError, "path='compiled' can't run", x=scipy.sparse.csr_array(X), path="compiled"
    ),
    "half a node": case(ValueError, "'hidden_layer_sizes' param", hidden_layer_sizes=3.5),
    "half nodes": case(bp.DomainError, "whole number", hidden_layer_sizes=[3.5]),
    "a node, or none": case(bp.DomainError, "whole number", hidden_layer_sizes=True),
    "text": case(bp.DtypeError, "y has dtype <U32", kind=MLPRegressor, y=TEXT),
    "text as counts": case(
        bp.DtypeError, "y has dtype <U32", kind=MLPRegressor, y=TEXT, loss="poisson"
    ),
    "sparse counts": case(
        *(bp.DtypeError, "y is a sparse matrix"),
        **{"kind": MLPRegressor, "y": scipy.sparse.csr_array(X), "loss": "poisson"},
    ),
}
CASES_OF_FIT = {
    "nobody to watch": case(
        *(ValueError, "validation set is too small"), early_stopping=True, validation_fraction=0.001
    ),
    "checkpoints of chance": case(
        *(bp.DomainError, "needs a number as random_state"), checkpoint="folder", random_state=None
    ),
}


@pytest.mark.parametrize(
    ("name", "way"), [*product(CASES, ("fit", "partial_fit")), *product(CASES_OF_FIT, ("fit",))]
)
def test_what_is_refused_changes_nothing(name, way):
    Estimator, settings, data, error, message = (CASES | CASES_OF_FIT)[name]
    for model in models(Estimator, settings):
        with unchanged(model), pytest.raises(error, match=re.escape(message)):
            learn(model, way, *data)


@pytest.mark.parametrize(
    "settings",
    [{"solver": "foo"}, {"batch_size": 0}, {"momentum": 1}, {"tol": "a"}, {"callbacks": None}],
    ids=str,
)
def test_settings_may_become_wrong(settings):
    (name,) = settings
    for model, way in product(models(MLPRegressor, settings), ("fit", "partial_fit")):
        with unchanged(model), pytest.raises(ValueError, match=f"The '{name}' parameter of MLP"):
            learn(model, way, X, LENGTH)


@BOTH
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_a_call_that_failed_is_forgotten(Estimator, y, solver):
    settings = SMALL | {"solver": solver, "shuffle": False, "device": "cpu"}
    one, other = Estimator(**settings), Estimator(**settings)
    for _ in range(3):
        for data in ((np.where(X > 7, np.nan, X), y), (X, y, np.arange(len(X)) >= 40)):
            with pytest.raises((ValueError, ZeroDivisionError)):
                learn(other, "partial_fit", *data)
        for model in (one, other):
            learn(model, "partial_fit", X, y)
    assert_same_model(one, other, rtol=0)


def test_other_classes_can_be_named_after_a_call_that_failed():
    model = MLPClassifier(**SMALL, device="cpu")
    for y, classes in ((SPECIES, [0, 1]), (np.array(["a", "b", "c"])[SPECIES], range(3))):
        with pytest.raises(ValueError, match="has classes not in"):
            model.partial_fit(X, y, classes=classes)
    other = MLPClassifier(**SMALL, device="cpu").partial_fit(X, LABELS, classes=range(3))
    assert_same_model(other, model.partial_fit(X, LABELS, classes=range(3)), rtol=0)


def test_labels_and_classes_do_not_take_turns():
    classes, labels = (MLPClassifier(**SMALL, device="cpu").fit(X, y) for y in (SPECIES, LABELS))
    for model, y, shape in (
        (classes, LABELS, r"\(150, 3\); expected \(samples,\) as before"),
        (labels, SPECIES, r"\(150,\); expected \(samples, 3\), a column for every label as before"),
        (labels, LABELS[:, :2], r"\(150, 2\); expected \(samples, 3\)"),
    ):
        for data in ((X, y), ([(X, y)],)):
            with unchanged(model), pytest.raises(bp.ShapeError, match="y has shape " + shape):
                model.partial_fit(*data)
    for model, y in ((classes, LABELS), (labels, SPECIES)):
        with unchanged(model.set_params(warm_start=True)), pytest.raises(bp.ShapeError):
            model.fit(X, y)
    model = MLPClassifier(**SMALL, device="cpu")
    with unchanged(model), pytest.raises(bp.ShapeError, match=r"\(samples,\), or \(samples, 3\)"):
        model.partial_fit(X, LABELS[:, :2], classes=range(3))


def test_assigned_coefs_that_fit_nothing_are_refused():
    model = MLPRegressor(**SMALL, device="cpu").fit(X, LENGTH)
    model.intercepts_[1] = np.zeros(3)
    with pytest.raises(bp.ShapeError, match=r"biases\[1\]"):
        model.predict(X)


@pytest.mark.parametrize("wrong", [None, 3, [1, 2], [np.ones(3)], "ab"], ids=str)
def test_coefs_are_matrices(wrong):
    model = MLPRegressor(**SMALL, device="cpu").fit(X, LENGTH)
    model.coefs_ = wrong
    for use in (model.predict, lambda x: model.partial_fit(x, LENGTH)):
        with pytest.raises(bp.ShapeError, match=r"coefs_ is .*; expected .* \(inputs, nodes\)"):
            use(X)
    del model.coefs_
    model.intercepts_ = None
    with pytest.raises(bp.DtypeError, match="biases is None; expected a list of 3 arrays"):
        model.predict(X)


@BOTH
def test_scores_are_weighted_by_numbers_that_are_not_negative(Estimator, y):
    model = Estimator(**SMALL, device="cpu").fit(X, y)
    with pytest.raises(bp.DtypeError, match="sample_weight has dtype <U32"):
        model.score(X, y, WEIGHTS.astype(str))
    with pytest.raises(ValueError, match="Negative values"):
        model.score(X, y, -WEIGHTS)


def test_classes_that_come_later_are_named_at_first():
    model = MLPClassifier(**SMALL, device="cpu")
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X[:100], SPECIES[:100])
    model.partial_fit(X[:100], SPECIES[:100], classes=[0, 1, 2])
    assert model.partial_fit(X, SPECIES).predict_proba(X).shape == (150, 3)
    with pytest.raises(ValueError, match="has classes not in"):
        model.partial_fit(X, SPECIES + 1)


@pytest.mark.parametrize("weight", [-2, np.nan, np.inf])
def test_class_weights_are_not_negative(weight):
    model = MLPClassifier(**SMALL, class_weight={0: 1.0, 1: weight}, device="cpu")
    for learn in (model.fit, model.partial_fit):
        with pytest.raises(bp.DomainError, match=rf"class_weight\[1\] is {weight}"):
            learn(X, SPECIES > 0, **{} if learn == model.fit else {"classes": [False, True]})


def test_class_weights_are_those_of_classes_that_there_are():
    model = MLPClassifier(**SMALL, class_weight={0: 2.0, 7: 3.0}, device="cpu")
    with pytest.raises(ValueError, match=r"The classes, \[1, 2\], are not in class_weight"):
        model.fit(X, SPECIES)


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
@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
def test_shapes_on_a_gpu_are_checked_at_once(Estimator, x, y, message):
    model = Estimator(**FEW, device="cuda")
    with pytest.raises(ValueError, match=message):
        model.fit(on_cuda(x), on_cuda(y))
    assert not hasattr(model, "n_features_in_")


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["fit", "partial_fit"])
@pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.where(X > 7, np.nan, X), SPECIES, bp.NonFiniteError, "x holds .* NaN or infinite"),
        (np.where(X > 7, np.inf, X), SPECIES, bp.NonFiniteError, "x holds .* NaN or infinite"),
        (X + 1j, SPECIES, bp.DtypeError, "x has dtype complex128"),
        (X, np.where(SPECIES > 1, np.nan, 1), bp.NonFiniteError, "y holds 50 value"),
        (X, SPECIES + 1j, bp.DtypeError, "y has dtype complex128"),
        (X, X[:, :0], bp.ShapeError, r"y has shape \(150, 0\); expected \(samples,\)"),
    ],
    ids=["NaN", "infinity", "complex", "NaN in y", "complex y", "no columns"],
)
def test_what_is_refused_on_a_gpu_changes_nothing(x, y, error, message, Estimator, way):
    x, y = on_cuda(x), on_cuda(y)
    for model in models(Estimator, {}, **FEW | {"device": "cuda"}):
        with unchanged(model), pytest.raises(error, match=message):
            learn(model, way, x, y)

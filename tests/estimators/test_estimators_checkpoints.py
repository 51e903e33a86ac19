"""`fit` with checkpoints: interrupted anywhere and resumed, it ends with the same model."""

import pickle
import warnings
from contextlib import suppress
from itertools import product

import numpy as np
import pytest
from cases import Killed, killed_after
from host.backend import emulated_backend
from host.needs import needs_compiler, needs_gpp

pytest.importorskip("sklearn")
pytest.importorskip("safetensors")

import backprop_gpu as bp
from backprop_gpu.estimators import MLPClassifier, MLPRegressor

SETTINGS = {
    "adam": {},
    "sgd": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 2},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 4, "learning_rate_init": 0.05},
    "without shuffling": {"shuffle": False, "alpha": 0.0},
}


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    return x, (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)


def fitted(kind=MLPClassifier, **options):
    options = {"max_iter": 15, "random_state": 3, "batch_size": 20, "device": "cpu"} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        return kind(hidden_layer_sizes=(8,), **options).fit(*data())


def everything(model):
    return (
        [W.tobytes() for W in (*model.coefs_, *model.intercepts_)],
        *(model.loss_curve_, model.n_iter_, model.t_, model.loss_, model.best_loss_),
        model.validation_scores_,
    )


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_fit_that_was_killed_ends_with_the_same_model(settings, kind, tmp_path):
    options = SETTINGS[settings]
    whole = everything(fitted(kind, **options))
    for epochs, every in product((1, 5, 9), (1, 4)):
        folder = tmp_path / f"{epochs}-{every}"
        options = SETTINGS[settings] | {"checkpoint": folder, "checkpoint_every": every}
        with suppress(Killed):  # it may have stopped before
            fitted(kind, callbacks=[killed_after(epochs)], **options)
        assert everything(fitted(kind, resume=True, **options)) == whole


def test_checkpoints_are_written_when_they_are_due_and_at_the_end(tmp_path):
    fitted(checkpoint=tmp_path, checkpoint_every=3, max_iter=8)
    written = [path.name for path in sorted(tmp_path.iterdir())]
    assert written == [f"step-{epochs:012}.safetensors" for epochs in (3, 6, 8)]  # the newest


@pytest.mark.parametrize("batch_size", [20, 90])
def test_a_fit_of_classes_that_count_differently(batch_size, tmp_path):
    options = {"class_weight": {0: 0.3, 1: 1, 2: 1.7}, "batch_size": batch_size, "dtype": "float32"}
    whole = everything(fitted(**options))
    options |= {"checkpoint": tmp_path}
    with pytest.raises(Killed):
        fitted(callbacks=[killed_after(5)], **options)
    assert everything(fitted(resume=True, **options)) == whole


def test_a_fit_that_has_ended_is_not_gone_on_with(tmp_path):
    options = {"checkpoint": tmp_path, "tol": 0.5, "n_iter_no_change": 2}
    one = fitted(**options)
    assert one.n_iter_ < 15
    two = fitted(resume=True, max_iter=50, callbacks=[killed_after(1)], **options)
    assert everything(two) == everything(one)


def test_more_epochs(tmp_path):
    fitted(checkpoint=tmp_path, max_iter=6)
    longer = fitted(checkpoint=tmp_path, max_iter=15, resume=True)
    assert everything(longer) == everything(fitted())


def test_an_activation_of_ones_own_need_not_be_registered(tmp_path):
    twice = bp.Activation("twice", lambda xp, z: 2 * z, lambda xp, a: 2 + 0 * a, "a")
    fitted(activation=twice, checkpoint=tmp_path, max_iter=6)
    again = fitted(activation=twice, checkpoint=tmp_path, resume=True, threads=1)
    assert everything(again) == everything(fitted(activation=twice))


@needs_compiler
@pytest.mark.usefixtures("compiled_soon")
def test_a_fit_goes_on_by_the_path_it_began_with(tmp_path):
    with pytest.raises(Killed):
        fitted(checkpoint=tmp_path, path="compiled", callbacks=[killed_after(5)])
    again = fitted(checkpoint=tmp_path, resume=True)
    assert again.path_ == "compiled"
    assert everything(again) == everything(fitted(path="compiled"))


@needs_gpp
@pytest.mark.usefixtures("compiled_soon")
@pytest.mark.parametrize(("before", "after"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_fit_goes_on_on_another_device(before, after, tmp_path):
    devices = {
        "cpu": {"device": "cpu", "path": "compiled"},
        "cuda": {"device": emulated_backend(precision="tf32"), "precision": "tf32"},
    }
    with pytest.raises(Killed):
        fitted(dtype="float32", **devices[before], checkpoint=tmp_path, callbacks=[killed_after(5)])
    options = devices[after] | {"path": "auto"}
    again = fitted(dtype="float32", **options, checkpoint=tmp_path, resume=True)
    assert again.path_ == "steps"
    np.testing.assert_allclose(again.loss_curve_, fitted().loss_curve_, rtol=1e-4)


def test_another_fit_is_refused(tmp_path):
    fitted(checkpoint=tmp_path)
    with pytest.raises(bp.FileFormatError, match="resume=True"):
        fitted(checkpoint=tmp_path)
    for change in ({"alpha": 0.1}, {"random_state": 4}, {"activation": "tanh"}):
        with pytest.raises(bp.DomainError, match=next(iter(change))):
            fitted(checkpoint=tmp_path, resume=True, **change)
    with pytest.raises(bp.DomainError, match="estimator"):
        fitted(MLPRegressor, checkpoint=tmp_path, resume=True)


def test_a_warm_start_does_not_go_on_from_the_fit_before(tmp_path):
    """It would find that one at its end, and learn nothing."""
    options = {"max_iter": 3, "random_state": 0, "device": "cpu", "warm_start": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        model = MLPClassifier((4,), checkpoint=tmp_path / "1", resume=True, **options).fit(*data())
        before = everything(model)
        with pytest.raises(bp.DomainError, match="t_ at the beginning = 0, and this one has 270"):
            model.fit(*data())
        assert everything(model) == before
        model.set_params(checkpoint=tmp_path / "2").fit(*data())
        whole = MLPClassifier((4,), **options).fit(*data()).fit(*data())
    assert everything(model) == everything(whole)


@pytest.mark.parametrize("what", ["x", "sparse x", "y", "weights"])
def test_a_fit_to_other_data_is_refused(what, tmp_path):
    """Or the folds of a cross-validation would get the model of the first, and look too good."""
    x, y = data()
    weights = np.linspace(0.5, 1, len(y))
    if what == "sparse x":
        x = pytest.importorskip("scipy.sparse").csr_matrix(np.where(x > 0, x, 0))
    options = {"max_iter": 3, "random_state": 0, "device": "cpu", "checkpoint": tmp_path}
    others = {
        "x": (x[::-1], y, weights),
        "sparse x": (x[::-1], y, weights),
        "y": (x, y[::-1], weights),
        "weights": (x, y, weights[::-1]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        one = MLPClassifier((4,), **options).fit(x, y, weights)
        with pytest.raises(bp.DomainError, match="other data"):
            MLPClassifier((4,), resume=True, **options).fit(*others[what])
        again = MLPClassifier((4,), resume=True, **options).fit(x, y, weights)
    assert everything(again) == everything(one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_state": None}, "random_state"),
        ({"solver": "lbfgs"}, "'lbfgs'"),
        ({"checkpoint": None, "resume": True}, "resume=True needs checkpoint="),
        ({"checkpoint": None, "checkpoint_every": 1}, "checkpoint_every=1 needs checkpoint="),
    ],
)
def test_what_can_not_be_resumed(options, message, tmp_path):
    with pytest.raises(bp.DomainError, match=message):
        fitted(**({"checkpoint": tmp_path} | options))


@pytest.mark.parametrize("stream", [False, True], ids=["arrays", "batches"])
def test_partial_fit_says_that_it_writes_none(stream, tmp_path):
    model = fitted(checkpoint=tmp_path / "run")
    before = everything(model)
    x, y = ([data()], None) if stream else data()
    with pytest.raises(bp.DomainError, match=r"run' is of fit, and partial_fit writes no check"):
        model.partial_fit(x, y)
    assert everything(model) == before
    assert model.set_params(checkpoint=None).partial_fit(x, y).t_ == 16 * 90


def test_partial_fit_goes_on_from_a_pickle_as_if_there_were_none():
    model = fitted()
    again = pickle.loads(pickle.dumps(model))
    assert everything(again.partial_fit(*data())) == everything(model.partial_fit(*data()))


def test_a_torn_checkpoint_is_passed_over(tmp_path):
    whole = everything(fitted())
    with pytest.raises(Killed):
        fitted(checkpoint=tmp_path, callbacks=[killed_after(8)])
    newest = sorted(tmp_path.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    assert everything(fitted(checkpoint=tmp_path, resume=True)) == whole


def test_a_checkpoint_is_a_network(tmp_path):
    model = fitted(checkpoint=tmp_path)
    net = bp.load(sorted(tmp_path.iterdir())[-1], device="cpu")
    np.testing.assert_allclose(net(data()[0]), model.predict_proba(data()[0]), rtol=1e-12)

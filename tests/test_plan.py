"""Which way a training runs, why, and that the ways agree."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from host.backend import emulated_backend
from host.needs import needs_compiler

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.compiled.compiler import compiler
from backprop_gpu.training.crossovers import CROSSOVERS, Crossover


def network(dtype="float64", **options):
    return bp.MLP([3, 4, 2], ["tanh", "sigmoid"], device="cpu", dtype=dtype, **options)


def data(n=7):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), rng.random((n, 2))


def planned(net=None, **options):
    return bp.plan(net or network(), samples=100, **({"epochs": 10**7} | options))


@needs_compiler
def test_many_steps_of_a_small_network_are_compiled():
    assert planned().path == "compiled"
    assert planned(streams=True).path == "compiled"
    assert planned(weighted=True).path == "compiled"
    assert planned(path="compiled", epochs=1).why == "asked for"


def test_the_reasons_for_single_steps(backend):
    elsewhere = bp.MLP([3, 4, 2], ["tanh", "sigmoid"], device=backend, dtype="float64")
    own = bp.Activation("cube", lambda xp, z: z**3, lambda xp, z: 3 * z**2, "z")
    reasons = {
        "asked for": planned(path="steps"),
        "10 steps are too few": planned(epochs=10),
        "1 step is too few": planned(epochs=1),
        "a stream of batches takes single steps": planned(singly="a stream of batches"),
        "'cube' has no": planned(bp.MLP([3, 2], [own], device="cpu")),
    }
    if backend.device != "cpu":
        reasons["'cube' has no C++"] = planned(bp.MLP([3, 2], [own], device=backend))
        reasons["clipping the gradients of samples takes"] = planned(
            elsewhere, singly="clipping the gradients of samples"
        )
        reasons["streaming takes"] = planned(elsewhere, streams=True)
        reasons["weighing samples takes"] = planned(elsewhere, weighted=True)
        reasons["too few to be worth compiling them (an estimate)"] = planned(elsewhere, epochs=10)
    for reason, chosen in reasons.items():
        assert chosen.path in ("steps", "fused")
        assert compiler() is None or reason in chosen.why
        assert str(chosen) == f"{chosen.path}: {chosen.why}"


def test_a_path_that_can_not_be_had_is_an_error_and_changes_nothing():
    net = network()
    before = net.parameters.copy()
    with pytest.raises(bp.DomainError, match="'compiled' can't run this training: clipping the g"):
        bp.train(net, *data(), clip_sample_norm=1.0, path="compiled")
    with pytest.raises(bp.UnknownNameError, match="compiled"):
        bp.train(net, *data(), path="compile")
    np.testing.assert_array_equal(net.parameters, before)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "")
    chosen = planned()
    assert chosen.path == "steps"
    assert "install g++" in chosen.why
    with pytest.raises(bp.DomainError, match=r"install g\+\+"):
        planned(path="compiled")


@needs_compiler
def test_what_the_compiler_refuses_is_run_by_numpy_unless_asked_for(monkeypatch):
    wrong = bp.Activation(
        "wrong",
        lambda xp, z: z + 0,
        lambda xp, a: xp.ones_like(a),
        "a",
        cuda="z +",
        cuda_derivative="1",
    )
    monkeypatch.setattr("backprop_gpu.compiled.loop.WORTH_COMPILING", 0.0)
    net = bp.MLP([3, 2], [wrong], device="cpu")
    with pytest.warns(UserWarning, match="(?s)could not compile.*NumPy runs the steps instead"):
        assert bp.train(net, *data(), epochs=2).path == "steps"
    with pytest.raises(RuntimeError, match="could not compile"):
        bp.train(net, *data(), epochs=2, path="compiled")


def test_on_a_gpu_a_reason_says_where_its_limit_comes_from(monkeypatch):
    net = bp.MLP([3, 4, 2], device=emulated_backend())
    chosen = planned(net, batch_size=2)
    assert chosen.path == "one launch"
    assert "(an estimate)" in chosen.why
    monkeypatch.setitem(CROSSOVERS, "warp_alone_batch", Crossover(1, "of-a-run.json"))
    chosen = planned(net, batch_size=2)
    assert chosen.path == "steps"
    assert "as large (measured: of-a-run.json)" in chosen.why


@pytest.mark.parametrize(
    ("name", "value"), [("samples", 0), ("epochs", -1), ("epochs", 1.5), ("batch_size", -1)]
)
def test_numbers_that_are_none(name, value):
    with pytest.raises((bp.DomainError, bp.DtypeError), match=name):
        bp.plan(network(), **{"samples": 10, name: value})


def test_every_limit_has_a_source_that_is_there():
    results = Path(__file__).parents[1] / "benchmarks" / "results"
    for crossover in CROSSOVERS.values():
        assert crossover.source == "estimate" or (results / crossover.source).exists()
        assert crossover.value >= 0


def test_the_history_says_which_way_it_went():
    assert bp.train(network(), *data()).path == "steps"


@needs_compiler
@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "optimizer",
    [
        bp.SGD(0.3, momentum=0.5, weight_decay=0.01),
        bp.Adam(bp.CosineDecay(0.05, 8)),
    ],
    ids=["SGD", "Adam"],
)
def test_both_ways_lead_to_the_same_place(optimizer, dtype, batch_size):
    ways = []
    for path in ("steps", "compiled"):
        net = network(dtype)
        options = {"optimizer": optimizer, "epochs": 9, "batch_size": batch_size, "path": path}
        history = bp.train(net, *data(), **options)
        assert history.path == path
        ways.append((net, history))
    (one, steps), (two, compiled) = ways
    relative = 1e-11 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(steps.loss, compiled.loss, rtol=relative)
    np.testing.assert_allclose(one.parameters, two.parameters, rtol=relative, atol=relative)
    assert steps.learning_rate == compiled.learning_rate


@needs_compiler
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("explodes_at", [0, 3, 5.5])
def test_a_divergence_is_the_same_either_way(batch_size, explodes_at):
    caught = []
    for path in ("steps", "compiled"):
        net = bp.MLP([3, 4, 2], ["tanh", "identity"], device="cpu", dtype="float64")
        optimizer = bp.SGD(lambda passed: 0.01 if passed < explodes_at else 1e300)
        with pytest.raises(bp.TrainingDiverged) as error:
            bp.train(net, *data(), optimizer=optimizer, epochs=9, batch_size=batch_size, path=path)
        caught.append((error.value, net))
    (one, net), (two, twin) = caught
    assert (one.epoch, one.layer) == (two.epoch, two.layer)
    np.testing.assert_allclose(one.history.loss, two.history.loss, rtol=1e-10)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-10)


@needs_compiler
def test_early_stopping_and_callbacks_see_every_epoch_of_a_compiled_training():
    x, y = data()
    seen = []
    rule = bp.EarlyStopping(patience=3, min_delta=0.01)
    net, twin = network(), network()
    options = {"epochs": 50, "batch_size": 2, "early_stopping": rule, "validation": data(5)}
    history = bp.train(net, x, y, path="compiled", callbacks=[seen.append], **options)
    other = bp.train(twin, x, y, path="steps", **options)
    assert len(seen) == len(history.loss) == len(other.loss) < 50
    assert history.best_epoch == other.best_epoch
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-10)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_is_one_setting(threads):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    net = bp.MLP([1000, 1000, 10], device="cpu", threads=threads)
    with net.backend.computing(1e12):
        blas = threadpoolctl.ThreadpoolController().select(user_api="blas").info()
        pools = [pool for pool in blas if "numpy" in pool["filepath"]]  # others have their own
        assert [pool for pool in pools if pool["num_threads"] > threads] == []
    assert planned(bp.MLP([200, 200, 10], device="cpu", threads=threads)).threads <= threads
    assert net.copy().backend.threads == threads


def test_the_threads_of_a_backend_are_its_own():
    backend = NumpyBackend(threads=1)
    with pytest.raises(bp.DomainError, match=r"whose threads are 1; .*NumpyBackend\(threads=2\)"):
        bp.MLP([2, 1], device=backend, threads=2)
    net = bp.MLP([2, 1], device="cpu", threads=2)
    again = net.copy(), pickle.loads(pickle.dumps(net)), net.copy(device="cpu")
    assert [twin.threads for twin in again] == [2, 2, 2]
    assert (
        net.copy(device=backend).threads == bp.MLP([2, 1], device=backend, threads=1).threads == 1
    )


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_a_number_of_threads_that_is_none(threads):
    with pytest.raises((bp.DomainError, bp.DtypeError), match="threads"):
        network(threads=threads)

"""Many networks at once: each gets what a training of its own would give it."""

import subprocess
import sys

import numpy as np
import pytest
from host.needs import needs_compiler

import backprop_gpu as bp
from backprop_gpu.checks import check_data
from backprop_gpu.compiled import CompiledLoop, CompileError
from backprop_gpu.compiled.compiler import compiler

PATHS = ["steps"] if compiler() is None else ["steps", "compiled"]


def networks(count=5, **options):
    options = {"device": "cpu", "dtype": "float64"} | options
    return [bp.MLP([3, 4, 2], ["tanh", "identity"], seed=i, **options) for i in range(count)]


def data(n=11):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), rng.random((n, 2))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("threads", [1, 3])
def test_each_is_trained_as_if_alone(path, threads):
    x, y = data()
    together, alone = networks(), networks()
    rates = [bp.SGD(0.1 * i, momentum=0.5) for i in range(1, 6)]
    rows = [np.random.default_rng(i).integers(0, 11, 11) for i in range(5)]
    histories = bp.train_many(
        together, x, y, optimizers=rates, rows=rows, epochs=6, batch_size=4, threads=threads,
        path=path,
    )  # fmt: skip
    for i, (one, other) in enumerate(zip(together, alone, strict=True)):
        history = bp.train(
            other, x[rows[i]], y[rows[i]], optimizer=rates[i], epochs=6, batch_size=4, seed=i,
            path=path,
        )  # fmt: skip
        assert histories[i].loss == history.loss
        np.testing.assert_array_equal(one.parameters, other.parameters)


def test_on_every_backend(backend):
    x, y = data()
    nets = networks(2, device=backend)
    histories = bp.train_many(nets, x, y, optimizers=bp.Adam(0.01), seeds=[7, 7], epochs=3)
    assert [len(history.loss) for history in histories] == [3, 3]
    assert histories[0].loss != histories[1].loss


def test_the_data_are_converted_once(monkeypatch):
    converted = []
    for module in ("many", "train"):
        monkeypatch.setattr(
            f"backprop_gpu.training.{module}.check_data",
            lambda net, x, *more: converted.append(x) or check_data(net, x, *more),
        )
    x, y = data()
    bp.train_many(networks(5, dtype="float32"), x, y, path="steps")
    assert [x is given for given in converted].count(True) == 1


def test_the_networks_may_come_one_by_one():
    nets = networks(2)
    histories = bp.train_many((net for net in nets), *data(), epochs=3, path="steps")
    assert [history.loss for history in histories] == [
        history.loss for history in bp.train_many(networks(2), *data(), epochs=3, path="steps")
    ]


def test_networks_of_different_sizes():
    x, y = data()
    nets = [bp.MLP([3, width, 2], device="cpu", dtype="float64") for width in (1, 2, 33)]
    histories = bp.train_many(nets, x, y, epochs=20, optimizers=bp.SGD(0.05))
    assert all(history.loss[-1] < history.loss[0] for history in histories)


@pytest.mark.parametrize("path", PATHS)
def test_one_that_diverges_leaves_the_others_alone(path):
    x, y = data()
    nets = networks(3)
    rates = [bp.SGD(0.1), bp.SGD(1e200), bp.SGD(0.1)]
    one, bad, three = bp.train_many(nets, x, y, optimizers=rates, epochs=10, path=path)
    assert (one.stopped_by, bad.stopped_by, three.stopped_by) == ("epochs", "divergence", "epochs")
    assert len(bad.loss) < 10 == len(one.loss)
    assert all(np.isfinite(net.parameters).all() for net in nets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, r"seeds has 1; expected one for each of the 3"),
        ({"optimizers": [bp.SGD()] * 2}, "optimizers has 2"),
        (
            {"seeds": iter(range(3))},
            r"seeds has <range_iterator .*; expected one for each of the 3",
        ),
        ({"rows": [[0], [1], [99]]}, r"rows\[2\] holds 99 to 99; expected 0 to 10"),
        ({"rows": [[0], [1], [0.5]]}, r"rows\[2\] has shape .* expected row numbers"),
        ({"threads": 0}, "threads"),
        ({"seeds": [0, 1, -1]}, r"seeds\[2\] is -1"),
        ({"optimizers": [bp.SGD(), bp.SGD(), "adam"]}, r"optimizers\[2\] is 'adam'"),
        ({"optimizers": "adam"}, r"optimizers\[0\] is 'adam'"),
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_does_not_fit_is_an_error_before_anything_is_changed(options, message):
    nets = networks(3)
    before = [net.parameters.copy() for net in nets]
    with pytest.raises(ValueError, match=message):
        bp.train_many(nets, *data(), **options)
    for net, parameters in zip(nets, before, strict=True):
        np.testing.assert_array_equal(net.parameters, parameters)


@needs_compiler
@pytest.mark.parametrize(
    ("threads", "taken"), [(1, [1, 1, 1]), (2, [1, 2, 2]), (3, [1, 2, 3]), (9, [1, 2, 4])]
)
def test_threads_are_for_all_networks_and_change_no_bit(threads, taken, monkeypatch):
    """4 would share each batch, of a network that is not limited to fewer."""
    shared_by = []

    class Watched(CompiledLoop):
        def run(self, *args, **options):
            shared_by.append(self.threads)
            return super().run(*args, **options)

    def trained(threads):
        nets = [bp.MLP([256, 256, 256, 9], device="cpu", threads=n) for n in (1, 2, 4)]
        backends = [net.backend for net in nets]
        bp.train_many(nets, *data, threads=threads, path="compiled")
        assert [net.backend for net in nets] == backends
        return np.stack([net.parameters for net in nets])

    rng = np.random.default_rng(0)
    data = rng.normal(size=(120, 256)), rng.random((120, 9))
    expected = trained(4)
    monkeypatch.setattr("backprop_gpu.training.paths.compiled_steps.CompiledLoop", Watched)
    np.testing.assert_array_equal(trained(threads), expected)
    assert sorted(shared_by) == taken


def test_what_the_compiler_refuses_is_run_by_numpy_unless_asked_for(monkeypatch):
    def refuse(*args, **options):
        raise CompileError("c++ could not compile the network")

    monkeypatch.setattr("backprop_gpu.training.planned.CompiledSteps", refuse)
    monkeypatch.setattr("backprop_gpu.compiled.loop.WORTH_COMPILING", 0)
    monkeypatch.setattr("backprop_gpu.training.planning._why_not_compiled", lambda *args: None)
    nets, alone = networks(2), networks(2)
    with pytest.warns(UserWarning, match="NumPy runs the steps instead"):
        histories = bp.train_many(nets, *data(), epochs=3, batch_size=4)
    assert [history.path for history in histories] == ["steps"] * 2
    bp.train_many(alone, *data(), epochs=3, batch_size=4, path="steps")
    for net, expected in zip(nets, alone, strict=True):
        np.testing.assert_array_equal(net.parameters, expected.parameters)
    with pytest.raises(CompileError, match="could not compile"):
        bp.train_many(nets, *data(), path="compiled")


@pytest.mark.parametrize(("name", "value"), [("epochs", -1), ("epochs", 1.5), ("batch_size", 0)])
def test_numbers_that_are_none_change_nothing(name, value):
    nets, before = networks(2), networks(2)
    with pytest.raises((bp.DomainError, bp.DtypeError), match=name):
        bp.train_many(nets, *data(), **{name: value})
    for net, same in zip(nets, before, strict=True):
        np.testing.assert_array_equal(net.parameters, same.parameters)


def test_the_same_network_twice_is_an_error():
    (net,) = networks(1)
    with pytest.raises(bp.DomainError, match="twice"):
        bp.train_many([net, net], *data())
    with pytest.raises(bp.DtypeError, match=r"nets\[0\]"):
        bp.train_many(["net"], *data())
    with pytest.raises(bp.DtypeError, match=r"nets is MLP.*; expected a list of MLPs"):
        bp.train_many(net, *data())
    assert bp.train_many([], *data()) == []


def test_an_interrupt_stops_all_of_them():
    script = """if True:
        import os, signal, threading, time
        import numpy as np
        import backprop_gpu as bp
        nets = [bp.MLP([3, 8, 2], device="cpu", seed=i) for i in range(6)]
        x, y = np.random.rand(50, 3), np.random.rand(50, 2)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            bp.train_many(nets, x, y, epochs=10**9, batch_size=5)
        except KeyboardInterrupt:
            print("stopped")
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "stopped\n", done.stderr


def test_progress_can_be_anything_that_is_called():
    (net,) = networks(1)
    seen = []
    bp.train(net, *data(), epochs=20, progress=lambda run: seen.append(run.epochs_passed))
    assert seen == sorted(seen)
    assert seen[-1] == 20

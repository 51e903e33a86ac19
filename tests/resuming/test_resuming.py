"""A run that was interrupted, wherever, ends as if nothing had happened."""

import numpy as np
import pytest
from cases import Killed, ReadsLate
from host.backend import emulated_backend
from host.needs import needs_compiler, needs_gpp
from small_runs import (
    EPOCHS,
    HELD_OUT,
    SIZES,
    STOPPING,
    X,
    Y,
    network,
    outcome,
    resumed,
    steps_in,
    train,
    uninterrupted,
)

import backprop_gpu as bp
from backprop_gpu.checks import check_loss
from backprop_gpu.compiled import compiler, why_not
from backprop_gpu.saving import read

OPTIMIZERS = {
    "SGD": lambda rate: bp.SGD(rate),
    "momentum": lambda rate: bp.SGD(rate, momentum=0.9),
    "Nesterov": lambda rate: bp.SGD(rate, momentum=0.5, nesterov=True, weight_decay=0.01),
    "Adam": lambda rate: bp.Adam(rate, weight_decay=0.01),
    "AdamW": lambda rate: bp.AdamW(rate),
}
SCHEDULES = {
    "constant": 0.05,
    "step": bp.StepDecay(0.05, every=1.5),
    "exponential": bp.ExponentialDecay(0.05, factor=0.8),
    "inverse time": bp.InverseTimeDecay(0.05, rate=0.3),
    "cosine": bp.CosineDecay(0.05, epochs=5),
    "warm-up": bp.WarmUp(bp.CosineDecay(0.05, epochs=5), epochs=2.5),
    "own": lambda epochs: 0.05 / (1 + epochs),
}
EVERY = (1, 0.3, 2.5, 7)


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("stopping", STOPPING)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_and_rule(optimizer, stopping, every, interrupt, tmp_path):
    options = STOPPING[stopping] | {
        "optimizer": OPTIMIZERS[optimizer](SCHEDULES["cosine"]),
        "checkpoint_every": every,
        "clip_norm": 1.0,
    }
    assert interrupt(2 if every > 1 else 4, **options)
    assert resumed(tmp_path, **options) == uninterrupted(**options)


@pytest.mark.parametrize("every", [1, 0.3])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule(schedule, every, interrupt, tmp_path):
    optimizer = bp.SGD(SCHEDULES[schedule], momentum=0.9)
    options = {"optimizer": optimizer, "checkpoint_every": every}
    assert interrupt(5, **options)
    assert resumed(tmp_path, **options) == uninterrupted(**options)


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("batch_size", [1, 6, 20, None])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_batch_size(shuffle, batch_size, every, interrupt, tmp_path):
    options = {"batch_size": batch_size, "shuffle": shuffle, "checkpoint_every": every}
    assert interrupt(2, **options)
    assert resumed(tmp_path, **options) == uninterrupted(**options)


@pytest.mark.parametrize("batch_size", [6, None])
@pytest.mark.parametrize("path", ["steps", pytest.param("compiled", marks=needs_compiler)])
def test_samples_that_count_differently(path, batch_size, interrupt, tmp_path):
    weights = np.arange(len(X)) % 5 / 7  # some are left out
    options = {"sample_weight": weights, "path": path, "batch_size": batch_size}
    assert interrupt(4, checkpoint_every=0.5, **options)
    assert resumed(tmp_path, **options) == uninterrupted(**options)


@pytest.mark.parametrize("stopping", ["validation", "training loss"])
def test_early_stopping_wherever_it_is_interrupted(stopping, interrupt, tmp_path):
    options = STOPPING[stopping] | {
        "optimizer": bp.SGD(lambda epochs: 0.1 if epochs < 4 else 2.0),  # then it gets worse
        "checkpoint_every": 0.5,
        "checkpoint_keep": 1,
        "epochs": 12,
    }
    expected = uninterrupted(**options)
    *_, stopped_by, best_epoch = expected
    assert stopped_by == "early stopping"
    assert 0 < best_epoch < len(expected[1]) - 1
    written = 1
    while interrupt(written, **options):
        assert resumed(tmp_path, **options) == expected
        for file in tmp_path.iterdir():
            file.unlink()
        written += 1
    assert written > 2 * best_epoch + 4


@pytest.mark.parametrize("every", [1, 0.3])
def test_on_every_backend_and_in_every_dtype(backend, dtype, every, interrupt, tmp_path):
    options = {"validation": HELD_OUT}
    net = network(backend, dtype)
    expected = outcome(net, train(net, **options))
    options["checkpoint_every"] = every

    def stop(epoch):
        if epoch.number == 4:
            raise Killed

    with pytest.raises(Killed):
        train(network(backend, dtype), tmp_path, callbacks=[stop], **options)
    net = network(backend, dtype)
    assert outcome(net, train(net, tmp_path, resume=True, **options)) == expected


def test_by_the_compiled_loop(interrupt, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("BACKPROP_GPU_CACHE", str(tmp_path_factory.mktemp("cache")))

    adam, loss = bp.Adam(0.05), check_loss(network(), "mse")
    if obstacle := why_not(SIZES, network().activations, loss, adam, network().dtype):
        pytest.skip(f"no compiled loop: {obstacle}")
    for stopping in STOPPING:
        options = STOPPING[stopping] | {"path": "compiled", "checkpoint_every": 0.3}
        assert interrupt(5, **options)
        assert resumed(tmp_path, **options) == uninterrupted(**options)
        for file in tmp_path.iterdir():
            file.unlink()


class OfLength:
    """A function of the epoch that says how many batches there are, roughly."""

    def __init__(self, of_epoch, length):
        self.of_epoch, self.length = of_epoch, length

    def __len__(self):
        return self.length

    def __call__(self, epoch):
        return self.of_epoch(epoch)


@pytest.mark.parametrize("every", [1, 0.3, 2.5])
@pytest.mark.parametrize("kind", ["files", "files, compiled", "batches of one's own"])
def test_data_that_are_streamed(kind, every, tmp_path):
    for name, array in {"x": X, "y": Y}.items():
        np.save(tmp_path / f"{name}.npy", array.astype("float32"))

    def of_epoch(epoch):
        for first in range(0, 18, 3 + epoch % 2):  # another number of batches in every other epoch
            yield X[first : first + 5], Y[first : first + 5]

    def run(callbacks=(), **options):
        net = network()
        if kind.startswith("files"):
            options["path"] = "compiled" if kind.endswith("compiled") else "steps"
            data = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"]
            options["batch_size"] = 6
        else:
            data = [OfLength(of_epoch, 5)]
        adam = bp.Adam(bp.WarmUp(bp.ExponentialDecay(0.05), 1.5))
        history = bp.train(
            net, *data, optimizer=adam, epochs=EPOCHS, callbacks=callbacks, **options
        )
        return outcome(net, history)

    def fail(epoch):
        if epoch.number == 4:
            raise Killed

    options = {"checkpoint": tmp_path / "run", "checkpoint_every": every}
    with pytest.raises(Killed):
        run([fail], **options)
    assert len(steps_in(tmp_path / "run")) > 1
    assert run(resume=True, **options) == run()


@pytest.mark.parametrize("parameters", [{}, {"factor": 2.0}], ids=str)
def test_an_activation_that_is_not_registered_is_the_given_networks(parameters, tmp_path):
    own = bp.Activation("doubled", lambda xp, z: 2 * z, lambda xp, a: 0 * a + 2, "a",
                        parameters=parameters)  # fmt: skip

    def run(**options):
        net = bp.MLP(SIZES, [own, "identity"], device="cpu", seed=1)
        return outcome(net, train(net, **options))

    run(folder=tmp_path, epochs=3)
    assert run(folder=tmp_path, resume=True) == run()


def test_interrupted_again_and_again(interrupt, tmp_path):
    options = {"checkpoint_every": 0.3, "epochs": 4, "checkpoint_keep": 1, **STOPPING["validation"]}
    assert interrupt(1, **options)
    while interrupt(1, resume=True, **options):
        pass
    assert resumed(tmp_path, **options) == uninterrupted(**options)


@pytest.mark.parametrize("epoch", range(EPOCHS))
def test_an_exception_out_of_a_callback(epoch, tmp_path):
    def fail(told):
        if told.number == epoch:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(network(), tmp_path, callbacks=[fail])
    assert resumed(tmp_path, callbacks=[lambda told: None]) == uninterrupted()


def test_callbacks_are_told_of_the_epochs_that_were_not_saved(interrupt, tmp_path):
    told = []
    assert interrupt(4)
    resumed(tmp_path, callbacks=[lambda epoch: told.append(epoch.number)])
    assert told == list(range(3, EPOCHS))  # the first checkpoint is before the first step


def test_other_intervals_afterwards(interrupt, tmp_path):
    assert interrupt(4, checkpoint_every=0.3)
    assert interrupt(2, checkpoint_every=2.5, resume=True)
    assert resumed(tmp_path, checkpoint_every=0.75, checkpoint_keep=1) == uninterrupted()


@pytest.mark.parametrize("written", [1, 39, 40])
@pytest.mark.parametrize("device", ["cpu", ReadsLate()], ids=["cpu", "late"])
def test_a_run_that_diverges_does_so_again(device, written, interrupt, tmp_path):
    """In the middle of epoch 97: the 40th checkpoint is there, and the one before at its start."""
    options = {
        "optimizer": bp.SGD(lambda epochs: 0.01 if epochs < 97.6 else 1e30, momentum=0.5),
        "batch_size": 2,
        "epochs": 100,
        "checkpoint_every": 2.5,
    }
    first, again = network(device), network(device)
    with pytest.raises(bp.TrainingDiverged) as expected:
        train(first, **{name: options[name] for name in ("optimizer", "batch_size", "epochs")})
    assert interrupt(written, device, **options)
    with pytest.raises(bp.TrainingDiverged) as found:
        train(again, tmp_path, resume=True, **options)
    assert (found.value.epoch, found.value.layer) == (expected.value.epoch, expected.value.layer)
    assert found.value.history.loss == expected.value.history.loss
    assert again.parameters.tobytes() == first.parameters.tobytes()


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    """The last update of an epoch leaves infinity, which only the next loss tells."""
    optimizer = bp.SGD(lambda epochs: 0.01 if epochs < 1.7 else 1e300)
    with pytest.raises(bp.TrainingDiverged):
        train(network(), tmp_path, optimizer=optimizer, checkpoint_keep=1)
    assert steps_in(tmp_path) == [4]
    assert np.isfinite(bp.load(next(tmp_path.glob("step-*")), device="cpu").parameters).all()


# ---- from one device to another ------------------------------------------------------------------


@pytest.mark.parametrize("there", ["from NumPy", "to NumPy"])
def test_on_another_device(backend, there, interrupt, tmp_path):
    """Sums in another order end elsewhere in the last bits; what is saved is exact."""
    options = STOPPING["training loss"]
    before, after = ("cpu", backend) if there == "from NumPy" else (backend, "cpu")
    assert interrupt(8, before, checkpoint_every=0.3, **options)
    (file,) = sorted(tmp_path.glob("step-*"))[-1:]
    saved = [read(file, device=device) for device in ("cpu", backend)]
    bits = {net.net.backend.to_numpy(net.net.parameters).tobytes() for net in saved}
    assert len(bits) == 1

    net, expected = network(after), network()
    history, expected_history = (
        train(net, tmp_path, resume=True, **options),
        train(expected, **options),
    )
    np.testing.assert_allclose(history.loss, expected_history.loss, rtol=1e-5)
    np.testing.assert_allclose(
        after_parameters := net.backend.to_numpy(net.parameters), expected.parameters, atol=1e-5
    )
    assert after_parameters.dtype == np.float32


A_GPU = pytest.mark.parametrize(
    "backend", ["emulated", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)


@A_GPU
@pytest.mark.parametrize("path", ["auto", "steps"])
@pytest.mark.parametrize("there", ["from NumPy", "to NumPy"])
def test_a_path_that_another_device_does_not_have(
    backend, there, path, interrupt, compiled_soon, tmp_path
):
    """A run goes on by another, and from then on it insists on that."""
    begun, before, after = (
        ("compiled", "cpu", backend) if there == "from NumPy" else ("one launch", backend, "cpu")
    )
    if begun == "compiled" and compiler.compiler() is None:
        pytest.skip("no C++ compiler for the compiled training loop")
    assert interrupt(4, before, path=begun)
    net, expected = network(after), network()
    history = train(net, tmp_path, resume=True, path=path)
    expected_history = train(expected)
    assert history.path == "steps"
    np.testing.assert_allclose(history.loss, expected_history.loss, rtol=1e-5)
    np.testing.assert_allclose(net.backend.to_numpy(net.parameters), expected.parameters, atol=1e-5)
    other = {"from NumPy": "one launch", "to NumPy": "compiled"}[there]
    with pytest.raises(bp.DomainError, match=f"path = steps, and this one has {other}"):
        train(network(after), tmp_path, resume=True, path=other)


@A_GPU
def test_the_path_of_the_checkpoint_where_the_plan_would_be_another(backend, interrupt, tmp_path):
    assert interrupt(4, backend, path="one launch")
    net, whole = network(backend), network(backend)
    history = train(net, tmp_path, resume=True)
    train(whole, path="one launch")
    assert bp.plan(net, samples=len(X), epochs=EPOCHS, batch_size=6).path == "steps"
    assert history.path == "one launch"
    np.testing.assert_array_equal(*(n.backend.to_numpy(n.parameters) for n in (net, whole)))


@needs_gpp
def test_a_precision_that_another_device_does_not_have(interrupt, tmp_path):
    assert interrupt(4, emulated_backend(precision="tf32"))
    with pytest.raises(bp.DomainError, match="precision = tf32, and this one has float32"):
        train(network(emulated_backend()), tmp_path, resume=True)
    assert train(network(), tmp_path, resume=True).precision == "float32"


def test_a_checkpoint_is_read_once(interrupt, tmp_path, monkeypatch):
    assert interrupt(4)
    files = []

    def counted(path, **options):
        files.append(path)
        return read(path, **options)

    monkeypatch.setattr("backprop_gpu.training.checkpoints.read", counted)
    assert resumed(tmp_path) == uninterrupted()
    assert len(files) == 1


# ---- runs that are over --------------------------------------------------------------------------


@pytest.mark.parametrize("stopping", STOPPING)
def test_a_run_that_is_over_stays_as_it_is(stopping, tmp_path):
    options = STOPPING[stopping] | {"optimizer": bp.SGD(0.5, momentum=0.9), "epochs": 30}
    net, told = network(), []
    expected = outcome(net, train(net, tmp_path, **options))
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert (expected[4] == "early stopping") == (stopping != "no")
    assert resumed(tmp_path, callbacks=[told.append], **options) == expected
    assert not told
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files


@pytest.mark.parametrize("epochs", [(0, 7), (2, 7), (1, 2, 3, 7)])
@pytest.mark.parametrize("stopping", STOPPING)
def test_more_epochs(stopping, epochs, tmp_path):
    options = STOPPING[stopping] | {"checkpoint_every": 3}
    for count in epochs:
        last = resumed(tmp_path, epochs=count, **options)
    assert last == uninterrupted(epochs=epochs[-1], **options)


def test_a_callbacks_stop_is_for_this_time_only(tmp_path):
    """So a job that has to make room ends its run well, and goes on elsewhere."""
    net = network()
    history = train(net, tmp_path, checkpoint_every=5, callbacks=[lambda epoch: epoch.number == 2])
    assert history.stopped_by == "callback"
    assert steps_in(tmp_path) == [0, 12]
    assert resumed(tmp_path, checkpoint_every=5) == uninterrupted()


def test_a_run_that_diverges_again_keeps_the_same_parameters(tmp_path):
    """The last parameters in a folder may be those that nobody has seen the loss of."""

    def diverged(resume=False):
        net = bp.MLP([1, 1], ["identity"], device="cpu", dtype="float64", seed=0)
        rate = bp.SGD(lambda epochs: 0.01 if epochs < 3 else 1e200)
        options = {"optimizer": rate, "epochs": 10, "checkpoint": tmp_path, "resume": resume}
        with pytest.raises(bp.TrainingDiverged) as caught:
            bp.train(net, [[1.0], [2.0]], [[1.0], [0.0]], **options)
        return net.parameters.tolist(), caught.value.epoch

    first = diverged()
    assert max(map(abs, first[0])) < 10
    assert diverged(resume=True) == first

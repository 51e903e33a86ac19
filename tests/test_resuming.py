"""Checkpoints: a run that was interrupted, wherever, ends as if nothing had happened."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.checkpoint import checksum, read

safetensors = pytest.importorskip("safetensors.numpy")

SIZES = (3, 5, 2)
EPOCHS = 7
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
HELD_OUT = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))


class Killed(BaseException):
    """As KeyboardInterrupt: nothing that catches errors catches it."""


def network(device="cpu", dtype="float32", **options):
    return bp.MLP(SIZES, ["tanh", "identity"], device=device, dtype=dtype, seed=1, **options)


def train(net, folder=None, *, resume=False, **options):
    options = {"epochs": EPOCHS, "batch_size": 6, "optimizer": bp.Adam(0.05)} | options
    return bp.train(net, X, Y, checkpoint=folder, resume=resume, **options)


def outcome(net, history):
    return (
        net.backend.to_numpy(net.parameters).tobytes(),
        history.loss,
        history.validation_loss,
        history.learning_rate,
        history.stopped_by,
        history.best_epoch,
    )


def uninterrupted(device="cpu", **options):
    net = network(device)
    options = {key: value for key, value in options.items() if not key.startswith("checkpoint_")}
    return outcome(net, train(net, **options))


def resumed(folder, device="cpu", **options):
    net = network(device)
    if steps_in(folder):
        net.parameters[...] = 7  # what it had is of no matter
    return outcome(net, train(net, folder, resume=True, **options))


def steps_in(folder):
    return [int(file.stem.removeprefix("step-")) for file in sorted(folder.glob("step-*"))]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Don't wait for the disk: what is killed here is a process, and not the machine."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def interrupt(monkeypatch, tmp_path):
    """Train until so many checkpoints are written, and no further; return whether it came so far."""

    def until(written, device="cpu", **options):
        from backprop_gpu.files import write_atomically

        calls = []

        def write(path, content):
            write_atomically(path, content)
            calls.append(path)
            if len(calls) == written:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr("backprop_gpu.checkpoint.write_atomically", write)
            try:
                train(network(device), tmp_path, **options)
            except Killed:
                return True
        return False

    return until


# ---- to the bit ----------------------------------------------------------------------------------

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
STOPPING = {
    "no": {},
    "validation": {
        "validation": HELD_OUT,
        "early_stopping": bp.EarlyStopping(2),
    },
    "training loss": {"early_stopping": bp.EarlyStopping(2, min_delta=0.02)},
    "without restoring": {
        "validation": HELD_OUT,
        "early_stopping": bp.EarlyStopping(3, restore_best=False),
    },
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
    options = {"checkpoint_every": every, "validation": HELD_OUT}
    net = network(backend, dtype)
    expected = outcome(net, train(net, **options))

    def stop(epoch):
        if epoch.number == 4:
            raise Killed

    with pytest.raises(Killed):
        train(network(backend, dtype), tmp_path, callbacks=[stop], **options)
    net = network(backend, dtype)
    assert outcome(net, train(net, tmp_path, resume=True, **options)) == expected


def test_by_the_compiled_loop(interrupt, tmp_path):
    from backprop_gpu.compiled import why_not

    adam, loss = bp.Adam(0.05), network().check_loss("mse")
    if obstacle := why_not(SIZES, network().activations, loss, adam, network().dtype, 6):
        pytest.skip(f"no compiled loop: {obstacle}")
    for stopping in STOPPING:
        options = STOPPING[stopping] | {"path": "compiled", "checkpoint_every": 0.3}
        assert interrupt(5, **options)
        assert resumed(tmp_path, **options) == uninterrupted(**options)
        for file in tmp_path.iterdir():
            file.unlink()


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
def test_a_run_that_diverges_does_so_again(written, interrupt, tmp_path):
    """In the middle of epoch 97: the 40th checkpoint is there, and the one before at its start."""
    options = {
        "optimizer": bp.SGD(lambda epochs: 0.01 if epochs < 97.6 else 1e30, momentum=0.5),
        "batch_size": 2,
        "epochs": 100,
        "checkpoint_every": 2.5,
    }
    first, again = network(), network()
    with pytest.raises(bp.TrainingDiverged) as expected:
        train(first, **options)
    assert interrupt(written, **options)
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
    options = {"checkpoint_every": 0.3, **STOPPING["training loss"]}
    before, after = ("cpu", backend) if there == "from NumPy" else (backend, "cpu")
    assert interrupt(8, before, **options)
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


# ---- killed --------------------------------------------------------------------------------------

# Stops, for good, in the n-th call of a function of os, or of a callback.
CHILD = """
import os, sys, time
import numpy as np
import backprop_gpu as bp

folder, what, count, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
where = what.removeprefix("half ")
real, calls = getattr(os, where, lambda epoch: None), []


def stop(*arguments, **options):
    calls.append(arguments)
    if len(calls) == count:
        if what == "half fsync":
            os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        print("here", flush=True)
        time.sleep(60)
    return real(*arguments, **options)


setattr(os, where, stop)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
net = bp.MLP((3, 5, 2), ["tanh", "identity"], device="cpu", seed=1)
bp.train(net, x, y, optimizer=bp.Adam(0.05), batch_size=6, epochs=epochs, checkpoint=folder,
         checkpoint_every=0.5, callbacks=[os.callback] if what == "callback" else [])
"""


def child(folder, what="nothing", count=0, epochs=EPOCHS):
    arguments = [sys.executable, "-c", CHILD, folder, what, count, epochs]
    return subprocess.Popen(
        list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


MOMENTS = [
    ("half fsync", 1),  # half of the first file is written
    ("half fsync", 9),  # half of a later one: there are two calls a checkpoint
    ("fsync", 9),  # all of it, but nobody knows whether it is on the disk
    ("fsync", 10),  # it has its name, and the folder is about to be flushed
    ("replace", 1),  # the very first is about to get its name
    ("replace", 6),
    ("unlink", 8),  # an old one is about to go
    ("callback", 3),
]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "what", "count"),
    [
        *((signal.SIGKILL, *moment) for moment in MOMENTS),
        *((signal.SIGTERM, *moment) for moment in MOMENTS[2:6:3]),
        *((signal.SIGINT, *moment) for moment in MOMENTS[2:6:3]),
    ],
    ids=str,
)
def test_killed_at_a_bad_moment(number, what, count, tmp_path):
    with child(tmp_path, what, count) as process:
        try:
            assert process.stdout.readline() == "here\n", process.stderr.read()
            process.send_signal(number)
            process.wait(30)
        finally:
            process.kill()
        assert process.returncode
    for file in tmp_path.glob("step-*"):
        read(file, device="cpu")  # those that have a name are whole
    if number == signal.SIGKILL and what in ("half fsync", "replace"):
        assert list(tmp_path.glob(".saving-*"))
    assert resumed(tmp_path, checkpoint_every=0.5) == uninterrupted()
    assert not list(tmp_path.glob(".saving-*"))


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("step", [2, 30])
def test_killed_at_any_moment(step, tmp_path):
    epochs = 400
    with child(tmp_path, epochs=epochs) as process:
        try:
            end = time.monotonic() + 60
            while not any(done >= step for done in steps_in(tmp_path)):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.002)
        finally:
            process.kill()
    assert steps_in(tmp_path)[-1] < 4 * epochs
    assert resumed(tmp_path, epochs=epochs, checkpoint_every=50) == uninterrupted(epochs=epochs)


# ---- disks that are full -------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails(call, reason, tmp_path, monkeypatch):
    real, calls = getattr(os, call), []

    def fails(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 5:
            raise OSError(reason, os.strerror(reason))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(bp.FileFormatError, match=f"step-.*{os.strerror(reason)}"):
            train(network(), tmp_path, checkpoint_keep=2)
    assert len(steps_in(tmp_path)) == 2
    assert not list(tmp_path.glob(".saving-*"))
    assert resumed(tmp_path) == uninterrupted()


@pytest.mark.skipif(os.name == "nt", reason="resource limits")
def test_a_file_that_the_system_cuts_off(tmp_path):
    limit = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
callbacks = [lambda epoch: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
             if epoch.number == 2 else None]
"""
    code = CHILD.replace('[os.callback] if what == "callback" else []', "callbacks")
    code = code.replace("net = bp", limit + "net = bp")
    arguments = [sys.executable, "-c", code, str(tmp_path), "nothing", "0", str(EPOCHS)]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert "FileFormatError" in ended.stderr
    assert os.strerror(errno.EFBIG) in ended.stderr
    assert steps_in(tmp_path)[-1] == 10
    assert not list(tmp_path.glob(".saving-*"))
    assert resumed(tmp_path, checkpoint_every=0.5) == uninterrupted()


# ---- files that are not what they should be ------------------------------------------------------


def newest(folder):
    return sorted(folder.glob("step-*"))[-1]


def newest_alone(folder):
    *others, file = sorted(folder.glob("step-*"))
    for other in others:
        other.unlink()
    return file


def spoil(file, how):
    content = bytearray(file.read_bytes())
    if how == "torn":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    elif how == "a bit":
        content[-5] ^= 4
    elif how == "something else":
        content[:] = b"\x80\x04cos\nsystem\n"
    file.write_bytes(content)


def rewrite(file, notes=None, **arrays):
    """Change what a checkpoint says, and give it the checksum of that."""
    with safetensors.safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    values = safetensors.load_file(file)
    for name, array in arrays.items():
        if array is None:
            del values["extra." + name]
        else:
            values["extra." + name] = np.asarray(array)
    metadata["notes"] = json.dumps(json.loads(metadata["notes"]) | (notes or {}))
    metadata["sha256"] = checksum(metadata, values)
    file.write_bytes(safetensors.save(values, metadata))


@pytest.mark.parametrize("how", ["torn", "empty", "a bit", "something else"])
@pytest.mark.parametrize("bad", [1, 2])
def test_the_newest_that_can_be_read_is_taken(how, bad, interrupt, tmp_path):
    assert interrupt(4)
    for file in sorted(tmp_path.glob("step-*"))[-bad:]:
        spoil(file, how)
    good = sorted(tmp_path.glob("step-*"))[-bad - 1]
    with pytest.warns(UserWarning, match=rf"step-.*; resuming from {good.name}") as warned:
        assert resumed(tmp_path) == uninterrupted()
    assert len(warned) == bad
    assert warned[0].filename == __file__  # whoever called train
    with warnings.catch_warnings():  # the spoilt ones were written again
        warnings.simplefilter("error")
        assert resumed(tmp_path) == uninterrupted()


def test_one_that_cant_be_read_does_not_push_good_ones_out(interrupt, tmp_path):
    assert interrupt(5)
    spoil(newest(tmp_path), "torn")
    with pytest.warns(UserWarning, match="torn"):
        assert interrupt(1, resume=True, checkpoint_every=0.3, checkpoint_keep=1)
    with pytest.warns(UserWarning, match="torn"):
        assert resumed(tmp_path, checkpoint_every=0.3, checkpoint_keep=1) == uninterrupted()


def test_none_that_can_be_read(interrupt, tmp_path):
    assert interrupt(3)
    for file in tmp_path.glob("step-*"):
        spoil(file, "a bit")
    names = sorted(file.name for file in tmp_path.iterdir())
    net = network()
    before = net.parameters.copy()
    with pytest.raises(bp.FileFormatError, match="no checkpoint can be read") as error:
        train(net, tmp_path, resume=True)
    assert all(name in str(error.value) for name in names)
    np.testing.assert_array_equal(net.parameters, before)
    assert sorted(file.name for file in tmp_path.iterdir()) == names


LIES = {
    "no state": {"optimizer.1": None},
    "a state of another size": {"optimizer.0": np.zeros(3, "float32")},
    "best parameters of another size": {"best": np.zeros(3, "float32")},
    "no history": {"history.loss": None},
    "a history of text": {"notes": {"step": "twelve"}},
    "a matrix as history": {"history.loss": np.zeros((2, 2))},
    "a learning rate too many": {"history.learning_rate": np.ones(99)},
    "no step": {"notes": {"step": None}},
    "another step": {"notes": {"step": 9}},
    "an infinite step": {"notes": {"step": math.inf}},
    "a negative step": {"notes": {"step": -4}},
    "a list as best loss": {"notes": {"best_loss": [1]}},
    "no run": {"notes": {"run": "rm -rf"}},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies(lie, interrupt, tmp_path):
    assert interrupt(3)
    file = newest_alone(tmp_path)
    rewrite(file)
    read(file, device="cpu")  # it is the lie that is refused
    changes = dict(LIES[lie])
    rewrite(file, changes.pop("notes", None), **changes)
    net = network()
    before = net.parameters.copy()
    with pytest.raises(bp.FileFormatError, match=file.name):
        train(net, tmp_path, resume=True, early_stopping=None)
    np.testing.assert_array_equal(net.parameters, before)


def test_a_file_of_a_newer_version(interrupt, tmp_path):
    assert interrupt(2)
    file = newest_alone(tmp_path)
    with safetensors.safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata() | {"format": "backprop_gpu/99"}
    values = safetensors.load_file(file)
    metadata["sha256"] = checksum(metadata, values)
    file.write_bytes(safetensors.save(values, metadata))
    with pytest.raises(bp.FileFormatError, match="backprop_gpu/99"):
        resumed(tmp_path)


def test_files_that_are_no_checkpoints(tmp_path):
    bp.save(network(), tmp_path / "step-000000000008.safetensors")
    with pytest.raises(bp.FileFormatError, match="no checkpoint of a training run"):
        resumed(tmp_path)
    safetensors.save_file({"w": np.ones(3)}, tmp_path / "step-000000000009.safetensors")
    with pytest.raises(bp.FileFormatError, match=r"000000000009.*format is None"):
        resumed(tmp_path)


def test_other_files_in_the_folder_stay(tmp_path):
    others = ["net.safetensors", "notes.txt", ".hidden"]
    for name in others:
        (tmp_path / name).write_text("mine")
    assert resumed(tmp_path, checkpoint_keep=1) == uninterrupted()
    assert all((tmp_path / name).read_text() == "mine" for name in others)
    assert len(list(tmp_path.iterdir())) == len(others) + 1


def test_what_is_not_a_regular_file_is_not_overwritten(tmp_path):
    in_the_way = tmp_path / "step-000000000008.safetensors"
    in_the_way.mkdir()
    with pytest.raises(bp.FileFormatError, match="is not a regular file; it is left alone"):
        train(network(), tmp_path)
    assert in_the_way.is_dir()
    in_the_way.rmdir()
    assert resumed(tmp_path) == uninterrupted()


# ---- runs of something else ----------------------------------------------------------------------

OTHERS = {
    "loss": {"loss": "sse"},
    "optimizer": {"optimizer": bp.Adam(0.06)},
    "batch_size": {"batch_size": 5},
    "seed": {"seed": 4},
    "shuffle": {"shuffle": False},
    "clip_norm": {"clip_norm": 2.0},
    "clip_value": {"clip_value": 2.0},
    "clip_sample_norm": {"clip_sample_norm": 2.0},
    "early_stopping": {"early_stopping": bp.EarlyStopping(2)},
    "validation": {"validation": HELD_OUT},
}


def refused(folder, x=X, y=Y, net=None, **options):
    net = network() if net is None else net
    before, files = net.parameters.copy(), {f: f.read_bytes() for f in folder.iterdir()}
    options = {"optimizer": bp.Adam(0.05), "batch_size": 6} | options
    with pytest.raises(bp.DomainError) as error:
        bp.train(net, x, y, epochs=EPOCHS, checkpoint=folder, resume=True, **options)
    np.testing.assert_array_equal(net.parameters, before)
    assert {f: f.read_bytes() for f in folder.iterdir()} == files
    return str(error.value)


@pytest.mark.parametrize("name", OTHERS)
def test_another_run(name, interrupt, tmp_path):
    assert interrupt(3)
    message = refused(tmp_path, **OTHERS[name])
    assert f"{name} = " in message
    assert "another folder" in message


def test_another_network_or_other_data(interrupt, tmp_path):
    assert interrupt(3)
    tanh = ["tanh", "identity"]
    for name, net in {
        "layer_sizes": bp.MLP([3, 6, 2], tanh, device="cpu"),
        "activations": bp.MLP(SIZES, ["tanh", "tanh"], device="cpu"),
        "dtype": bp.MLP(SIZES, tanh, device="cpu", dtype="float64"),
    }.items():
        assert f"{name} = " in refused(tmp_path, net=net)
    assert "samples = 20, and this one has 19" in refused(tmp_path, X[1:], Y[1:])


def test_other_data_where_a_batch_is_all_of_them(interrupt, tmp_path):
    assert interrupt(3, batch_size=None)
    assert "samples = 20" in refused(tmp_path, X[1:], Y[1:], batch_size=None)


def test_another_path(tmp_path):
    """The ways to run training differ in the last bits."""
    from backprop_gpu.compiled import compiler

    if compiler.compiler() is None:
        pytest.skip("no C++ compiler for the compiled training loop")
    train(network(), tmp_path, epochs=2, path="steps")
    assert "path = steps" in refused(tmp_path, path="compiled")


def test_functions_are_known_by_their_names(interrupt, tmp_path):
    def optimizer():  # a function in another place in memory, as in another process
        return bp.SGD(lambda epochs: 0.05 / (1 + epochs))

    assert interrupt(3, optimizer=optimizer())
    assert resumed(tmp_path, optimizer=optimizer()) == uninterrupted(optimizer=optimizer())


# ---- folders -------------------------------------------------------------------------------------


def test_a_folder_with_checkpoints_is_not_begun_anew(interrupt, tmp_path):
    assert interrupt(3)
    (tmp_path / ".saving-abc").write_text("by a run that is still at work")
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    net = network()
    before = net.parameters.copy()
    with pytest.raises(bp.FileFormatError, match=r"earlier run.*resume=True, or choose another"):
        train(net, tmp_path)
    np.testing.assert_array_equal(net.parameters, before)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("folder", ["", "absent", "absent/deep"])
def test_a_run_begins_in_an_empty_or_absent_folder(folder, resume, tmp_path):
    for place in (tmp_path / folder, str(tmp_path / "text" / folder)):
        net = network()
        assert outcome(net, train(net, place, resume=resume)) == uninterrupted()
        assert os.listdir(place)


def test_resuming_needs_a_folder():
    net = network()
    with pytest.raises(bp.DomainError, match=r"resume=True needs .*checkpoint"):
        train(net, resume=True)


@pytest.mark.parametrize("path", ["file", "file/run"])
def test_a_folder_that_is_a_file(path, tmp_path):
    (tmp_path / "file").write_text("mine")
    net = network()
    before = net.parameters.copy()
    with pytest.raises(bp.FileFormatError, match=f"{path}.* can't be used as a folder"):
        train(net, tmp_path / path)
    np.testing.assert_array_equal(net.parameters, before)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cant_be_written_shows_before_anything_is_trained(tmp_path, monkeypatch):
    def denied(*arguments, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.mkstemp", denied)
    net = network()
    before = net.parameters.copy()
    with pytest.raises(bp.FileFormatError, match="can't be written: Permission denied"):
        train(net, tmp_path)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("checkpoint_every", value) for value in (0, -1, math.nan, math.inf, "1", None, True)),
        *(("checkpoint_keep", value) for value in (0, -1, 1.5, "1", None, True)),
    ],
)
def test_bad_argument(name, value, tmp_path):
    net = network()
    before = net.parameters.copy()
    with pytest.raises(bp.DomainError, match=f"{name} is {value!r}; expected"):
        train(net, tmp_path / "run", **{name: value})
    np.testing.assert_array_equal(net.parameters, before)
    assert not (tmp_path / "run").exists()


# ---- which are written, and which are kept -------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (1, [0, 4, 8, 12, 16, 20, 24, 28]),
        (2.5, [0, 10, 20, 28]),
        (0.5, list(range(0, 29, 2))),
        (0.01, list(range(29))),
        (100, [0, 28]),
    ],
)
def test_when_they_are_written(every, steps, tmp_path):
    train(network(), tmp_path, checkpoint_every=every, checkpoint_keep=100)
    assert steps_in(tmp_path) == steps  # 4 an epoch; before the first and after the last, too


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_the_newest_are_kept(keep, tmp_path):
    seen = []
    train(
        network(),
        tmp_path,
        checkpoint_keep=keep,
        callbacks=[lambda _: seen.append(len(steps_in(tmp_path)))],
    )
    assert steps_in(tmp_path) == [0, 4, 8, 12, 16, 20, 24, 28][-keep:]
    assert max(seen) == keep


def test_without_checkpoints_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(network())
    assert not list(tmp_path.iterdir())


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


# ---- what a checkpoint is ------------------------------------------------------------------------


def test_a_checkpoint_is_a_network(tmp_path):
    net = network()
    train(net, tmp_path)
    loaded = bp.load(newest(tmp_path), device="cpu")
    assert loaded.parameters.tobytes() == net.parameters.tobytes()
    assert (loaded.layer_sizes, loaded.dtype) == (net.layer_sizes, net.dtype)
    np.testing.assert_array_equal(loaded(X), net(X))


def test_what_a_checkpoint_holds(interrupt, tmp_path):
    options = STOPPING["validation"] | {"checkpoint_every": 0.5}
    assert interrupt(4, **options)
    saved = read(newest(tmp_path), device="cpu")
    size = saved.net.parameters.size
    assert {name: array.shape for name, array in saved.arrays.items()} == {
        "optimizer.0": (size,),
        "optimizer.1": (size,),
        "history.loss": (1,),
        "history.validation_loss": (1,),
        "history.learning_rate": (2,),
        "losses": (2,),
        "counts": (2,),
        "safe": (size,),
        "best": (size,),
    }
    assert saved.notes["step"] == 6
    assert saved.notes["version"] == bp.__version__
    assert saved.notes["run"]["optimizer"] == repr(bp.Adam(0.05))

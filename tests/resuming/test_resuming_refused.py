"""Checkpoints that can't be read, or that are of another run."""

import json
import math
import warnings

import numpy as np
import pytest
import small_runs
from host.needs import needs_compiler
from small_runs import (
    EPOCHS,
    HELD_OUT,
    SIZES,
    X,
    Y,
    network,
    newest,
    resumed,
    steps_in,
    train,
    uninterrupted,
)

import backprop_gpu as bp
from backprop_gpu.saving import checksum, read

safetensors = pytest.importorskip("safetensors.numpy")


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
    assert warned[0].filename == small_runs.__file__  # where train is called
    with warnings.catch_warnings():  # the spoilt ones were written again
        warnings.simplefilter("error")
        assert resumed(tmp_path) == uninterrupted()


def test_one_that_cant_be_read_does_not_push_good_ones_out(interrupt, tmp_path):
    def fail(epoch):
        raise ZeroDivisionError

    assert interrupt(5)
    spoil(newest(tmp_path), "torn")
    options = {"checkpoint_every": 0.3, "checkpoint_keep": 1}
    with pytest.warns(UserWarning, match="torn"), pytest.raises(ZeroDivisionError):
        train(network(), tmp_path, resume=True, callbacks=[fail], **options)
    assert steps_in(tmp_path) == [15, 16]
    with pytest.warns(UserWarning, match="torn"):
        assert resumed(tmp_path, **options) == uninterrupted()


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
    with pytest.raises(bp.FileFormatError, match="is a folder, not a file; it is left alone"):
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


OTHER_DATA = {
    "x": {"x": X[::-1]},
    "y": {"y": Y[::-1]},
    "x in another unit": {"x": X * 1.01},
    "y with its columns swapped": {"y": Y[:, ::-1]},
    "validation": {"validation": (HELD_OUT[0][::-1], HELD_OUT[1])},
    "weights of samples": {"sample_weight": np.linspace(1, 2, len(X))},
}


@pytest.mark.parametrize("which", OTHER_DATA)
def test_other_data_of_the_same_shape(which, interrupt, tmp_path):
    """As of folds that share a folder: the second must not be given the network of the first."""
    assert interrupt(3, validation=HELD_OUT)
    options = {"validation": HELD_OUT} | OTHER_DATA[which]
    assert "is of a run with other data" in refused(tmp_path, **options)


@pytest.mark.parametrize("other", [None, np.linspace(2, 1, len(X))], ids=["none", "others"])
def test_other_weights_of_the_same_samples(other, interrupt, tmp_path):
    assert interrupt(3, sample_weight=np.linspace(1, 2, len(X)))
    assert "is of a run with other data" in refused(tmp_path, sample_weight=other)


def test_other_weights_beside_large_targets(tmp_path):
    weights, far = np.linspace(1, 2, len(X)), 1e6 + Y
    options = {"optimizer": bp.Adam(0.05), "batch_size": 6, "loss": "mse"}
    net = bp.MLP([X.shape[1], Y.shape[1]], ["identity"], device="cpu")
    bp.train(net, X, far, epochs=1, checkpoint=tmp_path, sample_weight=weights, **options)
    said = refused(tmp_path, X, far, net, sample_weight=weights[::-1], **options)
    assert "is of a run with other data" in said


def test_data_that_were_rounded_in_another_way(interrupt, tmp_path):
    """Another processor may prepare them so, and the run goes on there."""
    assert interrupt(3)
    options = {"epochs": EPOCHS, "batch_size": 6, "optimizer": bp.Adam(0.05)}
    nearly = X * (1 + 1e-7)
    history = bp.train(network(), nearly, Y, checkpoint=tmp_path, resume=True, **options)
    assert len(history.loss) == EPOCHS


@pytest.mark.parametrize("data", [None, 3, [["a", 1]], [[1.0, 2.0]], [[math.nan, 1.0]] * 40])
def test_data_that_a_checkpoint_describes_by_nonsense(data, interrupt, tmp_path):
    assert interrupt(3)
    for file in tmp_path.glob("step-*"):
        rewrite(file, {"run": read(file).notes["run"] | {"data": data}})
    assert "other data" in refused(tmp_path)


def test_data_that_are_streamed_now(interrupt, tmp_path):
    """They come in another order."""
    x = np.memmap(tmp_path / "x", "float32", "w+", shape=X.shape)
    x[:] = X
    assert interrupt(3)
    assert "streamed = False" in refused(tmp_path, x)


@needs_compiler
def test_another_path(tmp_path):
    """The ways to run training differ in the last bits."""
    train(network(), tmp_path, epochs=2, path="steps")
    assert "path = steps" in refused(tmp_path, path="compiled")


def test_functions_are_known_by_their_names(interrupt, tmp_path):
    # Two that are in different places in memory, as in different processes.
    first, second = (bp.SGD(lambda epochs: 0.05 / (1 + epochs)) for _ in range(2))
    assert interrupt(3, optimizer=first)
    assert resumed(tmp_path, optimizer=second) == uninterrupted(optimizer=first)


@pytest.mark.parametrize("resume", [False, True])
def test_what_is_no_folder(resume):
    with pytest.raises(bp.DtypeError, match="checkpoint is 3; expected a str or a Path"):
        bp.train(network(), X, Y, checkpoint=3, resume=resume)

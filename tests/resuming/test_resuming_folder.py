"""Which checkpoints are written, where, and what is in them."""

import errno
import math
import os

import numpy as np
import pytest
from small_runs import (
    STOPPING,
    X,
    Y,
    network,
    newest,
    outcome,
    steps_in,
    train,
    uninterrupted,
)

import backprop_gpu as bp
from backprop_gpu.saving import read


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


def test_the_working_directory_may_change(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    train(network(), "run", callbacks=[lambda epoch: os.chdir(tmp_path / "elsewhere")])
    assert len(steps_in(tmp_path / "run")) == 3
    assert not os.listdir()


@pytest.mark.parametrize(
    "given", [{"checkpoint_every": 1}, {"checkpoint_keep": 3}, {"resume": True}], ids=str
)
def test_what_is_said_of_checkpoints_needs_a_folder(given):
    (name, value), net = *given.items(), network()
    before = net.parameters.copy()
    with pytest.raises(
        bp.DomainError, match=f"{name}={value} needs checkpoint=, the checkpoints' folder"
    ):
        train(net, **given)
    np.testing.assert_array_equal(net.parameters, before)


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
        *(("checkpoint_every", value) for value in (0, -1, math.nan, math.inf, "1", True)),
        *(("checkpoint_keep", value) for value in (0, -1, 1.5, "1", True)),
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


@pytest.mark.parametrize(("every", "steps"), [(0.1, range(0, 22, 3)), (3, [0, 9, 18, 21])])
def test_of_a_stream_they_are_written_at_the_end_of_epochs(every, steps, tmp_path):
    options = {"checkpoint_every": every, "checkpoint_keep": 100, "epochs": 7}
    bp.train(network(), [(X, Y)] * 3, checkpoint=tmp_path, **options)
    assert steps_in(tmp_path) == [*steps]


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

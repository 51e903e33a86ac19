"""What a callback, a progress function or the data raise leaves a network, and nothing running."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from host.needs import needs_compiler
from small_run import data, numbers

import backprop_gpu as bp
from backprop_gpu.data import StreamedBatches

pytestmark = pytest.mark.usefixtures("compiled_soon")

PATHS = pytest.mark.parametrize(
    "path", ["steps", *(pytest.param(way, marks=needs_compiler) for way in ("fused", "compiled"))]
)
ROWS, SIZE = 60, 20
X, Y = data(ROWS)
OPTIONS = {"batch_size": SIZE, "shuffle": False}


class GoneError(Exception):
    """Of a server, say."""


class Source:
    """Rows that can be sliced, until so many have been read."""

    shape, dtype = X.shape, X.dtype

    def __init__(self, most):
        self.left = most

    def __getitem__(self, rows):
        self.left -= len(X[rows])
        if self.left < 0:
            raise GoneError
        return X[rows]


def in_memory(folder):
    return X


def mapped(folder):
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


def network():
    return bp.MLP([3, 5, 2], ["tanh", "identity"], device="cpu", dtype="float64")


def after(epochs, path):
    """The parameters after so many epochs."""
    net = network()
    bp.train(net, X, Y, epochs=epochs, path=path, **OPTIONS)
    return numbers(net)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    settings = StreamedBatches.__init__.__kwdefaults__
    monkeypatch.setitem(settings, "window_bytes", SIZE * (3 + 2) * 4)


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Or a service that goes on after such an error would fill up with threads and files."""
    yield
    assert "backprop_gpu-data" not in [thread.name for thread in threading.enumerate()]
    files = Path("/proc/self/fd")
    if files.is_dir():
        opened = [os.path.realpath(file) for file in files.iterdir()]
        assert not [name for name in opened if name.endswith(".npy")]


@PATHS
@pytest.mark.parametrize("source", [in_memory, mapped])
@pytest.mark.parametrize("who", ["callback", "progress"])
def test_the_network_holds_the_steps_made(source, path, who, tmp_path):
    def callback(epoch):
        if who == "callback" and epoch.number == 1:
            raise GoneError

    def progress(run):
        if who == "progress" and run.epochs_passed == 2:
            raise GoneError

    net, x = network(), source(tmp_path)
    with pytest.raises(GoneError):
        bp.train(net, x, Y, epochs=9, path=path, callbacks=[callback], progress=progress, **OPTIONS)
    np.testing.assert_array_equal(numbers(net), after(2, path))
    assert len(bp.train(net, x, Y, epochs=2, path=path, **OPTIONS).loss) == 2


@PATHS
def test_files_that_can_no_longer_be_read(path):
    net = network()
    with pytest.raises(bp.FileFormatError, match="GoneError") as caught:
        bp.train(
            net,
            Source(2 * ROWS + SIZE),
            Y,
            epochs=9,
            path=path,
            callbacks=[lambda epoch: None],  # so that every epoch is looked at
            **OPTIONS,
        )
    assert len(caught.value.history.loss) == 2
    assert np.isfinite(numbers(net)).all()


@pytest.mark.parametrize("path", ["steps", pytest.param("fused", marks=needs_compiler)])
def test_batches_that_end_in_an_error(path):
    def batches(epoch):
        for start in range(0, ROWS, SIZE):
            if epoch == 2:
                raise GoneError
            yield X[start : start + SIZE], Y[start : start + SIZE]

    net = network()
    with pytest.raises(GoneError) as caught:
        bp.train(net, batches, epochs=9, path=path)
    assert len(caught.value.history.loss) == 2
    np.testing.assert_array_equal(numbers(net), after(2, path))

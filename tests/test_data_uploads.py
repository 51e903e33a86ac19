"""Data come to a GPU on a stream of their own: never before their turn, and never too late."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from host.streams import Stream, StreamDevice

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.backends.cupy_device import CopyStream
from backprop_gpu.data import IteratedBatches, StreamedBatches
from backprop_gpu.data.staging import Staging

N = 400
X = np.arange(3 * N, dtype="float32").reshape(N, 3)
Y = -X[:, :1]
COMMON = {
    "columns": (3, 1),
    "dtype": np.dtype("float32"),
    "check_targets": bp.losses.find_loss("mse").check_targets,
}


class Sliced:
    """The least that is streamed."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __getitem__(self, rows):
        return self.values[rows]


def streamed(backend):
    return StreamedBatches(
        *(Sliced(X), Sliced(Y), 10), seed=1, window_bytes=640, backend=backend, **COMMON
    )


def iterated(backend):
    sizes = np.resize([7, 3, 9, 20, 5], 40)
    ends = sizes.cumsum()
    pairs = [(X[b - n : b], Y[b - n : b]) for n, b in zip(sizes, ends, strict=True)]
    return IteratedBatches(pairs, backend=backend, **COMMON)


SOURCES = pytest.mark.parametrize("source", [streamed, iterated])
LATE = pytest.mark.parametrize("late", [None, "computing", "copying"])


@pytest.fixture
def device(monkeypatch, late):
    device = StreamDevice(late)
    monkeypatch.setitem(sys.modules, "cupy", device)
    monkeypatch.setitem(sys.modules, "cupyx", SimpleNamespace(empty_pinned=np.empty))
    return device


def same_as_on_the_cpu(source, device):
    """Whether the batches are, of which none is read before the last has been asked for."""
    backend = device.backend()
    found = list(source(backend).epoch(0))
    backend.synchronize()
    expected = list(source(NumpyBackend()).epoch(0))
    return all(
        np.array_equal(array, wanted)
        for pair, pair_wanted in zip(found, expected, strict=True)
        for array, wanted in zip(pair, pair_wanted, strict=True)
    )


@SOURCES
@LATE
def test_batches_are_those_of_the_cpu_whichever_stream_is_late(source, device):
    assert same_as_on_the_cpu(source, device)


# What could be forgotten, and the stream that shows it by being late.
FORGOTTEN = {
    "to wait until batches were taken": ("computing", Stream, "wait_event", lambda *_: None),
    "to wait for the copy": (
        *("copying", CopyStream, "upload"),
        lambda self, host, device, after: device.set(host, self._copying),
    ),
    "to say that batches were taken": (
        *("computing", Staging, "release"),
        lambda self: setattr(self, "_done_with", lambda: None),
    ),
}


@SOURCES
@pytest.mark.parametrize(("late", "kind", "method", "without"), FORGOTTEN.values(), ids=FORGOTTEN)
def test_a_wait_that_is_forgotten_is_noticed(
    source, late, kind, method, without, device, monkeypatch
):
    monkeypatch.setattr(kind, method, without)
    assert not same_as_on_the_cpu(source, device)


@SOURCES
@LATE
def test_memory_belongs_to_the_stream_that_computes(source, device, monkeypatch):
    """Or it would be handed out again before that stream has done with it."""
    owners, memory = [], CopyStream.memory

    def noted(self, *args):
        pair = memory(self, *args)
        owners.append(pair[1].owner)
        return pair

    monkeypatch.setattr(CopyStream, "memory", noted)
    mine = Stream(device, late=False)
    with mine:
        assert same_as_on_the_cpu(source, device)
    assert set(owners) == {mine}


@pytest.mark.parametrize("late", [None])
def test_batches_that_are_in_gpu_memory_are_copied_before_the_next_is_made(device):
    backend = device.backend()
    x, y = backend.empty((4, 3), X.dtype), backend.empty((4, 1), X.dtype)

    def reusing():
        for i in range(10):
            x[...], y[...] = i, -i
            yield x, y

    found = list(IteratedBatches(reusing(), backend=backend, **COMMON).epoch(0))
    assert [(x.min(), y.max()) for x, y in found] == [(i, -i) for i in range(10)]


@SOURCES
def test_batches_are_written_where_there_is_room(source, backend):
    x_room, y_room = backend.empty((20, 3), X.dtype), backend.empty((20, 1), X.dtype)

    def room(rows):
        return x_room[:rows], y_room[:rows]

    wanted = source(NumpyBackend()).epoch(0)
    for pair, pair_wanted in zip(source(backend).epoch(0, room=room), wanted, strict=True):
        for array, there, expected in zip(pair, (x_room, y_room), pair_wanted, strict=True):
            assert array.base is there
            np.testing.assert_array_equal(backend.to_numpy(there[: len(expected)]), expected)


def test_on_the_cpu_nothing_is_copied_to_the_device():
    staging = Staging(NumpyBackend().uploads(), 5, [((3,), X.dtype), ((), np.dtype(int))])
    assert all(a is b for a, b in zip(staging.host, staging.device, strict=True))
    assert [array.shape for array in staging.host] == [(5, 3), (5,)]

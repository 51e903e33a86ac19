"""Data come to a GPU on a stream of their own: never before their turn, and never too late.

On a simulated GPU streams do nothing before somebody waits for it, so that what is not waited for
shows.
"""

from contextlib import suppress

import numpy as np
import pytest

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


def on_gpu(test):
    return pytest.mark.gpu(pytest.mark.parametrize("backend", ["gpu"], indirect=True)(test))


def same_as_on_the_cpu(source, backend):
    """Whether the batches are, of which none is read before the last has been asked for."""
    found = list(source(backend).epoch(0))
    backend.synchronize()
    expected = list(source(NumpyBackend()).epoch(0))
    return all(
        np.array_equal(backend.to_numpy(array), wanted)
        for pair, pair_wanted in zip(found, expected, strict=True)
        for array, wanted in zip(pair, pair_wanted, strict=True)
    )


@on_gpu
@SOURCES
def test_batches_are_those_of_the_cpu(source, backend):
    assert same_as_on_the_cpu(source, backend)


FORGOTTEN = {
    "to wait until batches were taken": (
        "upload",
        lambda self, host, device, after: (
            device.set(host, self._copying),
            self._copying.synchronize(),
        ),
    ),
    "to wait for the copy": (
        "upload",
        lambda self, host, device, after: device.set(host, self._copying),
    ),
    "to say that batches were taken": (
        "mark",
        lambda self: type(self._computing.record())(),  # an event that nobody records
    ),
}


@on_gpu
@SOURCES
@pytest.mark.parametrize(("method", "without"), FORGOTTEN.values(), ids=FORGOTTEN)
def test_a_wait_that_is_forgotten_is_noticed(
    source, method, without, backend, late_streams, monkeypatch
):
    monkeypatch.setattr(CopyStream, method, without)
    with suppress(backend.xp.cuda.runtime.CUDARuntimeError):  # what is no row's number, as one
        assert not same_as_on_the_cpu(source, backend)


@on_gpu
@SOURCES
def test_memory_belongs_to_the_stream_that_computes(source, backend, monkeypatch):
    """Or CuPy would hand it out again before that stream has done with it."""
    owners, memory = set(), CopyStream.memory

    class Owner(backend.xp.cuda.MemoryHook):
        def malloc_preprocess(self, **_):
            owners.add(backend.xp.cuda.get_current_stream())

    def noted(self, *args):
        with Owner():
            return memory(self, *args)

    monkeypatch.setattr(CopyStream, "memory", noted)
    pool = backend.xp.get_default_memory_pool()
    with (
        backend.xp.cuda.using_allocator(pool.malloc),
        backend.xp.cuda.Stream(non_blocking=True) as mine,
    ):
        assert same_as_on_the_cpu(source, backend)
    assert owners == {mine}


@on_gpu
def test_batches_that_are_in_gpu_memory_are_copied_before_the_next_is_made(backend):
    x, y = backend.empty((4, 3), X.dtype), backend.empty((4, 1), X.dtype)

    def reusing():
        for i in range(10):
            x[...], y[...] = i, -i
            yield x, y

    found = list(IteratedBatches(reusing(), backend=backend, **COMMON).epoch(0))
    assert [(x.min(), y.max()) for x, y in found] == [(i, -i) for i in range(10)]


@on_gpu
def test_batches_in_gpu_memory_are_not_overwritten_before_they_are_taken(backend, late_streams):
    """Training on a stream that does not wait for the one they are made on."""

    def batches(epoch):
        for i in range(0, N, 20):
            yield tuple(backend.xp.asarray(array[i : i + 20] / N) for array in (X, Y))

    def trained(device, data):
        net = bp.MLP([3, 4, 1], device=device, seed=1)
        return bp.train(net, data, epochs=2, path="steps").loss

    expected = trained("cpu", [[backend.to_numpy(array) for array in pair] for pair in batches(0)])
    with backend.xp.cuda.Stream(non_blocking=True):
        np.testing.assert_allclose(trained(backend, batches), expected, rtol=1e-4)


@on_gpu
def test_a_stream_of_each_threads_own_is_waited_for_by_the_thread_that_reads(backend, late_streams):
    """Which makes room for larger batches, and would find another stream by the same name."""

    def batches(epoch):
        first = 0
        for rows in (7, 3, 9, 20, 5, 30, 40, 60, 80):
            yield X[first : first + rows] / N, Y[first : first + rows] / N
            first += rows

    def trained(device):
        net = bp.MLP([3, 4, 1], device=device, seed=1)
        return bp.train(net, batches, epochs=3, path="steps").loss

    with backend.xp.cuda.Stream.ptds:
        found = trained(backend)
    np.testing.assert_allclose(found, trained("cpu"), rtol=1e-4)


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

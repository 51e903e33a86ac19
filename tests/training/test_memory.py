"""Where memory runs out, batches are computed in parts, with the same result."""

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from host.backend import emulated_backend

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend


class Small(NumpyBackend):
    """A device on which no array may have more numbers than `limit`."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def empty(self, shape, dtype):
        if np.prod(shape) > self.limit:
            raise MemoryError(f"out of memory allocating {shape}")
        return super().empty(shape, dtype)


def data(n=50):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), rng.random((n, 2))


def network(backend):
    return bp.MLP([3, 16, 2], ["tanh", "sigmoid"], device=backend, dtype="float64")


@pytest.mark.parametrize("batch_size", [None, 23])
@pytest.mark.parametrize("limit", [16 * 11, 16 * 8, 98])
@pytest.mark.parametrize(
    "options",
    [{}, {"clip_norm": 0.1}, {"sample_weight": np.arange(1, 51)}],
    ids=["plain", "clipped", "weighted"],
)
def test_parts_of_a_batch_have_its_gradient(batch_size, limit, options):
    x, y = data()
    small, large = network(Small(limit)), network("cpu")
    options = options | {"epochs": 5, "optimizer": bp.Adam(0.05), "batch_size": batch_size}
    with pytest.warns(RuntimeWarning, match="too little memory on cpu.*in parts of"):
        in_parts = bp.train(small, x, y, **options)
    whole = bp.train(large, x, y, **options)
    np.testing.assert_allclose(in_parts.loss, whole.loss, rtol=1e-12)
    np.testing.assert_allclose(small.parameters, large.parameters, rtol=1e-9, atol=1e-12)


def test_the_size_of_the_parts_is_found_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bp.train(network(Small(16 * 14)), *data(), epochs=5)
    parts = [str(warning.message).split("in parts of ")[1].split(",")[0] for warning in caught]
    assert parts == ["25", "13"]


def test_a_sample_that_does_not_fit_is_an_error():
    net = network(Small(10**6))
    net.backend.limit = 10
    before = net.parameters.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MemoryError):
            bp.train(net, *data(), epochs=1)
    np.testing.assert_array_equal(net.parameters, before)


def test_on_the_cuda_backend():
    backend, fits = emulated_backend(), emulated_backend()
    whole = backend.empty

    def empty(shape, dtype):
        if np.prod(shape) > 16 * 20:
            raise MemoryError
        return whole(shape, dtype)

    small, large = network(backend), network(fits)
    backend.empty = empty
    with pytest.warns(RuntimeWarning, match="too little memory on cuda:0"):
        in_parts = bp.train(small, *data(), epochs=3)
    np.testing.assert_allclose(in_parts.loss, bp.train(large, *data(), epochs=3).loss, rtol=1e-12)


on_gpu = pytest.mark.parametrize(
    "backend", [pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)


@contextmanager
def memory_that_runs_out(backend, when):
    """Refuse CuPy's requests for memory for which `when` (their number, their bytes) is true."""
    cuda, asked = backend.xp.cuda, []

    def allocate(size):
        asked.append(size)
        if when(len(asked) - 1, size):
            raise cuda.memory.OutOfMemoryError(size, 0)
        return backend.xp.get_default_memory_pool().malloc(size)

    with cuda.using_allocator(allocate):
        yield asked


SAYS = r"cuda:0 has too little memory: .* [\d,]+ bytes .*; .* are free\. .*batch_size"


@on_gpu
@pytest.mark.parametrize(
    "use",
    [
        lambda net, x, y: net(x),
        lambda net, x, y: net.forward(x),
        lambda net, x, y: net.loss(x, y),
        lambda net, x, y: net.copy(),
        lambda net, x, y: bp.check_gradients(net, x, y),
        lambda net, x, y: bp.explain(net, x, y, 1, 0, 0),
        lambda net, x, y: bp.outliers(net, x, y),
        lambda net, x, y: bp.plan(net, samples=50, batch_size=4),
    ],
    ids=["predict", "forward", "loss", "copy", "check", "explain", "outliers", "plan"],
)
def test_a_gpu_says_how_much_was_needed_and_what_is_free(use, backend):
    net = network(backend)
    with (
        memory_that_runs_out(backend, lambda number, size: number == 2),
        pytest.raises(bp.OutOfMemoryError, match=SAYS) as caught,
    ):
        use(net, *data())
    assert isinstance(caught.value, MemoryError)


@on_gpu
@pytest.mark.filterwarnings("ignore:there is too little memory")
@pytest.mark.parametrize("path", ["steps", "one launch"])
def test_whenever_memory_runs_out_the_network_holds_the_steps_made(path, backend):
    options = {"optimizer": bp.Adam(0.01), "path": path}

    def trained(epochs, refused=lambda number, size: False):
        net = network(backend)
        with memory_that_runs_out(backend, refused) as asked:
            try:
                bp.train(net, *data(), epochs=epochs, **options)
            except bp.OutOfMemoryError:
                return backend.to_numpy(net.parameters), None
        return backend.to_numpy(net.parameters), len(asked)

    after = [trained(epochs)[0] for epochs in range(5)]
    ran_out, requests = -1, None
    while requests is None:  # from the first request on, from the second on, and so on
        ran_out += 1
        found, requests = trained(4, lambda number, size: number >= ran_out)  # noqa: B023
        wanted = after if requests is None else after[4:]
        assert any(np.allclose(found, steps, rtol=1e-9) for steps in wanted)
    assert ran_out > 10


@on_gpu
def test_where_there_is_no_room_for_several_steps_at_once_they_are_made_one_by_one(backend):
    x, y = data(65 * 10)
    fits, small = network(backend), network(backend)
    options = {"optimizer": bp.Adam(0.01), "batch_size": 10, "epochs": 3, "path": "steps"}
    expected = bp.train(fits, x, y, **options)
    room = 64 * 10 * 8  # for which rows each of 64 steps takes
    with (
        memory_that_runs_out(backend, lambda number, size: size == room) as asked,
        pytest.warns(RuntimeWarning, match="several steps at once.*with the same result"),
    ):
        found = bp.train(small, x, y, **options)
    assert asked.count(room) == 1
    assert found.loss == expected.loss
    assert (small.parameters == fits.parameters).all()

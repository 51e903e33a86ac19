"""Where memory runs out, batches are computed in parts, with the same result."""

import warnings

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
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}], ids=["plain", "clipped"])
def test_parts_of_a_batch_have_its_gradient(batch_size, limit, options):
    x, y = data()
    small, large = network(Small(limit)), network("cpu")
    options |= {"epochs": 5, "optimizer": bp.Adam(0.05), "batch_size": batch_size}
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

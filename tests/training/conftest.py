"""Networks to train, on every backend."""

import pytest
from cases import ReadsLate

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend, choose_backend


@pytest.fixture(params=["numpy", "late", pytest.param("gpu", marks=pytest.mark.gpu)])
def backend(request):
    if request.param == "numpy":
        return NumpyBackend()
    if request.param == "late":
        return ReadsLate()
    try:
        return choose_backend("cuda")[0]
    except bp.DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture
def net(backend, dtype):
    return bp.MLP([3, 5, 4, 2], ["tanh", "sigmoid", "identity"], device=backend, dtype=dtype)


@pytest.fixture
def double(backend):
    return bp.MLP([3, 5, 2], ["tanh", "identity"], device=backend, dtype="float64")

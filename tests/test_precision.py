"""How float32 matrices are multiplied: the user's choice, on a GPU."""

import copy
import pickle

import numpy as np
import pytest
from host.device import StandInDevice, stand_in_cublas
from host.needs import needs_gpp

import backprop_gpu as bp
from backprop_gpu.backends.cuda_backend import CudaBackend

ROUNDING = {"float32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}
GRADIENTS = {"float32": 1e-5, "tf32": 3e-3, "bf16": 2e-2}  # of the gradient's length

# Those of the benchmarks, the largest a quarter as wide; and awkward ones. Layers, and samples.
NETWORKS = [
    ((5, 3, 5, 4), 1),
    ((64, 128, 128, 10), 64),
    ((128, 256, 256, 1), 65),
    ((784, 1024, 1024, 10), 19),
    ((512, 1024, 1024, 512), 5),
    ((33, 65, 31, 2), 97),
    ((1, 257, 3), 3),
    ((7, *[17] * 6, 2), 31),
]


@pytest.fixture
def gpu(monkeypatch):
    """Stand-ins for a GPU and its cuBLAS, by device and precision."""
    opened = {}

    def open_gpu(index, precision="float32"):
        if precision not in opened:
            products = stand_in_cublas(precision)
            opened[precision] = StandInDevice().backend(
                products.gemm, precision=precision, descend=products.descend
            )
        return opened[precision]

    monkeypatch.setattr("backprop_gpu.backends.cupy_device.unusable", lambda index=0: None)
    monkeypatch.setattr("backprop_gpu.backends.cupy_device.open_gpu", open_gpu)


def network(**options):
    return bp.MLP([40, 30, 2], ["tanh", "sigmoid"], **{"device": "cuda", **options})


@needs_gpp
@pytest.mark.parametrize("precision", ROUNDING)
def test_products_are_rounded_as_asked_and_nothing_else_is(precision, gpu):
    net = network(precision=precision)
    exact = net.copy(device="cpu", dtype="float64")
    x = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    error = np.abs(net(x) - exact(x)).max()
    assert error < 4 * ROUNDING[precision]
    assert precision == "float32" or error > ROUNDING[precision] / 16
    assert (net.precision, net.parameters.dtype) == (precision, np.float32)


@needs_gpp
@pytest.mark.parametrize("precision", ROUNDING)
def test_training_ends_where_full_precision_does_but_for_rounding(precision, gpu):
    x = np.random.default_rng(0).normal(size=(50, 40))
    net = network(precision=precision)
    exact = net.copy(device="cpu", dtype="float64")
    options = {"epochs": 20, "batch_size": 16, "optimizer": bp.Adam(0.01)}
    losses, expected = (bp.train(n, x, np.abs(x[:, :2]) % 1, **options).loss for n in (net, exact))
    np.testing.assert_allclose(losses, expected, rtol=30 * ROUNDING[precision] + 1e-5)
    assert losses[-1] < losses[0]


@needs_gpp
@pytest.mark.parametrize("precision", GRADIENTS)
@pytest.mark.parametrize(("sizes", "n"), NETWORKS, ids=str)
def test_gradients_are_off_by_rounding_and_no_more(sizes, n, precision, gpu):
    """Those that `backward` returns; and those that a step of plain gradient descent goes down."""
    activations = [bp.LeakyReLU(0.1), *["sigmoid"] * (len(sizes) - 2)]
    net = bp.MLP(sizes, activations, device="cuda", precision=precision)
    exact = net.copy(device="cpu", dtype="float64")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(n, sizes[0])), random.random((n, sizes[-1]))
    x, y = x.astype(np.float32), y.astype(np.float32)
    found, expected = (each.backward(each.forward(x), y).flat for each in (net, exact))
    rate = 1 / np.abs(expected).max()  # or W would hide its change
    before = net.parameters.astype(float)
    bp.train(net, x, y, optimizer=bp.SGD(rate), path="steps")
    gone_down = (before - net.parameters) / rate
    for ours in (found, gone_down):
        error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
        assert error < GRADIENTS[precision]
        assert precision == "float32" or error > ROUNDING[precision] / 16


@needs_gpp
def test_a_network_keeps_its_precision_when_it_is_copied(gpu):
    net = network(precision="tf32")
    for twin in (net.copy(), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin.precision == "tf32"
    assert net.copy(device="cpu").precision == "float32"
    assert net.copy(device="cuda").precision == "float32"
    assert net.copy(device="cuda", precision="tf32").precision == "tf32"
    double = net.copy(dtype="float64")
    assert double.precision == "float64"
    assert pickle.loads(pickle.dumps(double)).precision == "float64"


@needs_gpp
def test_an_estimator_keeps_its_precision_when_it_is_pickled(gpu):
    estimator = bp.MLPRegressor(hidden_layer_sizes=(4,), device="cuda", precision="tf32")
    x = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    estimator.set_params(max_iter=300, tol=1.0).fit(x, x[:, 0])
    assert pickle.loads(pickle.dumps(estimator)).network_.precision == "tf32"


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_the_cpu_has_float32_alone(precision):
    with pytest.raises(bp.DomainError, match=rf"'{precision}' is not to be had on cpu.*cuda"):
        network(device="cpu", precision=precision)
    assert network(device="cpu").precision == "float32"
    assert network(device="cpu", dtype="float64").precision == "float64"


def test_double_precision_is_not_rounded():
    with pytest.raises(bp.DomainError, match="'tf32' is for float32, and dtype is 'float64'"):
        network(device="cpu", dtype="float64", precision="tf32")


def test_an_unknown_precision_is_refused():
    with pytest.raises(bp.UnknownNameError, match="fp16"):
        network(device="cpu", precision="fp16")


def test_a_backend_has_the_precision_that_it_has():
    backend = CudaBackend(np, None, "cuda:0", lambda: np.errstate(), precision="bf16")
    assert network(device=backend).precision == "bf16"
    assert network(device=backend, precision="bf16").precision == "bf16"
    with pytest.raises(bp.DomainError, match="'tf32' is not to be had on cuda:0"):
        network(device=backend, precision="tf32")

"""Plain gradient descent as a part of the products that would compute the weights' gradients."""

import numpy as np
import pytest
from host.device import StandInDevice, cublas_library, stand_in_cublas
from host.needs import needs_gpp

import backprop_gpu as bp
from backprop_gpu import schedules

pytestmark = needs_gpp

DECAYING = schedules.StepDecay(0.5, every=2, factor=0.7)
PLAIN = (bp.SGD(0.1), bp.SGD(DECAYING, weight_decay=0.05))


@pytest.fixture
def products():
    opened = stand_in_cublas()
    yield opened
    opened.close()


@pytest.fixture
def device():
    return StandInDevice()


@pytest.fixture
def net(products, device):
    return network(device.backend(products.gemm, descend=products.descend))


def network(device):
    return bp.MLP([3, 5, 4, 2], ["gelu", "tanh", "sigmoid"], device=device, dtype="float64")


def trained(net, **options):
    """Parameters and losses after a training whose last batches are smaller."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(23, 3)), random.random((23, 2))
    history = bp.train(net, x, y, **{"epochs": 9, "batch_size": 4, "path": "steps"} | options)
    return net.parameters.copy(), history.loss


@pytest.mark.parametrize("batch_size", [None, 1, 4, 22], ids=str)
@pytest.mark.parametrize("optimizer", PLAIN, ids=str)
def test_it_trains_as_numpy_does(optimizer, batch_size, net):
    options = {"optimizer": optimizer, "batch_size": batch_size}
    parameters, losses = trained(net, **options)
    expected = trained(network("cpu"), **options)
    np.testing.assert_allclose(parameters, expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(losses, expected[1], rtol=1e-9)


def test_the_same_bits_however_the_steps_are_launched(net, products, device):
    """Alone, before a report, or as many in a graph."""
    by_graphs = trained(net, optimizer=PLAIN[1])
    twin = network(device.backend(products.gemm, descend=products.descend))
    by_steps = trained(twin, optimizer=PLAIN[1], callbacks=[lambda epoch: None])
    np.testing.assert_array_equal(by_graphs[0], by_steps[0])
    assert by_graphs[1] == by_steps[1]


def test_the_products_of_a_step_update_the_weights(net, products):
    """Three products forward, two back, and three that descend; the first layer's comes last."""
    descended = []
    descend = net.backend._descend
    net.backend._descend = lambda *args: (descended.append(args[2]), descend(*args))
    trained(net, optimizer=PLAIN[0], batch_size=None, epochs=1)
    assert [W.ctypes.data for W in descended] == [W.ctypes.data for W in net.weights[::-1]]
    assert cublas_library().stand_in_products() == 3 + 2 + 3


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": bp.SGD(0.1, momentum=0.9)},
        {"optimizer": bp.Adam(0.01)},
        {"optimizer": bp.SGD(0.1), "clip_norm": 0.1},
        {"optimizer": bp.SGD(0.1), "clip_sample_norm": 0.1},
    ],
    ids=["momentum", "Adam", "clipped", "samples clipped"],
)
def test_whoever_needs_the_gradient_gets_it(options, net):
    net.backend._descend = None  # so that using it fails
    assert not net.backend.descends(1e9)
    expected = trained(net, **options)

    def refuse(*args):
        raise AssertionError("the gradient is needed")

    twin = network(StandInDevice().backend(np.dot, descend=refuse))
    assert twin.backend.descends(1e9)
    actual = trained(twin, **options)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-9)


def test_nothing_changes_in_a_step_whose_loss_is_not_finite(products):
    backend = StandInDevice().backend(products.gemm, descend=products.descend)
    net = bp.MLP([1, 1], ["identity"], device=backend, seed=3)
    with pytest.raises(bp.TrainingDiverged) as caught:
        bp.train(net, [[1e6]], [[1.0]], optimizer=bp.SGD(1.0), epochs=500, path="steps")
    assert np.isfinite(net.parameters).all()
    last = caught.value.history.loss[-1]
    assert net.loss([[1e6]], [[1.0]]) == pytest.approx(last, rel=1e-5)


def test_gradients_of_a_batch_in_parts_are_added_up(products):
    backend = StandInDevice().backend(products.gemm, descend=products.descend)
    whole = backend.empty
    net = network(backend)

    def empty(shape, dtype):
        if np.prod(shape) > 5 * 12 + 1:
            raise MemoryError
        return whole(shape, dtype)

    backend.empty = empty
    with pytest.warns(RuntimeWarning, match="too little memory"):
        parameters, _ = trained(net, optimizer=PLAIN[1], batch_size=None)
    expected, _ = trained(network("cpu"), optimizer=PLAIN[1], batch_size=None)
    np.testing.assert_allclose(parameters, expected, rtol=1e-9)


def test_cublas_reads_the_numbers_when_it_multiplies(products):
    random = np.random.default_rng(0)
    delta, a, W = random.normal(size=(7, 3)), random.normal(size=(7, 5)), random.normal(size=(3, 5))
    before, numbers = W.copy(), np.array([0.1, 0.0, -0.1, 1.0])
    products.descend(delta.T, a, W, numbers)
    np.testing.assert_allclose(W, before - 0.1 * delta.T @ a, rtol=1e-12)
    numbers[2:] = -0.2, 0.5
    products.descend(delta.T, a, W, numbers)
    np.testing.assert_allclose(W, (before - 0.1 * delta.T @ a) / 2 - 0.2 * delta.T @ a, rtol=1e-12)
    out = np.empty((3, 5))
    products.gemm(delta.T, a, out)  # whose own numbers are on the host again
    np.testing.assert_allclose(out, delta.T @ a, rtol=1e-12)


def test_numbers_on_the_host_are_read_there_again_after_an_error(products):
    A = np.ones((2, 2))
    library, products._library = products._library, None
    with pytest.raises(AttributeError):
        products.descend(A, A, A, np.ones(4))
    products._library = library
    products.gemm(A, A, out := np.empty((2, 2)))
    assert (out == 2).all()
    assert cublas_library().stand_in_products() == 1

"""Training that diverges: what is left when it goes wrong."""

import math

import numpy as np
import pytest
from small_run import data, numbers

import backprop_gpu as bp


def explode_at(epochs, rate=0.01):
    """A schedule whose rate is out of all reason from a point on."""
    return bp.SGD(lambda passed: rate if passed < epochs else 1e308)


def assert_usable(net, x, y):
    assert np.isfinite(numbers(net)).all()
    assert math.isfinite(net.loss(x, y))


@pytest.mark.parametrize("rate", [10.0, 1e3, 1e10, 1e30])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_a_learning_rate_far_too_high(backend, dtype, rate, batch_size):
    net = bp.MLP([3, 5, 2], ["relu", "identity"], device=backend, dtype=dtype)
    x, y = data()
    with pytest.raises(bp.TrainingDiverged, match="lower learning rate") as caught:
        bp.train(net, x, y, optimizer=bp.SGD(rate), epochs=500, batch_size=batch_size)
    error = caught.value
    assert isinstance(error, ValueError)
    assert f"epoch {error.epoch}" in str(error)
    assert len(error.history.loss) == len(error.history.learning_rate) == error.epoch
    assert all(map(math.isfinite, error.history.loss))
    assert error.history.stopped_by == "divergence"
    if batch_size is None:
        assert net.loss(x, y) == pytest.approx(error.history.loss[-1], rel=1e-6)
    assert_usable(net, x, y)


@pytest.mark.parametrize("batch", [0, 5, 20, 25, 29])
@pytest.mark.parametrize("watched", [False, True])
def test_after_an_update_in_the_middle_of_an_epoch(double, batch, watched):
    x, y = data(10)
    twin = double.copy()
    options = {"batch_size": 1, "callbacks": [lambda epoch: None] if watched else []}
    with pytest.raises(bp.TrainingDiverged) as caught:
        bp.train(double, x, y, optimizer=explode_at(batch / 10), epochs=9, **options)
    noticed = (batch + 1) // 10
    assert caught.value.epoch == noticed
    good = bp.train(twin, x, y, optimizer=bp.SGD(0.01), epochs=batch // 10, **options)
    assert caught.value.history.loss[: batch // 10] == good.loss
    assert len(caught.value.history.loss) == noticed
    np.testing.assert_array_equal(numbers(double), numbers(twin))
    assert_usable(double, x, y)


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("epochs", [1, 3])
def test_in_the_very_last_update(double, batch_size, epochs):
    x, y = data()
    last_update = epochs - (1 if batch_size is None else 1 / 7)
    optimizer = bp.SGD(lambda passed: 0.01 if passed < last_update - 1e-9 else 1e308)
    twin = double.copy()
    with pytest.raises(bp.TrainingDiverged) as caught:
        bp.train(double, x, 100 * y, optimizer=optimizer, epochs=epochs, batch_size=batch_size)
    assert caught.value.epoch == epochs - 1
    assert all(map(math.isfinite, caught.value.history.loss))
    before = bp.train(
        twin, x, 100 * y, optimizer=bp.SGD(0.01), epochs=epochs - 1, batch_size=batch_size
    )
    assert caught.value.history.loss[: epochs - 1] == before.loss
    np.testing.assert_array_equal(numbers(double), numbers(twin))
    assert_usable(double, x, y)


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("calls", [1, 4])
def test_the_layer_where_it_arose_is_named(layer, value, calls):
    remaining = [calls]

    def function(xp, z):
        remaining[0] -= 1
        return z.copy() if remaining[0] > 0 else z * 0 + value

    broken = bp.Activation("broken", function, lambda xp, a: xp.ones_like(a), "a")
    g = ["tanh", "tanh", "identity"]
    g[layer - 1] = broken
    net = bp.MLP([3, 4, 5, 2], g, device="cpu", dtype="float64")
    before = numbers(net)
    with pytest.raises(bp.TrainingDiverged, match=f"layer {layer}") as caught:
        bp.train(net, *data(), epochs=9, batch_size=4)
    assert caught.value.layer == layer
    assert caught.value.epoch == (calls - 1) // 2
    if calls == 1:
        assert numbers(net).tobytes() == before.tobytes()


def test_the_loss_alone_overflows(backend):
    net = bp.MLP([3, 4, 2], ["tanh", "identity"], device=backend, dtype="float32")
    before = numbers(net)
    x, y = data()
    with pytest.raises(bp.TrainingDiverged, match="in the loss") as caught:
        bp.train(net, x, 1e25 * y, epochs=3)
    assert (caught.value.epoch, caught.value.layer, caught.value.history.loss) == (0, None, [])
    assert numbers(net).tobytes() == before.tobytes()


def test_infinite_weights_behind_a_finite_loss(backend):
    """The sigmoid of an infinity is 0 or 1: such parameters are not good ones."""
    net = bp.MLP([1, 1], ["sigmoid"], device=backend, dtype="float32")
    net.set_parameters([[[0.01]]], [[0.0]])
    with pytest.raises(bp.TrainingDiverged):
        bp.train(net, [[100.0]], [[0.0]], optimizer=bp.SGD(1e38), epochs=3)
    assert np.isfinite(numbers(net)).all()


def test_training_goes_on_after_a_divergence(double):
    x, y = data()
    untrained = double.loss(x, y)
    with pytest.raises(bp.TrainingDiverged):
        bp.train(double, x, y, optimizer=explode_at(3.0), epochs=50)
    history = bp.train(double, x, y, optimizer=bp.SGD(0.01), epochs=50)
    assert history.loss[-1] < untrained

"""Per-sample gradients: the cheap way against the gradients themselves."""

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS


def network(output="sigmoid", dtype="float64"):
    return bp.MLP([4, 5, 3], ["gelu", output], device="cpu", dtype=dtype, seed=1)


def data(n=7):
    rng = np.random.default_rng(2)
    y = rng.random((n, 3))
    return rng.normal(size=(n, 4)), y / y.sum(axis=1, keepdims=True)


def own_gradients(net, x, y, loss):
    """Every sample's gradient, by a backward pass for each."""
    return [net.backward(net.forward(x[i : i + 1]), y[i : i + 1], loss) for i in range(len(x))]


@pytest.mark.parametrize("output", ACTIVATIONS)
@pytest.mark.parametrize("loss", ["mse", "sse"])
def test_norms_are_those_of_the_materialised_gradients(output, loss):
    net, (x, y) = network(output), data()
    grads = own_gradients(net, x, y, loss)
    norms = bp.per_sample_gradient_norms(net, x, y, loss)
    np.testing.assert_allclose(norms, [np.linalg.norm(g.flat) for g in grads], rtol=1e-13)

    by_layer = bp.per_sample_gradient_norms(net, x, y, loss, by_layer=True)
    for l in range(2):
        expected = [
            np.hypot(np.linalg.norm(g.weights[l]), np.linalg.norm(g.biases[l])) for g in grads
        ]
        np.testing.assert_allclose(by_layer[:, l], expected, rtol=1e-13)


@pytest.mark.parametrize(("output", "loss"), [("sigmoid", "bce"), ("softmax", "cce")])
def test_norms_of_cross_entropies(output, loss):
    net, (x, y) = network(output), data()
    expected = [np.linalg.norm(g.flat) for g in own_gradients(net, x, y, loss)]
    np.testing.assert_allclose(bp.per_sample_gradient_norms(net, x, y, loss), expected, rtol=1e-13)


def test_saliency_is_each_samples_own_input_gradient():
    net, (x, y) = network(), data()
    expected = [g.activations[0][0] for g in own_gradients(net, x, y, "mse")]
    np.testing.assert_allclose(bp.saliency(net, x, y), expected, rtol=1e-13)


@pytest.mark.parametrize("piece", [20, 4])  # 4 rows of 5 nodes, less than one
def test_data_larger_than_a_piece_give_the_same(piece, monkeypatch):
    net, (x, y) = network(), data(11)
    whole = bp.per_sample_gradient_norms(net, x, y), bp.saliency(net, x, y)
    monkeypatch.setattr("backprop_gpu.passes.PIECE", piece)
    pieces = bp.per_sample_gradient_norms(net, x, y), bp.saliency(net, x, y)
    for one, other in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


def test_a_wrong_label_is_the_first_outlier():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = (x[:, :1] > 0).astype(float)
    net = bp.MLP([2, 8, 1], ["tanh", "sigmoid"], device="cpu", seed=0)
    bp.train(net, x, y, loss="bce", optimizer=bp.Adam(0.02), epochs=200)
    y[17] = 1 - y[17]
    found = bp.outliers(net, x, y, "bce", count=3)
    assert found.rows[0] == 17
    assert len(found.rows) == 3
    assert (np.diff(found.norms) <= 0).all()
    assert len(bp.outliers(net, x, y, "bce").rows) == 10


@pytest.mark.parametrize("limit", [1e-6, 0.05, 1e6])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_clipping_each_sample_is_clipping_the_materialised_gradients(limit, batch_size):
    net, (x, y) = network("softmax"), data(6)
    twin = net.copy()
    options = {"loss": "cce", "epochs": 1, "batch_size": batch_size, "shuffle": False}
    bp.train(net, x, y, optimizer=bp.SGD(0.5), clip_sample_norm=limit, **options)
    for start in range(0, 6, batch_size or 6):
        rows = slice(start, start + (batch_size or 6))
        gradients = [g.flat for g in own_gradients(twin, x[rows], y[rows], "cce")]
        clipped = [g * min(1, limit / np.linalg.norm(g)) for g in gradients]
        twin.parameters[...] -= 0.5 * np.mean(clipped, axis=0)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-12)


def test_a_sample_without_a_gradient_is_left_alone():
    net = bp.MLP([1, 1], ["relu"], device="cpu")
    net.set_parameters([[[-1.0]]], [[0.0]])
    history = bp.train(net, [[1.0], [2.0]], [[1.0], [1.0]], clip_sample_norm=0.1, epochs=2)
    assert net.weights[0] == -1
    assert history.loss == [1, 1]


def test_float32_stays_float32():
    net, (x, y) = network(dtype="float32"), data()
    assert bp.per_sample_gradient_norms(net, x, y).dtype == np.float32
    assert bp.saliency(net, x, y).dtype == np.float32


@pytest.mark.parametrize("limit", [0, -1, np.nan, "1"])
def test_limits_that_make_no_sense_are_refused(limit):
    net, (x, y) = network(), data()
    with pytest.raises(ValueError, match="clip_sample_norm"):
        bp.train(net, x, y, clip_sample_norm=limit)


def test_large_samples_are_clipped_and_do_not_overflow():
    net = bp.MLP([1, 1], ["identity"], device="cpu")
    net.set_parameters([[[1.0]]], [[0.0]])
    x, y = [[1e12]], [[0.0]]
    assert np.isfinite(bp.per_sample_gradient_norms(net, x, y)).all()
    bp.train(net, x, y, optimizer=bp.SGD(1.0), clip_sample_norm=1.0)
    np.testing.assert_allclose(net.weights[0], 0, atol=1e-6)

"""The textbook network: every published number, and its training in the book's own notation."""

import numpy as np
import pytest

import backprop_gpu as bp

X = [0.52, 0.93, 0.15, 0.72, 0.61]
Y = [0.21, 0.83, 0.87, 0.75]
BEFORE = 0.1059625955371147, [0.83237553, 0.89655717, 0.87337397, 0.92904704]
AFTER = 2.81284797e-07, [0.21021077, 0.83087873, 0.86950099, 0.75024401]


@pytest.fixture
def textbook(backend):
    return bp.textbook(device=backend)


def columns_by_hand(updates):
    """The book's loop, samples in columns: the weights that it ends with, y_hat and the loss."""
    random = np.random.RandomState(42)
    x = random.randint(1, 100, (5, 1)) / 100
    y = random.randint(1, 100, (4, 1)) / 100
    W1, W2, W3 = (random.random_sample(shape) for shape in ((3, 5), (5, 3), (4, 5)))
    b1, b2, b3 = (np.zeros((nodes, 1)) for nodes in (3, 5, 4))
    for update in range(updates + 1):
        z1 = W1 @ x + b1
        a1 = np.where(z1 > 0, z1, 0.1 * z1)
        a2 = 1 / (1 + np.exp(-(W2 @ a1 + b2)))
        y_hat = 1 / (1 + np.exp(-(W3 @ a2 + b3)))
        if update == updates:
            return (W1, W2, W3), (b1, b2, b3), y_hat, np.mean((y - y_hat) ** 2)
        d3 = (2 / 4) * (y_hat - y) * y_hat * (1 - y_hat)
        d2 = (W3.T @ d3) * a2 * (1 - a2)
        d1 = (W2.T @ d2) * np.where(z1 > 0, 1, 0.1)
        for W, b, d, a in ((W1, b1, d1, x), (W2, b2, d2, a1), (W3, b3, d3, a2)):
            W -= 0.01 * (d @ a.T)
            b -= 0.01 * d


def test_network(textbook, backend):
    net, x, y = textbook
    assert net.layer_sizes == (5, 3, 5, 4)
    assert [str(g) for g in net.activations] == ["leaky_relu(0.1)", "sigmoid", "sigmoid"]
    assert net.dtype == "float64"
    assert net.device == backend.device
    assert x.tolist() == [X]
    assert y.tolist() == [Y]
    weights, biases, _, _ = columns_by_hand(0)
    for W, b, book_W, book_b in zip(net.weights, net.biases, weights, biases, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(W), book_W)
        np.testing.assert_array_equal(backend.to_numpy(b), book_b[:, 0])


def test_before_training(textbook):
    net, x, y = textbook
    loss, y_hat = BEFORE
    assert net.loss(x, y) == pytest.approx(loss, rel=1e-14)
    np.testing.assert_allclose(net(x), [y_hat], rtol=0, atol=5e-9)


# A GPU's kernels take too long for this on the CPU; test_kernels.py follows them for some steps.
@pytest.mark.parametrize(
    "backend", ["numpy", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)
@pytest.mark.parametrize("copies", [1, 4])
def test_after_10_000_updates(textbook, backend, copies):
    """The average over copies of one sample is that sample's; 4 is as wide as the output."""
    net, x, y = textbook
    data = np.repeat(x, copies, axis=0), np.repeat(y, copies, axis=0)
    history = bp.train(net, *data, optimizer=bp.SGD(learning_rate=0.01), epochs=10_000)
    loss, y_hat = AFTER
    assert net.loss(*data) == pytest.approx(loss, rel=1e-8)
    np.testing.assert_allclose(net(x), [y_hat], rtol=0, atol=5e-9)
    assert len(history.loss) == 10_000
    assert history.loss[0] == pytest.approx(BEFORE[0], rel=1e-14)

    weights, biases, book_y_hat, book_loss = columns_by_hand(10_000)
    assert net.loss(*data) == pytest.approx(book_loss, rel=1e-9)
    np.testing.assert_allclose(net(x), book_y_hat.T, rtol=1e-12)
    for W, b, book_W, book_b in zip(net.weights, net.biases, weights, biases, strict=True):
        np.testing.assert_allclose(backend.to_numpy(W), book_W, rtol=1e-10)
        np.testing.assert_allclose(backend.to_numpy(b), book_b[:, 0], rtol=1e-10)


def test_the_leak_is_never_seen_here(textbook):
    net, x, _ = textbook
    assert (net.backend.to_numpy(net.forward(x).z[0]) > 0).all()


def test_two_books_two_conventions(textbook):
    net, x, y = textbook
    assert net.loss(x, y, "sse") == pytest.approx(4 * net.loss(x, y, "mse"), rel=1e-15)


def test_numpys_global_generator_is_left_alone():
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    bp.textbook(device="cpu")
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002

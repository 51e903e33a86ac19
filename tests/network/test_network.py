"""The network: the textbook's numbers, where the texts slip, and how one is built."""

import numpy as np
import pytest
from small_network import data, make, on_cpu, relative_to_largest

import backprop_gpu as bp

# ---- the textbook --------------------------------------------------------------------------------


def test_the_textbook_network_before_training(backend):
    net, x, y = bp.textbook(device=backend)
    np.testing.assert_array_equal(x, [[0.52, 0.93, 0.15, 0.72, 0.61]])
    np.testing.assert_array_equal(y, [[0.21, 0.83, 0.87, 0.75]])
    np.testing.assert_allclose(
        net(x), [[0.83237553, 0.89655717, 0.87337397, 0.92904704]], atol=5e-9
    )
    grads = net.backward(net.forward(x), y)
    assert grads.loss == pytest.approx(0.1059625955371147, rel=1e-14)
    assert net.loss(x, y) == grads.loss


def test_the_textbook_network_after_10_000_updates():
    net, x, y = bp.textbook(device="cpu")
    for _ in range(10_000):
        grads = net.backward(net.forward(x), y, input_gradient=False)
        net.parameters[...] -= 0.01 * grads.flat
    assert net.loss(x, y) == pytest.approx(2.81284797e-07, rel=5e-9)
    np.testing.assert_allclose(
        net(x), [[0.21021077, 0.83087873, 0.86950099, 0.75024401]], atol=5e-9
    )


# ---- where the texts slip ------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 31])  # 3, 4 and 5 are as many as nodes in a layer
def test_a_batch_has_the_average_of_its_samples_gradients(n, net, dtype):
    x, y = data(n)
    grads = net.backward(net.forward(x), y, "sse")
    alone = [net.backward(net.forward(x[i : i + 1]), y[i : i + 1], "sse") for i in range(n)]

    def of_all(get):
        return np.array([net.backend.to_numpy(get(one)) for one in alone], float)

    assert grads.loss == pytest.approx(
        np.mean([one.loss for one in alone]), rel=32 * float(np.finfo(dtype).eps)
    )
    relative_to_largest(net.backend.to_numpy(grads.flat), of_all(lambda g: g.flat).mean(0), dtype)
    for l in range(4):  # of every sample, dC/da is kept: C_i has 1/n in C
        own = of_all(lambda g, l=l: g.activations[l])[:, 0] / n
        relative_to_largest(net.backend.to_numpy(grads.activations[l]), own, dtype)
        average = net.backend.to_numpy(grads.activations[l]).sum(0)
        relative_to_largest(average, own.sum(0), dtype, eps=64)
    for l in range(3):
        own = of_all(lambda g, l=l: g.deltas[l])[:, 0] / n
        relative_to_largest(net.backend.to_numpy(grads.deltas[l]), own, dtype)


def test_repeating_every_sample_changes_no_gradient(net, dtype):
    x, y = data(3)
    once = net.backward(net.forward(x), y)
    twice = net.backward(net.forward(np.repeat(x, 2, 0)), np.repeat(y, 2, 0))
    assert twice.loss == pytest.approx(once.loss, rel=32 * float(np.finfo(dtype).eps))
    relative_to_largest(*on_cpu(net, [twice.flat, once.flat]), dtype)


def test_an_update_goes_against_the_gradient(net):
    x, y = data(5)
    before = net.backward(net.forward(x), y)
    net.parameters[...] -= 0.01 * before.flat
    assert net.loss(x, y) < before.loss


def test_the_bias_gradient_is_the_sum_of_delta_and_the_weight_gradient_its_product_with_a(
    net, dtype
):
    x, y = data(4)
    trace = net.forward(x)
    grads = net.backward(trace, y)
    for l in range(3):
        delta, a, dC_dW, dC_db = on_cpu(
            net, [grads.deltas[l], trace.a[l], grads.weights[l], grads.biases[l]]
        )
        relative_to_largest(dC_db, delta.sum(0), dtype)
        relative_to_largest(dC_dW, delta.T @ a, dtype)


def test_weights_are_indexed_by_where_they_go_then_where_they_come_from(backend):
    net = bp.MLP([2, 3], ["identity"], device=backend, dtype="float64")
    W = np.zeros((3, 2))
    W[2, 0] = 5  # from input 0 to output 2
    net.set_parameters([W], [np.zeros(3)])
    np.testing.assert_array_equal(net(np.array([[1.0, 10.0]])), [[0, 0, 5]])
    grads = net.backward(net.forward([[1, 10]]), [[0, 0, 4]], "sse")
    np.testing.assert_array_equal(net.backend.to_numpy(grads.weights[0]), [[0, 0], [0, 0], [2, 20]])


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 4), (1, 5), (1, 4, 1), ()])
def test_targets_of_another_shape_are_refused(shape, net):
    x, _ = data(1)
    with pytest.raises(bp.ShapeError, match="y"):
        net.backward(net.forward(x), np.zeros(shape))


@pytest.mark.parametrize(("n", "shape"), [(4, (4,)), (1, (1,)), (4, (1, 4)), (4, (1, 1))])
def test_nothing_is_broadcast_to_the_one_output(n, shape, backend):
    net = bp.MLP([3, 1], device=backend)
    with pytest.raises(bp.ShapeError, match="y"):
        net.backward(net.forward(np.zeros((n, 3))), np.zeros(shape))


@pytest.mark.parametrize("shape", [(5,), (5, 1), (1, 4), (0, 5), ()])
def test_inputs_of_another_shape_are_refused(shape, net):
    with pytest.raises(bp.ShapeError, match="x"):
        net.forward(np.zeros(shape))


# ---- building ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[], [3], [3, 0], [3, -1], [3, 2.0], [3, True], "34", 3, None])
def test_layer_sizes_are_at_least_two_positive_whole_numbers(sizes):
    with pytest.raises(bp.ShapeError, match="layer_sizes"):
        bp.MLP(sizes, device="cpu")


@pytest.mark.parametrize("sizes", [(3, 2), np.array([3, 2]), [np.int64(3), 2], range(3, 1, -1)])
def test_layer_sizes_may_come_in_any_sequence(sizes):
    assert bp.MLP(sizes, device="cpu").layer_sizes == (3, 2)


@pytest.mark.parametrize("activations", ["tanh", ["tanh"], ["tanh"] * 3, [], bp.LeakyReLU()])
def test_every_layer_but_the_input_has_an_activation(activations):
    with pytest.raises(bp.ShapeError, match="activations"):
        bp.MLP([3, 4, 2], activations, device="cpu")


def test_by_default_hidden_layers_leak_and_the_last_is_linear():
    assert list(map(str, bp.MLP([3, 4, 4, 2], device="cpu").activations)) == [
        "leaky_relu(0.01)",
        "leaky_relu(0.01)",
        "identity",
    ]


@pytest.mark.parametrize("wanted", ["float16", "int32", "double precision", None, 3])
def test_other_dtypes_are_refused(wanted):
    with pytest.raises(bp.DtypeError, match="float32"):
        bp.MLP([3, 2], device="cpu", dtype=wanted)


@pytest.mark.parametrize("wanted", ["float64", np.float64, np.dtype("float64"), float], ids=repr)
def test_a_dtype_may_be_named_as_numpy_does(wanted):
    assert bp.MLP([3, 2], device="cpu", dtype=wanted).dtype == np.dtype("float64")


@pytest.mark.parametrize("seed", [-1, 1.0, None, "1", True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(bp.DomainError, match="seed"):
        bp.MLP([3, 2], device="cpu", seed=seed)


def test_a_network_says_what_it_is():
    assert repr(make()) == "MLP(5-3-5-4; leaky_relu(0.1), tanh, sigmoid; float64 on cpu)"


# ---- one_hot -------------------------------------------------------------------------------------


def test_one_hot():
    np.testing.assert_array_equal(bp.one_hot([2, 0], 4), [[0, 0, 1, 0], [1, 0, 0, 0]])
    assert bp.one_hot([0], 1_000_000).nbytes == 4_000_000  # no matrix of classes by classes
    assert bp.one_hot(np.array([1, 3], np.uint8)).shape == (2, 4)
    np.testing.assert_array_equal(bp.one_hot([1.0, 0.0]), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(bp.one_hot([True, False]), [[0, 1], [1, 0]])
    with pytest.raises(bp.ShapeError, match=r"\(2, 1\); expected .*write numpy.ravel\(labels\)"):
        bp.one_hot([[1], [0]])


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ([], bp.ShapeError),
        ([[1]], bp.ShapeError),
        ([0.5], bp.DtypeError),
        ([np.nan, 1], bp.DtypeError),
        ([np.inf, 1], bp.DtypeError),
        (["a"], bp.DtypeError),
        ([-1, 0], bp.DomainError),
        ([4], bp.DomainError),
    ],
)
def test_one_hot_wants_whole_numbers_of_known_classes(labels, error):
    with pytest.raises(error, match="labels"):
        bp.one_hot(labels, 4)


@pytest.mark.parametrize("labels", [["a", "b"], [-1, 1], [1, 2]])
def test_one_hot_says_how_to_number_labels(labels):
    with pytest.raises((bp.DtypeError, bp.DomainError), match="return_inverse=True") as error:
        bp.one_hot(labels, 2)
    assert "numpy.unique(labels, return_inverse=True)[1] numbers labels" in str(error.value)
    bp.one_hot(np.unique(labels, return_inverse=True)[1], 2)

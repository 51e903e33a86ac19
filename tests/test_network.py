"""The network: the textbook's numbers, where the texts slip, and what callers may rely on."""

import copy
import pickle

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.losses import LOSSES

EVERY = [*ACTIVATIONS, bp.LeakyReLU(-0.5), bp.LeakyReLU(2.5)]


@pytest.fixture
def net(backend, dtype):
    """5-3-5-4 nodes, with z of either sign in every layer."""
    return make(backend, dtype)


def make(backend="cpu", dtype="float64", seed=7):
    activations = [bp.LeakyReLU(0.1), "tanh", "sigmoid"]
    net = bp.MLP([5, 3, 5, 4], activations, device=backend, dtype=dtype, seed=seed)
    random = np.random.default_rng(seed)
    net.set_parameters(on_cpu(net, net.weights), [random.normal(size=b.shape) for b in net.biases])
    return net


def data(n, seed=1):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, 5)), random.uniform(size=(n, 4))


def on_cpu(net, arrays):
    return [net.backend.to_numpy(array) for array in arrays]


def every_array(net, trace, grads):
    parameters = [*grads.weights, *grads.biases, grads.flat, grads.C]
    return on_cpu(net, [*trace.a, *trace.z, *grads.deltas, *grads.activations, *parameters])


def relative_to_largest(actual, expected, dtype, eps=16):
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=eps * np.finfo(dtype).eps * np.abs(expected).max()
    )


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


# ---- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("g", EVERY, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_everything_has_the_dtype_of_the_network(g, loss, backend, dtype):
    last = "softmax" if "entropy" in loss else g
    net = bp.MLP([3, 4, 2], [g, last], device=backend, dtype=dtype)
    trace = net.forward(np.arange(6.0).reshape(2, 3))
    grads = net.backward(trace, np.eye(2, dtype=np.float64), loss)
    arrays = [*trace.a, *trace.z, *grads.activations, *grads.deltas, *grads.weights, *grads.biases]
    assert {array.dtype for array in [*arrays, grads.flat, grads.C, net.parameters]} == {dtype}
    assert isinstance(grads.loss, float)
    assert net([[1, 2, 3]]).dtype == dtype


@pytest.mark.parametrize("where", ["W", "b"])
@pytest.mark.parametrize("g", EVERY, ids=str)
def test_nan_is_passed_on(g, where, backend, dtype):
    net = bp.MLP([3, 4, 2], [g, "tanh"], device=backend, dtype=dtype)
    (net.weights if where == "W" else net.biases)[0][...] = np.nan
    trace = net.forward(np.ones((2, 3)))
    grads = net.backward(trace, np.ones((2, 2)))
    assert np.isnan(grads.loss)
    assert all(np.isnan(array).all() for array in on_cpu(net, [trace.output, grads.flat]))


@pytest.mark.parametrize("values", [np.nan, np.inf, -np.inf, 1e39])
def test_data_that_are_not_finite_are_refused(values, backend):
    net = bp.MLP([2, 2], device=backend, dtype="float32")
    bad = np.array([[0, 0], [values, 0]])
    with pytest.raises(bp.NonFiniteError, match=r"x .*\(1, 0\)"):
        net.forward(bad)
    with pytest.raises(bp.NonFiniteError, match=r"y .*\(1, 0\)"):
        net.backward(net.forward(np.zeros((2, 2))), bad)


@pytest.mark.parametrize("g", EVERY, ids=str)
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_saturated_layers_pass_on_finite_gradients(g, size, backend, dtype):
    net = bp.MLP([2, 3, 2], [g, "sigmoid"], device=backend, dtype=dtype)
    random = np.random.default_rng(3)
    net.weights[0][...] = net.backend.asarray(size * random.choice([-1, 1], (3, 2)), dtype)
    net.weights[1][...] *= 1 / size  # of which z is of moderate size again
    grads = net.backward(net.forward([[1, 2], [2, 1], [-1, 1]]), [[1, 0], [0, 1], [1, 1]], "bce")
    assert np.isfinite(grads.loss)
    assert np.isfinite(net.backend.to_numpy(grads.flat)).all()


def test_kinks_count_as_below(backend, dtype):
    net = bp.MLP([2, 3, 1], [bp.LeakyReLU(0.25), "identity"], device=backend, dtype=dtype)
    net.set_parameters([np.ones((3, 2)), np.ones((1, 3))], [np.zeros(3), np.zeros(1)])
    grads = net.backward(net.forward([[1, -1]]), [[-0.5]], "sse")  # z = 0 in the hidden layer
    np.testing.assert_array_equal(net.backend.to_numpy(grads.deltas[0]), [[0.25] * 3])


# A hidden layer of more than a tile's entries: in one row, in a few, and in a column.
@pytest.mark.parametrize(
    ("n", "nodes", "g"),
    [(1, 70_000, "tanh"), (1, 70_000, "softmax"), (3, 70_000, "softmax"), (70_000, 1, "tanh")],
)
def test_layers_of_any_size_are_computed(n, nodes, g, backend):
    net = bp.MLP([2, nodes, 1], [g, "identity"], device=backend, dtype="float64", seed=1)
    random = np.random.default_rng(4)
    x, y = random.normal(size=(n, 2)), random.normal(size=(n, 1))
    trace = net.forward(x)
    grads = net.backward(trace, y)
    W, V = on_cpu(net, net.weights)
    z = x @ W.T
    a = np.tanh(z) if g == "tanh" else np.exp(z) / np.exp(z).sum(1, keepdims=True)
    dC_da = (2 / n) * (a @ V.T - y) @ V
    slope = dC_da * (1 - a**2) if g == "tanh" else a * (dC_da - (a * dC_da).sum(1, keepdims=True))
    relative_to_largest(net.backend.to_numpy(trace.a[1]), a, "float64", eps=64)
    relative_to_largest(net.backend.to_numpy(grads.deltas[0]), slope, "float64", eps=4096)
    relative_to_largest(net.backend.to_numpy(grads.biases[0]), slope.sum(0), "float64", eps=4096)


# ---- arrays in, arrays out -----------------------------------------------------------------------


def test_a_0_is_x_itself_where_x_fits(net, dtype):
    x = net.backend.asarray(data(3)[0], dtype)
    assert net.forward(x).a[0] is x


def test_data_are_never_written(net, dtype):
    x, y = (array.astype(dtype) for array in data(5))
    x.flags.writeable = y.flags.writeable = False
    kept = x.copy(), y.copy()
    trace = net.forward(x)
    net.backward(trace, y)
    net(x)
    net.loss(x, y)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])


def test_backward_leaves_trace_and_parameters_alone(net):
    x, y = data(5)
    trace = net.forward(x)
    before = [array.copy() for array in (*trace.a, *trace.z, net.parameters)]
    net.backward(trace, y)
    for old, new in zip(before, (*trace.a, *trace.z, net.parameters), strict=True):
        np.testing.assert_array_equal(*on_cpu(net, [old, new]))


@pytest.mark.parametrize(
    "unusual",
    [
        lambda x: x[::-1].copy()[::-1],
        np.asfortranarray,
        lambda x: np.repeat(x, 2, 1)[:, ::2],
        lambda x: x.astype(">f8"),
        lambda x: x.tolist(),
        lambda x: memoryview(x),
    ],
    ids=["reversed", "fortran", "strided", "big-endian", "list", "memoryview"],
)
def test_data_may_lie_in_memory_as_they_like(unusual, net):
    x, y = data(5)
    expected = every_array(net, net.forward(x), net.backward(net.forward(x), y))
    trace = net.forward(unusual(x))
    for a, b in zip(
        expected, every_array(net, trace, net.backward(trace, unusual(y))), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["bool", "int8", "uint64", "float16", "float32", "longdouble"])
def test_data_may_be_any_real_numbers(kind, net):
    x, y = (np.random.default_rng(5).integers(0, 2, shape) for shape in ((3, 5), (3, 4)))
    expected = net.backward(net.forward(x.astype(float)), y.astype(float))
    given = net.backward(net.forward(x.astype(kind)), y.astype(kind))
    np.testing.assert_array_equal(*on_cpu(net, [expected.flat, given.flat]))


@pytest.mark.parametrize("x", [[["1"] * 5], [[1j] * 5], [[None] * 5], [[1] * 5, [1]]])
def test_what_is_no_real_number_is_refused(x):
    with pytest.raises(bp.DtypeError, match="x"):
        make().forward(x)


def test_a_prediction_is_a_numpy_array_for_a_numpy_array(net):
    x, _ = data(3)
    prediction = net(x)
    assert type(prediction) is np.ndarray
    np.testing.assert_array_equal(prediction, net.backend.to_numpy(net.forward(x).output))


def test_traces_and_gradients_have_the_shapes_of_the_equations(net):
    trace = net.forward(data(2)[0])
    grads = net.backward(trace, data(2)[1])
    assert [a.shape for a in trace.a] == [(2, 5), (2, 3), (2, 5), (2, 4)]
    assert [z.shape for z in trace.z] == [(2, 3), (2, 5), (2, 4)]
    assert trace.output is trace.a[-1]
    assert [g.shape for g in grads.activations] == [a.shape for a in trace.a]
    assert [g.shape for g in grads.deltas] == [z.shape for z in trace.z]
    assert [g.shape for g in grads.weights] == [W.shape for W in net.weights]
    assert [g.shape for g in grads.biases] == [b.shape for b in net.biases]


def test_flat_gradients_lie_as_the_flat_parameters_do(net):
    x, y = data(2)
    grads = net.backward(net.forward(x), y)
    for flat, weights, biases in (
        (net.parameters, net.weights, net.biases),
        (grads.flat, grads.weights, grads.biases),
    ):
        pieces = [array.ravel() for array in on_cpu(net, [*weights, *biases])]
        np.testing.assert_array_equal(net.backend.to_numpy(flat), np.concatenate(pieces))
    assert net.weight_count == 5 * 3 + 3 * 5 + 5 * 4


def test_without_the_input_gradient_all_else_is_the_same(net):
    x, y = data(3)
    trace = net.forward(x)
    full, less = (net.backward(trace, y, input_gradient=wanted) for wanted in (True, False))
    assert less.activations[0] is None
    for one, other in (
        (full.flat, less.flat),
        *zip(full.deltas, less.deltas, strict=True),
        *zip(full.activations[1:], less.activations[1:], strict=True),
    ):
        np.testing.assert_array_equal(*on_cpu(net, [one, other]))


def test_the_loss_is_that_of_forward_and_backward(net):
    x, y = data(31)
    for loss in ("mse", "sse", "bce"):
        assert net.loss(x, y, loss) == net.backward(net.forward(x), y, loss).loss


@pytest.mark.parametrize("rows", [1, 2, 7, 31, 40])
def test_predictions_and_losses_may_be_made_in_pieces(rows, net, dtype, monkeypatch):
    x, y = data(31)
    trace = net.forward(x)
    whole = [net.backward(trace, y, loss).loss for loss in ("mse", "bce")]
    monkeypatch.setattr("backprop_gpu.mlp.PIECE", rows * max(net.layer_sizes))
    relative_to_largest(net(x), net.backend.to_numpy(trace.output), dtype)
    pieces = [net.loss(x, y, loss) for loss in ("mse", "bce")]
    np.testing.assert_allclose(pieces, whole, rtol=16 * float(np.finfo(dtype).eps))


# ---- parameters ----------------------------------------------------------------------------------


def test_weights_and_biases_are_views(net, dtype):
    x, _ = data(2)
    before = net(x)
    net.weights[1][...] = net.backend.asarray(np.eye(5, 3), dtype)
    net.biases[2][...] = 3
    assert not np.array_equal(net(x), before)
    flat = net.backend.to_numpy(net.parameters)
    np.testing.assert_array_equal(flat[15:30], np.eye(5, 3).ravel())
    np.testing.assert_array_equal(flat[-4:], 3)


def test_set_parameters_copies(net):
    weights = [np.ones(W.shape) for W in net.weights]
    net.set_parameters(weights, [np.ones(b.shape) for b in net.biases])
    weights[0][...] = 2
    np.testing.assert_array_equal(net.backend.to_numpy(net.parameters), 1)


def test_set_parameters_takes_the_networks_own_arrays(net):
    before = net.backend.to_numpy(net.parameters).copy()
    net.set_parameters(net.weights, net.biases)
    np.testing.assert_array_equal(net.backend.to_numpy(net.parameters), before)


def test_set_parameters_may_swap_the_networks_own_arrays(backend, dtype):
    net = bp.MLP([4, 4, 4], device=backend, dtype=dtype)
    first, second = (array.copy() for array in on_cpu(net, net.weights))
    net.set_parameters(net.weights[::-1], net.biases)
    np.testing.assert_array_equal(on_cpu(net, net.weights), [second, first])


@pytest.mark.parametrize(
    ("place", "wrong", "error"),
    [
        (2, np.zeros((5, 4)), bp.ShapeError),
        (2, np.zeros(20), bp.ShapeError),
        (2, np.full((4, 5), np.nan), bp.NonFiniteError),
        (2, np.full((4, 5), "a"), bp.DtypeError),
        (2, np.full((4, 5), 1j), bp.DtypeError),
        (5, np.zeros((4, 1)), bp.ShapeError),
        (5, np.zeros(3), bp.ShapeError),
        (5, [np.inf] * 4, bp.NonFiniteError),
    ],
)
def test_set_parameters_sets_all_or_nothing(place, wrong, error, net):
    before = net.backend.to_numpy(net.parameters).copy()
    arrays = [np.zeros(array.shape) for array in (*net.weights, *net.biases)]
    arrays[place] = wrong
    name = r"weights\[2\]" if place == 2 else r"biases\[2\]"
    with pytest.raises(error, match=name):
        net.set_parameters(arrays[:3], arrays[3:])
    with pytest.raises(bp.ShapeError, match="layers"):
        net.set_parameters(arrays[:2], arrays[3:])
    np.testing.assert_array_equal(net.backend.to_numpy(net.parameters), before)


def test_a_seed_decides_the_parameters(backend, dtype):
    one, same, other = (make(backend, dtype, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(*on_cpu(one, [one.parameters, same.parameters]))
    assert not np.array_equal(*on_cpu(one, [one.parameters, other.parameters]))


def test_two_runs_are_bit_identical(net):
    x, y = data(257)
    runs = []
    for _ in range(2):
        trace = net.forward(x)
        runs.append(every_array(net, trace, net.backward(trace, y)))
    for one, other in zip(*runs, strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_copy_is_independent(net):
    twin = net.copy()
    assert (twin.dtype, twin.device, twin.activations) == (net.dtype, net.device, net.activations)
    np.testing.assert_array_equal(*on_cpu(net, [twin.parameters, net.parameters]))
    twin.parameters[...] = 0
    assert net.backend.to_numpy(net.parameters).any()


def test_a_copy_in_another_dtype_has_the_same_numbers(backend):
    narrow = make(backend, "float32")
    wide = narrow.copy(dtype="float64")
    np.testing.assert_array_equal(*on_cpu(wide, [wide.parameters, narrow.parameters]))
    again = wide.copy(dtype="float32", device="cpu")
    np.testing.assert_array_equal(again.parameters, narrow.backend.to_numpy(narrow.parameters))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_networks_can_be_pickled(again, dtype):
    net = make(dtype=dtype)
    twin = again(net)
    assert repr(twin) == repr(net)
    np.testing.assert_array_equal(twin.parameters, net.parameters)
    twin.weights[0][...] = 0
    assert not twin.parameters[:15].any()
    assert net.parameters[:15].all()


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
    assert bp.one_hot(np.array([1, 3], np.uint8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("labels", "error"),
    [
        ([], bp.ShapeError),
        ([[1]], bp.ShapeError),
        ([1.0], bp.DtypeError),
        (["a"], bp.DtypeError),
        ([-1, 0], bp.DomainError),
        ([4], bp.DomainError),
    ],
)
def test_one_hot_wants_whole_numbers_of_known_classes(labels, error):
    with pytest.raises(error, match="labels"):
        bp.one_hot(labels, 4)

"""The network: arrays in, arrays out, and numbers at the edges."""

import numpy as np
import pytest
from small_network import data, every_array, make, on_cpu, relative_to_largest

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.losses import LOSSES

EVERY = [*ACTIVATIONS, bp.LeakyReLU(-0.5), bp.LeakyReLU(2.5)]


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
    if str(g) == "exp":
        pytest.skip("it does not saturate: e^10000 is infinite")
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


def test_a_trace_of_another_dtype_is_refused():
    net = bp.MLP([3, 2], device="cpu")
    trace = net.copy(dtype="float64").forward(np.ones((4, 3)))
    with pytest.raises(bp.DtypeError, match="the trace is in float64; this network computes in"):
        net.backward(trace, np.ones((4, 2)))


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


@pytest.mark.parametrize(("n", "samples"), [(1, "1 sample"), (1000, "1,000 samples")])
def test_traces_and_gradients_say_in_a_line_what_they_are(n, samples, net, dtype):
    x, y = data(n)
    trace = net.forward(x)
    outline = f"(5-3-5-4; {samples}; {dtype})"
    assert repr(trace) == f"Trace{outline}"
    for wanted in (True, False):
        assert repr(net.backward(trace, y, input_gradient=wanted)) == f"Gradients{outline}"


def test_traces_and_gradients_are_equal_to_themselves_alone(net):
    x, y = data(2)
    traces = [net.forward(x) for _ in range(2)]
    every_grads = [net.backward(trace, y) for trace in traces]
    for one, other in (traces, every_grads):
        assert one != other
        assert other in [one, other]
        assert len({one, other}) == 2


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
    monkeypatch.setattr("backprop_gpu.passes.PIECE", rows * max(net.layer_sizes))
    relative_to_largest(net(x), net.backend.to_numpy(trace.output), dtype)
    pieces = [net.loss(x, y, loss) for loss in ("mse", "bce")]
    np.testing.assert_allclose(pieces, whole, rtol=16 * float(np.finfo(dtype).eps))

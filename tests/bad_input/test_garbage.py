"""Garbage: errors of the library, and no others."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from refusals import N, X, Y, network

import backprop_gpu as bp


def outcome(call, *args, **options):
    """What a call returns, and the error that it raises; any other kind gets out."""
    try:
        return call(*args, **options), None
    except (ValueError, TypeError) as error:
        return None, error


many = settings(max_examples=100, deadline=None, derandomize=True)
numbers = st.one_of(
    st.integers(-3, 9), st.floats(), st.booleans(), st.complex_numbers(), st.integers()
)
texts = st.one_of(
    st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from(["tanh", "softmax", "mse", "cce", "cpu", "auto", "float64", "f4", "he_normal"]),
)
arrays = hnp.arrays(
    dtype=st.one_of(hnp.scalar_dtypes(), hnp.array_dtypes(), st.just(np.dtype(object))),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
things = st.one_of(
    st.none(), numbers, texts, arrays, st.sampled_from([object(), bp.MLP, len, Ellipsis, X, Y])
)
garbage = st.recursive(
    things,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=2), inner, max_size=2),
    ),
    max_leaves=6,
)


def numeric_matrix(values, columns):
    """What a right answer is computed from: None if `values` are not such a matrix."""
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf" or array.ndim != 2 or array.shape[1] != columns:
            return None
        with np.errstate(all="ignore"):
            array = array.astype("float32").astype("float64")
        return array if len(array) and np.isfinite(array).all() else None
    except (ValueError, TypeError, OverflowError):
        return None


def too_large(sizes):
    """Whether a network of these sizes is more than a test should build."""
    flat = sizes.ravel() if isinstance(sizes, np.ndarray) else sizes
    flat = flat if isinstance(flat, list | tuple | np.ndarray) else ()
    return any(isinstance(s, int | np.integer) and s > 99 for s in flat)


def matrices(columns):
    """Garbage, and matrices that are nearly right."""
    sides = st.one_of(st.just(columns), st.integers(0, 4))
    shapes = st.tuples(st.integers(0, 9), sides)
    kinds = st.one_of(hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.boolean_dtypes())
    return st.one_of(hnp.arrays(kinds, shapes), garbage)


@many
@given(
    st.one_of(st.lists(st.integers(1, 5), min_size=1, max_size=4), garbage),
    st.fixed_dictionaries(
        {},
        optional={
            "activations": st.one_of(st.none(), st.lists(texts, max_size=3), garbage),
            "dtype": st.one_of(st.sampled_from(["float32", "float64"]), garbage),
            "seed": st.one_of(st.integers(0, 2**70), garbage),
            "initializer": st.one_of(st.none(), st.just("he_uniform"), garbage),
            "device": st.one_of(st.just("cpu"), garbage),
        },
    ),
)
def test_garbage_makes_no_network(sizes, options):
    assume(not too_large(sizes))
    net, error = outcome(bp.MLP, sizes, **{"device": "cpu"} | options)
    if error is not None:
        assert str(error)
        return
    assert net.layer_sizes == tuple(sizes)
    assert len(net.activations) == len(sizes) - 1
    assert [W.shape for W in net.weights] == list(zip(sizes[1:], sizes[:-1], strict=True))
    assert net(np.zeros((2, sizes[0]))).shape == (2, sizes[-1])


@many
@given(matrices(3))
def test_garbage_goes_no_way_forward(x):
    net = network(["tanh", "identity"])
    right = numeric_matrix(x, 3)
    output, error = outcome(net, x)
    if error is not None:
        assert str(error)
        assert right is None
        return
    W1, W2 = (W.astype("float64") for W in net.weights)
    expected = np.tanh(right @ W1.T) @ W2.T
    np.testing.assert_allclose(output, expected, rtol=1e-3, atol=1e-4)


@many
@given(
    st.one_of(st.just(None), garbage),
    matrices(2),
    st.one_of(st.sampled_from(["mse", "sse", "bce", "cce"]), garbage),
)
def test_garbage_goes_no_way_back(trace, y, loss):
    net = network()
    before = net.parameters.tobytes()
    trace = net.forward(X) if trace is None else trace
    grads, error = outcome(net.backward, trace, y, loss)
    assert net.parameters.tobytes() == before
    if error is not None:
        assert str(error)
        return
    assert [dW.shape for dW in grads.weights] == [W.shape for W in net.weights]
    if loss in ("mse", "sse"):
        right = numeric_matrix(y, 2)
        squares = ((trace.output.astype("float64") - right) ** 2).sum() / N
        expected = np.float32(squares / (2 if loss == "mse" else 1))
        np.testing.assert_allclose(grads.loss, expected, rtol=1e-3)


OPTIONS = {
    "sample_weight": st.one_of(st.lists(st.floats(0), min_size=N, max_size=N), garbage),
    "loss": st.one_of(st.just("mse"), garbage),
    "optimizer": st.one_of(st.none(), st.just(bp.Adam()), garbage),
    "epochs": st.one_of(st.integers(0, 3), garbage),
    "batch_size": st.one_of(st.none(), st.integers(1, 9), garbage),
    "shuffle": st.booleans(),
    "seed": st.one_of(st.integers(0, 2**70), garbage),
    "validation": st.one_of(st.none(), st.just((X, Y)), garbage),
    "early_stopping": st.one_of(st.none(), st.just(bp.EarlyStopping(1)), garbage),
    "clip_norm": st.one_of(st.none(), st.just(1.0), garbage),
    "clip_value": st.one_of(st.none(), st.just(1.0), garbage),
    "clip_sample_norm": st.one_of(st.none(), st.just(1.0), garbage),
    "callbacks": st.one_of(st.just([]), garbage),
}


@many
@given(st.data())
def test_garbage_trains_nothing(choose):
    chosen = choose.draw(st.lists(st.sampled_from([*OPTIONS, "x", "y"]), max_size=3, unique=True))
    options = {name: choose.draw(OPTIONS[name], name) for name in chosen if name in OPTIONS}
    x = choose.draw(matrices(3), "x") if "x" in chosen else X
    y = choose.draw(matrices(2), "y") if "y" in chosen else Y
    epochs = options.get("epochs", 1)
    assume(not isinstance(epochs, int) or epochs < 10)
    net = network()
    before = net.parameters.tobytes()
    history, error = outcome(bp.train, net, x, y, **options)
    assert np.isfinite(net.parameters).all()
    if error is not None:
        assert str(error)
        assert net.parameters.tobytes() == before or isinstance(error, bp.TrainingDiverged)
        return
    assert len(history.loss) == epochs or history.stopped_by != "epochs"
    assert np.isfinite(history.loss).all()

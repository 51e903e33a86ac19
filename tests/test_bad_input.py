"""Bad input: what was given, what to do instead, and nothing changed. Garbage: no other errors."""

import pickle
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import backprop_gpu as bp
from backprop_gpu.backends import cupy_device

N = 7


def network(g=("tanh", "sigmoid"), dtype="float32"):
    return bp.MLP([3, 4, 2], list(g), device="cpu", dtype=dtype, seed=1)


@pytest.fixture
def net():
    """A network that has to be as it was when the test is over."""
    net = network()
    before = net.parameters.tobytes()
    yield net
    assert net.parameters.tobytes() == before


def data(n=N):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(n, 3)), rng.uniform(size=(n, 2))


X, Y = data()


@contextmanager
def refused(kind, *says):
    """The exception, and all that its message has to say."""
    with pytest.raises(kind) as caught:
        yield
    assert isinstance(caught.value, ValueError | TypeError)
    for text in says:
        assert text in str(caught.value)


def outcome(call, *args, **options):
    """What a call returns, and the error that it raises; any other kind gets out."""
    try:
        return call(*args, **options), None
    except (ValueError, TypeError) as error:
        return None, error


# ---- arrays --------------------------------------------------------------------------------------

# Who takes x, and who takes y: what messages call the array, and the call.
TAKES_X = {
    "call": ("x", lambda net, bad: net(bad)),
    "forward": ("x", lambda net, bad: net.forward(bad)),
    "loss": ("x", lambda net, bad: net.loss(bad, Y)),
    "train": ("x", lambda net, bad: bp.train(net, bad, Y)),
    "validation": ("x_validation", lambda net, bad: bp.train(net, X, Y, validation=(bad, Y))),
}
TAKES_Y = {
    "backward": ("y", lambda net, bad: net.backward(net.forward(X), bad)),
    "loss": ("y", lambda net, bad: net.loss(X, bad)),
    "train": ("y", lambda net, bad: bp.train(net, X, bad)),
    "validation": ("y_validation", lambda net, bad: bp.train(net, X, Y, validation=(X, bad))),
}
CALLS = [
    pytest.param(name, call, good, id=f"{array}-{where}")
    for array, good, table in (("x", X, TAKES_X), ("y", Y, TAKES_Y))
    for where, (name, call) in table.items()
]


def with_entry(array, value, index=(4, 1)):
    array = array.copy()
    array[index] = value
    return array


def sparse(array):
    return pytest.importorskip("scipy.sparse").csr_matrix(array)


class Raises:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("is on another device")


# How to make a good array a bad one, the exception, and what its message says.
BAD_ARRAYS = {
    "no dimension": (lambda a: a[0, 0], bp.ShapeError, ["shape ()", "expected (samples, {m})"]),
    "one row": (lambda a: a[0], bp.ShapeError, ["shape ({m},)", "(samples, {m})", "{a}[None, :]"]),
    "three dimensions": (lambda a: a[None], bp.ShapeError, ["(1, 7, {m})", "(samples, {m})"]),
    "a column too few": (lambda a: a[:, 1:], bp.ShapeError, ["(7, {m-1})", "(samples, {m})"]),
    "a column too many": (
        lambda a: np.hstack([a, a[:, :1]]),
        bp.ShapeError,
        ["(7, {m+1})", "(samples, {m})"],
    ),
    "samples in columns": (lambda a: a.T, bp.ShapeError, ["({m}, 7)", "(samples, {m})", "{a}.T"]),
    "no samples": (lambda a: a[:0], bp.ShapeError, ["(0, {m})", "no samples", "at least one"]),
    "empty list": (lambda a: [], bp.ShapeError, ["(0,)", "(samples, {m})"]),
    "NaN": (lambda a: with_entry(a, np.nan), bp.NonFiniteError, ["nan", "(4, 1)", "1 value"]),
    "infinity": (lambda a: with_entry(a, np.inf), bp.NonFiniteError, ["inf", "(4, 1)"]),
    "both infinities": (
        lambda a: with_entry(with_entry(a, -np.inf), np.inf, (2, 0)),
        bp.NonFiniteError,
        ["inf", "(2, 0)", "2 value"],
    ),
    "beyond float32": (
        lambda a: with_entry(a, 1e39),
        bp.NonFiniteError,
        ["infinite in float32", "(4, 1)"],
    ),
    "beyond float32, long": (
        lambda a: with_entry(a.astype(np.longdouble), np.longdouble("1e39")),
        bp.NonFiniteError,
        ["infinite in float32", "(4, 1)"],
    ),
    "objects": (lambda a: a.astype(object), bp.DtypeError, ["object", "real numbers", "astype"]),
    "None": (lambda a: None, bp.DtypeError, ["None", "real numbers"]),
    "None inside": (lambda a: [[None] * a.shape[1]] * 7, bp.DtypeError, ["object", "list"]),
    "ragged": (lambda a: [[1, 2], [3]], bp.DtypeError, ["rectangular"]),
    "text": (lambda a: "1 2 3", bp.DtypeError, ["str", "real numbers"]),
    "text inside": (lambda a: a.astype(str), bp.DtypeError, ["<U", "astype('float32')"]),
    "bytes": (lambda a: b"123", bp.DtypeError, ["bytes", "real numbers"]),
    "complex": (lambda a: a * 1j, bp.DtypeError, ["complex128", "real numbers"]),
    "dates": (lambda a: a.astype("datetime64[s]"), bp.DtypeError, ["datetime64", "real numbers"]),
    "records": (lambda a: np.zeros(7, "f4,f4"), bp.DtypeError, ["f4", "real numbers"]),
    "dictionary": (lambda a: {"a": a}, bp.DtypeError, ["dict", "real numbers"]),
    "set": (lambda a: {1.0, 2.0}, bp.DtypeError, ["set", "real numbers"]),
    "generator": (lambda a: (row for row in a), bp.DtypeError, ["generator", "real numbers"]),
    "a function": (lambda a: np.mean, bp.DtypeError, ["real numbers"]),
    "another device": (lambda a: Raises(), bp.DtypeError, ["is on another device"]),
    "numbers without end": (lambda a: [[10**400] * a.shape[1]], bp.DtypeError, ["object"]),
    "masked": (lambda a: np.ma.masked_less(a, 0.5), bp.DtypeError, ["masked", "fill or drop"]),
    "masked rows": (
        lambda a: [np.ma.masked_less(row, 0.5) for row in a],
        bp.DtypeError,
        ["masked", "fill or drop"],
    ),
    "sparse": (sparse, bp.DtypeError, ["csr_matrix", "toarray()"]),
}


@pytest.mark.parametrize(("name", "call", "good"), CALLS)
@pytest.mark.parametrize("bad", BAD_ARRAYS)
def test_array(net, name, call, good, bad):
    make, kind, says = BAD_ARRAYS[bad]
    m = good.shape[1]
    for old, new in (("{m}", m), ("{m-1}", m - 1), ("{m+1}", m + 1), ("{a}", name)):
        says = [text.replace(old, str(new)) for text in says]
    with refused(kind, f"{name} ", *says):
        call(net, make(good))


def test_one_column_has_two_readings():
    net = bp.MLP([1, 1], device="cpu")
    with refused(bp.ShapeError, "x[None, :]", "x[:, None]"):
        net([1, 2, 3])


@pytest.mark.parametrize("n", [1, 6, 8])
def test_x_and_y_of_different_lengths(net, n):
    x, y = data(n)
    with refused(bp.ShapeError, "x has 7 rows", f"y has {n}", "one row per sample"):
        bp.train(net, X, y)
    with refused(bp.ShapeError, f"x has {n} rows", "y has 7"):
        net.loss(x, Y)
    with refused(bp.ShapeError, "x has 7 rows", f"y has {n}"):
        net.backward(net.forward(X), y)
    with refused(bp.ShapeError, "x_validation has 7 rows", f"y_validation has {n}"):
        bp.train(net, X, Y, validation=(X, y))


@pytest.mark.parametrize("given", [None, X, "trace", 5, network(["tanh", "tanh"])], ids=type)
def test_backward_without_a_trace(net, given):
    with refused((ValueError, TypeError), "trace", "forward"):
        net.backward(given, Y)


def test_backward_with_the_trace_of_another_network(net):
    for sizes in ([3, 5, 2], [3, 2], [2, 4, 2], [3, 4, 4, 2]):
        other = bp.MLP(sizes, device="cpu")
        with refused(bp.ShapeError, "trace"):
            net.backward(other.forward(np.ones((N, sizes[0]))), Y)


# ---- parameters ----------------------------------------------------------------------------------


def parameters(net):
    return [W.copy() for W in net.weights], [b.copy() for b in net.biases]


@pytest.mark.parametrize("which", ["weights", "biases"])
@pytest.mark.parametrize(
    ("bad", "kind", "says"),
    [
        (lambda a: a[:1], bp.ShapeError, ["1 {which} given", "2 layers"]),
        (lambda a: a * 2, bp.ShapeError, ["4 {which} given", "2 layers"]),
        (lambda a: [], bp.ShapeError, ["0 {which} given"]),
        (lambda a: None, (ValueError, TypeError), ["{which}", "None"]),
        (lambda a: 5, (ValueError, TypeError), ["{which}", "5"]),
        (lambda a: [a[0], a[1][:1]], bp.ShapeError, ["{which}[1]", "has shape (1", "expected (2"]),
        (lambda a: [a[0], a[1][None]], bp.ShapeError, ["{which}[1]", "(1, 2", "expected (2"]),
        (lambda a: [a[0], a[1] + np.nan], bp.NonFiniteError, ["{which}[1]", "nan", "index (0"]),
        (lambda a: [a[0], a[1] * 0 + 1e39], bp.NonFiniteError, ["{which}[1]", "float32"]),
        (lambda a: [a[0], a[1] * 1j], bp.DtypeError, ["{which}[1]", "complex"]),
        (lambda a: [a[0], None], bp.DtypeError, ["{which}[1]", "None"]),
        (lambda a: [a[0], "text"], bp.DtypeError, ["{which}[1]", "str"]),
    ],
)
def test_parameter(net, which, bad, kind, says):
    good = dict(zip(("weights", "biases"), parameters(net), strict=True))
    wider = [array.astype("float64") + 1 for array in good[which]]
    with refused(kind, *(text.replace("{which}", which) for text in says)):
        net.set_parameters(**good | {which: bad(wider)})


def test_transposed_weights(net):
    weights, biases = parameters(net)
    with refused(bp.ShapeError, "weights[0]", "(3, 4)", "expected (4, 3)", "(nodes, inputs)"):
        net.set_parameters([W.T for W in weights], biases)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("epochs", [0, 1])
def test_training_from_parameters_that_are_not_finite(value, epochs):
    net = network()
    net.weights[1][1, 2] = value
    before = net.parameters.tobytes()
    with refused(bp.NonFiniteError, "weights[1]", "(1, 2)"):
        bp.train(net, X, Y, epochs=epochs)
    assert net.parameters.tobytes() == before


# ---- losses --------------------------------------------------------------------------------------

LOSS_CALLS = {
    "backward": lambda net, y, loss: net.backward(net.forward(X), y, loss),
    "loss": lambda net, y, loss: net.loss(X, y, loss),
    "train": lambda net, y, loss: bp.train(net, X, y, loss=loss),
    "validation": lambda net, y, loss: bp.train(
        net, X, np.eye(2)[[0] * N], loss=loss, validation=(X, y)
    ),
}


@pytest.mark.parametrize("call", LOSS_CALLS)
@pytest.mark.parametrize(
    ("g", "loss", "y", "says"),
    [
        ("sigmoid", "bce", with_entry(Y, 1.5), ["1.5", "between 0 and 1"]),
        ("sigmoid", "binary_cross_entropy", with_entry(Y, -0.5), ["-0.5", "between 0 and 1"]),
        ("softmax", "cce", np.ones((N, 2)), ["sum to 1", "off by 1", "one_hot(labels, 2)"]),
        ("softmax", "cce", with_entry(np.eye(2)[[0] * N], 0.1), ["sum to 1", "off by 0.1"]),
        ("softmax", "cce", with_entry(np.eye(2)[[0] * N], 2), ["from 0 to 2", "between 0 and 1"]),
        ("softmax", "cce", [[1.5, -0.5]] * N, ["-0.5 to 1.5", "between 0 and 1"]),
    ],
)
def test_targets_outside_the_domain(call, g, loss, y, says):
    net = network(["tanh", g])
    before = net.parameters.tobytes()
    name = "y_validation" if call == "validation" else "y"
    with refused(bp.DomainError, name, *says):
        LOSS_CALLS[call](net, y, loss)
    assert net.parameters.tobytes() == before


@pytest.mark.parametrize("call", LOSS_CALLS)
@pytest.mark.parametrize("g", ["tanh", "identity", "relu", "leaky_relu", "silu", "gelu"])
@pytest.mark.parametrize(("loss", "remedy"), [("bce", "sigmoid"), ("cce", "softmax")])
def test_outputs_that_can_leave_the_domain(call, g, loss, remedy):
    y = np.eye(2)[[0] * N]
    with refused(bp.DomainError, "between 0 and 1", f"use '{remedy}' in the last layer", g):
        LOSS_CALLS[call](network(["tanh", g]), y, loss)


# ---- names and numbers ---------------------------------------------------------------------------


def make(**options):
    return bp.MLP(**{"layer_sizes": [3, 4, 2], "device": "cpu"} | options)


# What takes a name, and which names are suggested for which.
NAMES = {
    "activation": (
        lambda name: make(activations=["tanh", name]),
        {
            "sigmod": "'sigmoid'",
            "Sigmoid": "'sigmoid'",
            "ReLU": "'relu'",
            "leakyrelu": "'leaky_relu'",
            "leaky-relu": "'leaky_relu'",
            "soft max": "'softmax'",
            "linear": "'identity'",
            bp.LeakyReLU: "'leaky_relu'",
        },
    ),
    "loss": (
        lambda name: network().loss(X, Y, name),
        {
            "MSE": "'mse'",
            "mean_squared": "'mse'",
            "mean squared error": "'mse'",
            "cross_entropy": "'binary_cross_entropy'",
            "crossentropy": "'categorical_cross_entropy'",
            "BCE": "'bce'",
            None: "'mse'",
        },
    ),
    "initializer": (
        lambda name: make(initializer=name),
        {
            "he": "'he_normal'",
            "He_Normal": "'he_normal'",
            "glorot": "'glorot_uniform'",
            "xavier_uniform": "'glorot_uniform'",
        },
    ),
}
NO_NAME = {"activation": "'identity'", "loss": "'mse'", "initializer": "'he_normal'"}


@pytest.mark.parametrize(
    ("kind", "name", "suggested"),
    [(kind, *pair) for kind, (_, table) in NAMES.items() for pair in table.items()]
    + [(kind, name, any_) for kind, any_ in NO_NAME.items() for name in ("xyzzy", "", 5, 0, ())],
)
def test_unknown_name(kind, name, suggested):
    with refused(bp.UnknownNameError, f"unknown {kind} {name!r}", suggested):
        NAMES[kind][0](name)


@pytest.mark.parametrize("call", LOSS_CALLS)
def test_unknown_loss(net, call):
    with refused(bp.UnknownNameError, "unknown loss 'msee'; did you mean 'mse'"):
        LOSS_CALLS[call](net, Y, "msee")


SIZES = [[5], [], [5, 0], [5, -1], [5, 2.5], [5, 2.0], "543", True, None, 5, [5, True], [5, "4"]]
SIZES += [[[5, 4]], {5, 4}, np.array([5.0, 4.0]), np.array(5), [5, None], [np.nan, 3], b"543"]


@pytest.mark.parametrize("sizes", SIZES, ids=repr)
def test_layer_sizes(sizes):
    with refused(bp.ShapeError, f"layer_sizes is {sizes!r}", "at least two", "[5, 3, 4]"):
        make(layer_sizes=sizes)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["tanh"], ["1 activations given", "expected 2", "every layer but the input"]),
        (["tanh"] * 3, ["3 activations given", "expected 2", "every layer but the input"]),
        ([], ["0 activations given", "expected 2"]),
        ("tanh", ["'tanh'", "a list of 2", "['tanh', 'tanh']"]),
        (bp.LeakyReLU(0.1), ["leaky_relu(0.1)", "a list of 2"]),
        (5, ["activations is 5", "a list of 2"]),
        (True, ["activations is True", "a list of 2"]),
    ],
)
def test_activations(given, says):
    with refused((ValueError, TypeError), *says):
        make(activations=given)


DTYPES = [
    "float16",
    "int32",
    "f2",
    ">f8",
    "double precision",
    int,
    complex,
    None,
    5,
    "",
    "(1,",
    ",",
]


@pytest.mark.parametrize("dtype", DTYPES, ids=repr)
def test_dtype(dtype):
    with refused(bp.DtypeError, f"dtype is {dtype!r}", "'float32' or 'float64'"):
        make(dtype=dtype)


NOT_A_COUNT = [-1, 1.5, 2.0, True, "3", None, np.nan, [1], 1j]


@pytest.mark.parametrize("seed", NOT_A_COUNT, ids=repr)
def test_seed(net, seed):
    with refused((ValueError, TypeError), f"seed is {seed!r}", "whole number, 0 or above"):
        make(seed=seed)
    with refused((ValueError, TypeError), f"seed is {seed!r}", "whole number, 0 or above"):
        bp.train(net, X, Y, seed=seed)


NOT_ABOVE_0 = [0, -1, np.nan, np.inf, "1", True, [1], 1j, 10**400]
BAD_OPTIONS = {
    "epochs": ("whole number, 0 or above", NOT_A_COUNT),
    "batch_size": ("whole number, 1 or above", [0, -1, 1.5, 2.0, True, "3", np.nan, [1]]),
    "clip_norm": ("finite number above 0", NOT_ABOVE_0),
    "clip_value": ("finite number above 0", NOT_ABOVE_0),
    "clip_sample_norm": ("finite number above 0", NOT_ABOVE_0),
    "optimizer": ("SGD(learning_rate=0.01)", ["adam", bp.SGD, 0.1, {}, {"rate": 0.1}, {"adam"}]),
    "early_stopping": ("EarlyStopping(", [5, True, "yes", bp.EarlyStopping, {"patience": 5}]),
    "callbacks": ("a list", [print, 5, [None], ["print"], [print, 5]]),
    "validation": ("(x, y)", [X, (X,), (X, Y, Y), 5, "ab", {"x": X, "y": Y}, True]),
}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        pytest.param(option, value, id=f"{option}-{i}")
        for option, (_, values) in BAD_OPTIONS.items()
        for i, value in enumerate(values)
    ],
)
def test_option_of_train(net, option, value):
    with refused((ValueError, TypeError), option, BAD_OPTIONS[option][0]):
        bp.train(net, X, Y, **{option: value})


def test_train_without_a_network():
    for no_net in (None, bp.MLP, "net"):
        with refused((ValueError, TypeError), "MLP"):
            bp.train(no_net, X, Y)


HISTORY = bp.History(loss=[1.0])


@pytest.mark.parametrize(
    "error",
    [
        bp.ShapeError("x"),
        bp.DeviceError("x"),
        bp.UnknownNameError("loss", "msee", ["mse"]),
        bp.MissingExtraError("tqdm", "progress", "progress=True"),
        bp.TrainingDiverged("diverged", 3, 2, HISTORY),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error):
    """As the workers of scikit-learn's searches send them."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


# ---- devices -------------------------------------------------------------------------------------


@pytest.fixture
def fresh_check():
    """Whether there is a GPU is asked anew in this test, and after it."""
    cupy_device.unusable.cache_clear()
    yield
    cupy_device.unusable.cache_clear()


def fake_cupy(count):
    """CuPy where the driver sees so many GPUs; None: there is no driver."""

    def device_count():
        if count is None:
            raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return count

    return SimpleNamespace(
        cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=device_count))
    )


MISSING = {
    "no CuPy": (None, "cuda", ["CuPy", 'pip install "backprop-gpu[cuda13]"', "[cuda12]"]),
    "no driver": (fake_cupy(None), "cuda:0", ["cudaErrorNoDevice", "driver"]),
    "no third GPU": (fake_cupy(2), "cuda:2", ["no CUDA device 2", "cuda:1"]),
    "no GPU": (fake_cupy(0), "cuda", ["GPU", "driver"]),
}


@pytest.mark.parametrize("what", MISSING)
@pytest.mark.usefixtures("fresh_check")
def test_a_gpu_that_is_not_there(monkeypatch, what):
    cupy, device, says = MISSING[what]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with refused(bp.DeviceError, f"device={device!r}", *says):
        make(device=device)


@pytest.mark.usefixtures("fresh_check")
def test_auto_falls_back_and_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    net = make(device="auto")
    assert net.device == "cpu"
    assert "no usable GPU" in net.device_reason
    assert "CuPy" in net.device_reason
    assert 'pip install "backprop-gpu[cuda13]"' in net.device_reason
    assert bp.MLP([3, 2]).device == "cpu"


DEVICES = ["gpu", "cuda:x", "cuda:-1", "cuda:", "cuda:1.5", "CPU", "cpu:0", "cuda ", "", "mps"]


@pytest.mark.parametrize("device", [*DEVICES, None, 0, True, [], b"cpu", np.float32], ids=repr)
def test_unknown_device(device):
    with refused((ValueError, TypeError), repr(device), "'auto', 'cpu', 'cuda'"):
        make(device=device)


# ---- garbage -------------------------------------------------------------------------------------

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

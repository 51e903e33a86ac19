"""Bad arrays and parameters: what was given, what to do instead, and nothing changed."""

import importlib.util
import io
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from refusals import N, X, Y, data, network, refused, with_entry

import backprop_gpu as bp

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


def sparse(array):
    return pytest.importorskip("scipy.sparse").csr_matrix(array)


def npz(array):
    file = io.BytesIO()
    np.savez(file, b=array)
    file.seek(0)
    return np.load(file)


class Raises:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("is on another device")


class OfBfloat16:
    """As PyTorch's tensors are."""

    dtype = "torch.bfloat16"

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Got unsupported ScalarType BFloat16")


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
    "objects": (lambda a: a.astype(object), bp.DtypeError, ["object", "({a}, 'float32')"]),
    "None": (lambda a: None, bp.DtypeError, ["None", "real numbers"]),
    "None inside": (lambda a: [[None] * a.shape[1]] * 7, bp.DtypeError, ["object", "list"]),
    "ragged": (lambda a: [[1, 2], [3]], bp.DtypeError, ["rectangular"]),
    "text": (lambda a: "1 2 3", bp.DtypeError, ["str", "what is in it", "numpy.load({a})"]),
    "a path": (lambda a: Path("x.npy"), bp.DtypeError, ["Path", "numpy.load({a})"]),
    "text inside": (lambda a: a.astype(str), bp.DtypeError, ["<U", "({a}, 'float32')"]),
    "bytes": (lambda a: b"123", bp.DtypeError, ["bytes", "real numbers"]),
    "complex": (lambda a: a * 1j, bp.DtypeError, ["complex128", "real numbers"]),
    "dates": (lambda a: a.astype("datetime64[s]"), bp.DtypeError, ["datetime64", "real numbers"]),
    "records": (lambda a: np.zeros(7, "f4,f4"), bp.DtypeError, ["f4", "real numbers"]),
    "dictionary": (lambda a: {"a": a}, bp.DtypeError, ["dict", "column_stack(list({a}.values()))"]),
    "a file of arrays": (npz, bp.DtypeError, ["NpzFile", "arrays in it, for example {a}['b']"]),
    "set": (lambda a: {1.0, 2.0}, bp.DtypeError, ["set", "real numbers"]),
    "generator": (lambda a: (row for row in a), bp.DtypeError, ["generator", "real numbers"]),
    "a function": (lambda a: np.mean, bp.DtypeError, ["real numbers"]),
    "another device": (lambda a: Raises(), bp.DtypeError, ["is on another device"]),
    "of a dtype that NumPy does not have": (
        lambda a: OfBfloat16(),
        bp.DtypeError,
        ["is a OfBfloat16 of torch.bfloat16", "unsupported ScalarType", "float32"],
    ),
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


def test_complex_numbers_are_refused_without_a_warning_of_numpys(net):
    with warnings.catch_warnings(record=True) as warned, refused(bp.DtypeError, "complex128"):
        warnings.simplefilter("always")
        net(X * 1j)
    assert not warned


@pytest.mark.parametrize(
    ("nodes", "y", "advice"),
    [
        (1, np.ones(7), "; write y[:, None] for one column"),
        (1, [1, 2, 3], "; write numpy.asarray(y)[:, None] for one column"),
        (1, np.ones(1), "; write y[None, :] for one sample or y[:, None] for one column"),
        (2, np.ones(2), "; write y[None, :] for one sample"),
        (2, np.ones(7), "; write one_hot(y, 2) for class labels"),
        (2, np.ones((7, 1)), "; write one_hot(y[:, 0], 2) for class labels"),
        (2, np.ones((2, 7)), "; write y.T if samples are its columns"),
        (2, np.ones((7, 2, 1)), "; write y.reshape(7, -1)"),
        (2, np.ones((7, 3)), ": one column per output node"),
        (2, np.float32(1), "expected (samples, 2)"),
    ],
)
def test_only_what_makes_such_a_matrix_is_advised(nodes, y, advice):
    net = bp.MLP([3, nodes], device="cpu")
    with refused(
        bp.ShapeError, f"y has shape {np.shape(y)}; expected (samples, {nodes})"
    ) as caught:
        bp.train(net, X, y)
    assert str(caught.value).endswith(advice)


def test_text_is_numbered_where_it_may_be_labels(net):
    with refused(bp.DtypeError, "; numpy.unique(y, return_inverse=True)[1] numbers labels"):
        bp.train(net, X, np.array(["a", "b"] * N)[:N])


class Table:
    """What a DataFrame of pandas is to NumPy."""

    def __init__(self, **columns):
        self.columns = columns
        self.dtypes = {name: dtype for name, (dtype, _) in columns.items()}

    def __array__(self, dtype=None, copy=None):
        return np.array([[value for _, value in self.columns.values()]], dtype=dtype or object)

    def to_numpy(self, dtype, na_value):
        row = [na_value if value is None else value for _, value in self.columns.values()]
        return np.array([row], dtype)


FLOAT64 = SimpleNamespace(kind="f")  # pandas' own
NUMBERS = {"area": (np.dtype(float), 1.5), "rooms": (np.dtype(int), 2)}


@pytest.mark.parametrize(
    "column", [(FLOAT64, 0.5), (np.dtype(bool), True)], ids=["Float64", "bool"]
)
def test_a_table_of_numbers_of_any_type_is_taken(net, column):
    row = np.array([[1.5, 2, column[1]]], float)
    assert np.array_equal(net(Table(**NUMBERS, other=column)), net(row))


def test_missing_values_of_a_table_are_not_a_number(net):
    with refused(bp.NonFiniteError, "x holds 1 value(s) that are NaN", "index (0, 2)"):
        net(Table(**NUMBERS, price=(FLOAT64, None)))


def test_columns_of_a_table_that_hold_no_numbers_are_named(net):
    town = (np.dtype(object), "Ur")
    with refused(bp.DtypeError, "something else in 'town' (object): drop it, or make") as caught:
        net(Table(**NUMBERS, town=town))
    assert "asarray" not in str(caught.value)


def test_what_is_no_number_is_not_to_be_converted(net):
    for bad in (None, "x.npy", {"a": [1.0]}, [["Ur", "Uruk", "Eridu"]], [[None, 1.0, 2.0]]):
        with refused(bp.DtypeError, "real numbers") as caught:
            net(bad)
        assert "'float32'" not in str(caught.value)


def tables():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"a": [1.5, 2, 3], "b": [1, 2, 3], "c": ["u", "v", "u"]})
    numbers = pd.DataFrame({"a": [1.5, 2, 3], "b": [1, 2, 3], "c": [True, False, True]})
    yield pd.get_dummies(table).drop(columns="a")
    yield numbers.convert_dtypes()
    yield numbers.convert_dtypes(dtype_backend="numpy_nullable").drop(columns="c").assign(d=1.0)
    yield numbers.astype("Float64")
    if importlib.util.find_spec("pyarrow"):
        yield numbers.astype("float[pyarrow]")
        yield numbers.convert_dtypes(dtype_backend="pyarrow")


def test_tables_of_pandas(net):
    for table in tables():
        assert np.array_equal(net(table), net(table.to_numpy("float64")))
        y = table.iloc[:, 0]
        x = np.ones((3, 2))
        one = bp.MLP([2, 1], device="cpu")
        assert one.loss(x, y.to_frame()) == one.loss(x, y.to_numpy("float64")[:, None])


def test_missing_values_and_text_of_pandas(net):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [1.0, 2.0], "c": [True, False]})
    with refused(bp.NonFiniteError, "1 value(s) that are NaN", "(1, 0)"):
        net(table)
    days = pd.to_datetime(["2026-01-01", "2026-01-02"])
    with refused(bp.DtypeError, "something else in 'c' (", "'d' (datetime64") as caught:
        net(table.assign(a=1, c=["Ur", "Uruk"], d=days))
    assert "asarray" not in str(caught.value)


class PolarsDtype:
    def __init__(self, name):
        self.name = name

    def is_numeric(self):
        return self.name.startswith(("Int", "Float"))

    def __str__(self):
        return self.name


class PolarsTable:
    """What a DataFrame of Polars is to NumPy: one that makes numbers of dates, too."""

    def __init__(self, **columns):
        self.columns = list(columns)
        self.dtypes = [PolarsDtype(name) for name, _ in columns.values()]
        self.values = [value for _, value in columns.values()]

    def __array__(self, dtype=None, copy=None):
        array = np.array([self.values])
        return array if dtype is None else array.astype(dtype)


def test_tables_of_polars(net):
    table = {"area": ("Float64", 1.5), "rooms": ("Int64", 2)}
    row = np.array([[1.5, 2, 1]], float)
    assert np.array_equal(net(PolarsTable(**table, new=("Boolean", True))), net(row))
    with refused(bp.NonFiniteError, "1 value(s) that are NaN", "index (0, 2)"):
        net(PolarsTable(**table, new=("Boolean", None)))
    with refused(bp.DtypeError, "something else in 'town' (String): drop it"):
        net(PolarsTable(**table, town=("String", "Ur")))
    with refused(bp.DtypeError, "something else in 'built' (Date): drop it") as caught:
        net(PolarsTable(**table, built=("Date", 18262)))
    assert "asarray" not in str(caught.value)


def test_a_table_that_is_not_computed_yet(net):
    with refused(bp.DtypeError, "x is a LazyFrame, which has no values yet; give x.collect()"):
        net(type("LazyFrame", (), {"collect": None})())


def test_tables_of_the_real_polars(net):
    pl = pytest.importorskip("polars")
    table = pl.DataFrame({"a": [1.5, 2], "b": [1, 2], "c": [True, False]})
    assert np.array_equal(net(table), net(np.array([[1.5, 1, 1], [2, 2, 0]])))
    days = pl.Series(["2026-01-01", "2026-01-02"]).str.to_date()
    with refused(bp.DtypeError, "something else in 'b' (String), 'c' (Date)"):
        net(table.with_columns(b=pl.Series(["Ur", "Uruk"]), c=days))
    with refused(bp.DtypeError, "give x.collect()"):
        net(table.lazy())
    with refused(bp.NonFiniteError, "1 value(s) that are NaN", "(1, 2)"):
        net(pl.DataFrame({name: [True, None if name == "c" else True] for name in "abc"}))


@pytest.mark.parametrize("n", [1, 6, 8])
def test_x_and_y_of_different_lengths(net, n):
    x, y = data(n)
    with refused(bp.ShapeError, "x has 7 rows", f"y has {n}", "one row per sample"):
        bp.train(net, X, y)
    with refused(bp.ShapeError, f"x has {n} row{'' if n == 1 else 's'}", "y has 7"):
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

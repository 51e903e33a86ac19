"""Each activation against 50 digits, at its edges, and as part of a network."""

import math
import pickle

import mpmath
import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu import activations
from backprop_gpu.activations import ACTIVATIONS, LeakyReLU, find_activation
from backprop_gpu.initializers import INITIALIZERS
from backprop_gpu.special import ERFC, normal_cdf

LEAKS = (0.1, 0.01, 0.0, 1.0, 2.5, -0.5)
ELEMENTWISE = [
    *(find_activation(name) for name in ACTIVATIONS if name not in ("softmax", "leaky_relu")),
    *(LeakyReLU(leak) for leak in LEAKS),
]
EVERY = [*ELEMENTWISE, find_activation("softmax")]
every = pytest.mark.parametrize("g", EVERY, ids=str)
elementwise = pytest.mark.parametrize("g", ELEMENTWISE, ids=str)

# By the books; the slope is mpmath's own.
BOOK = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "tanh": mpmath.tanh,
    "relu": lambda z: max(z, 0),
    "softplus": lambda z: mpmath.log1p(mpmath.exp(z)),
    "exp": mpmath.exp,
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "gelu": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
}


def book(g):
    if g.name == "leaky_relu":
        return lambda z: z if z > 0 else g.parameters["leak"] * z
    return BOOK[g.name]


def apply(backend, g, z):
    """a = g(z), and g' as the backend has it: the delta of a dC/da of 1."""
    z = backend.asarray(z, z.dtype)
    a = backend.empty(z.shape, z.dtype)
    slope = backend.empty(z.shape, z.dtype)
    with backend.computing():
        backend.bias_activation(z, backend.xp.zeros(z.shape[1], z.dtype), g, a)
        reference = z if g.derivative_from == "z" else a
        backend.delta(backend.xp.ones_like(z), g, reference, slope, backend.xp.empty_like(z[0]))
    return backend.to_numpy(a), backend.to_numpy(slope)


# ---- values --------------------------------------------------------------------------------------


@elementwise
def test_agrees_with_50_digits(g, backend, dtype):
    z = np.linspace(-30, 30, 241)[1::2].astype(dtype)
    a, slope = apply(backend, g, z[:, None])
    with mpmath.workdps(50):
        exact = [book(g)(mpmath.mpf(float(v))) for v in z]
        exact_slope = [mpmath.diff(book(g), mpmath.mpf(float(v))) for v in z]
    eps = np.finfo(dtype).eps
    # gelu multiplies the rounding of its z by the steepness of erfc, about z^2.
    rounding = (8 + 3 * z.astype(float) ** 2) * eps if g.name == "gelu" else 8 * eps
    exact = np.array(exact, float)
    # Below this, sigmoids come from an e^-z that has overflowed.
    assert (np.abs(a[:, 0] - exact) <= rounding * np.abs(exact) + np.finfo(dtype).tiny).all()
    np.testing.assert_allclose(
        slope[:, 0], np.array(exact_slope, float), atol=8 * eps, rtol=8 * eps
    )


def test_softmax_agrees_with_50_digits(backend, dtype):
    z = np.random.default_rng(0).normal(0, 5, (31, 7)).astype(dtype)
    g = find_activation("softmax")
    a = backend.empty(z.shape, dtype)
    with backend.computing():
        on_device = backend.asarray(z.copy(), dtype)
        backend.bias_activation(on_device, backend.xp.zeros(7, dtype), g, a)
    with mpmath.workdps(50):
        powers = [[mpmath.exp(float(v)) for v in row] for row in z]
        exact = np.array([[p / sum(row) for p in row] for row in powers], float)
    # e^z multiplies the rounding of z - max(z), which is up to 40.
    np.testing.assert_allclose(backend.to_numpy(a), exact, rtol=40 * np.finfo(dtype).eps)


def test_softmax_applies_the_whole_jacobian(backend, dtype):
    random = np.random.default_rng(1)
    a = random.dirichlet(np.ones(5), 4).astype(dtype)
    dC_da = random.normal(size=(4, 5)).astype(dtype)
    delta = backend.asarray(dC_da, dtype).copy()
    with backend.computing():
        dC_db = backend.empty((5,), dtype)
        backend.delta(delta, find_activation("softmax"), backend.asarray(a, dtype), delta, dC_db)
    jacobian = [np.diag(row) - np.outer(row, row) for row in a.astype(float)]
    expected = [row @ J for row, J in zip(dC_da, jacobian, strict=True)]
    np.testing.assert_allclose(backend.to_numpy(delta), expected, atol=8 * np.finfo(dtype).eps)


@every
def test_outputs_stay_in_the_stated_range_which_is_finite_where_they_are(g, dtype):
    z = np.concatenate([-np.logspace(4, -4, 500), [0], np.logspace(-4, 4, 500)]).astype(dtype)
    with np.errstate(all="ignore"):
        a = g.function(np, z[:, None] * np.array([1, 0.5], dtype))
    low, high = g.output_range
    rounding = 4 * np.finfo(dtype).eps
    assert low - rounding <= a.min()
    assert a.max() <= high + rounding
    assert np.isfinite([low, high]).tolist() == [a.min() > -100, a.max() < 100]


# ---- edges ---------------------------------------------------------------------------------------

# Far left and far right: a where it is a constant, and g'. Where it is none, a = g' z.
BOUNDED = {"sigmoid": (0, 0, 1, 0), "tanh": (-1, 0, 1, 0), "exp": (0, 0, np.inf, np.inf)}
RAMP = {"relu": 0, "softplus": 0, "silu": 0, "gelu": 0, "identity": 1}


def check_limits(backend, dtype, g, big):
    z = np.array([[-big, big]], dtype)
    a, slope = apply(backend, g, z)
    if g.name in BOUNDED:
        left, left_slope, right, right_slope = BOUNDED[g.name]
    else:
        left_slope, right_slope = RAMP.get(g.name, g.parameters.get("leak")), 1
        left = dtype.type(left_slope) * z[0, 0] if left_slope else 0
        right = z[0, 1]
    np.testing.assert_array_equal(a, np.array([[left, right]], dtype))
    np.testing.assert_array_equal(slope, np.array([[left_slope, right_slope]], dtype))


@elementwise
@pytest.mark.parametrize("big", [1e4, 1e30, "a quarter of the largest"])
def test_saturates_to_its_limits(g, big, backend, dtype):
    check_limits(backend, dtype, g, np.finfo(dtype).max / 4 if isinstance(big, str) else big)


@pytest.mark.parametrize(
    "g",
    [g for g in ELEMENTWISE if g.name not in ("silu", "gelu")],  # those are 0 * infinity
    ids=str,
)
def test_infinities_have_their_limits(g, backend, dtype):
    check_limits(backend, dtype, g, np.inf)


def test_softmax_of_far_apart_inputs(backend, dtype):
    top = np.finfo(dtype).max
    z = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [top, -top, 0]], dtype)
    a, _ = apply(backend, find_activation("softmax"), z)
    np.testing.assert_allclose(a, [[1, 0, 0], [1 / 3] * 3, [1, 0, 0]], rtol=1e-6)


@every
def test_nan_stays_nan(g, backend, dtype):
    a, _ = apply(backend, g, np.array([[np.nan], [1.0]], dtype))
    assert np.isnan(a[0])
    assert not np.isnan(a[1])


@pytest.mark.parametrize("leak", LEAKS)
def test_leaky_relu_has_the_slope_leak_at_zero_and_below(leak, backend, dtype):
    z = np.array([[-3.0, -0.0, 0.0, 2.0]], dtype)
    a, slope = apply(backend, LeakyReLU(leak), z)
    np.testing.assert_array_equal(slope, np.array([[leak, leak, leak, 1]], dtype))
    np.testing.assert_array_equal(a, np.array([[-3 * leak, 0, 0, 2]], dtype))


@pytest.mark.parametrize("leak", LEAKS)
def test_leaky_relu_tells_the_smallest_number_from_zero(leak, backend, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    _, slope = apply(backend, LeakyReLU(leak), np.array([[tiny, -tiny]], dtype))
    np.testing.assert_array_equal(slope, np.array([[1, leak]], dtype))


@pytest.mark.parametrize("leak", LEAKS)
def test_leaky_relu_reads_a_only_where_a_has_the_sign_of_z(leak):
    assert LeakyReLU(leak).derivative_from == ("a" if leak >= 0 else "z")


@every
def test_kinks_are_where_the_slope_jumps(g):
    z = np.linspace(-2, 2, 8000)[None, :]  # 0 is no point of it
    if g.jacobian_product is not None:
        assert g.kinks == ()
        return
    slope = g.derivative(np, z if g.derivative_from == "z" else g.function(np, z))[0]
    jumps = np.flatnonzero(np.abs(np.diff(slope)) > 1e-2)
    np.testing.assert_allclose((z[0, jumps] + z[0, jumps + 1]) / 2, g.kinks, atol=1e-9)


# ---- the entries ---------------------------------------------------------------------------------


@every
def test_functions_return_new_arrays_of_the_same_kind(g, dtype):
    z = np.random.default_rng(2).normal(size=(4, 3)).astype(dtype)
    kept = z.copy()
    a = g.function(np, z)
    reference = z if g.derivative_from == "z" else a
    slope = g.derivative(np, reference)
    for result, given in ((a, z), (slope, reference)):
        assert (result.dtype, result.shape) == (dtype, z.shape)
        assert not np.shares_memory(result, given)
    np.testing.assert_array_equal(z, kept)


@every
def test_entries_are_complete(g):
    assert g.initializer in INITIALIZERS
    assert g.latex != bp.Activation.latex
    assert g.latex_derivative != bp.Activation.latex_derivative
    assert find_activation(g.name, g.parameters).parameters == g.parameters


@pytest.mark.parametrize("leak", [math.nan, math.inf, -math.inf, "0.1", None, True, 1j])
def test_leak_has_to_be_a_finite_number(leak):
    with pytest.raises(bp.DomainError, match="leak"):
        LeakyReLU(leak)


@pytest.mark.parametrize("leak", [np.float32(0.5), np.float64(0.5), np.int64(2)], ids=repr)
def test_leak_may_be_a_numpy_number(leak):
    assert LeakyReLU(leak).parameters == {"leak": float(leak)}


@pytest.mark.parametrize(("name", "meant"), [("sigmod", "sigmoid"), ("ReLU", "relu"), (3, "tanh")])
def test_unknown_names_are_refused_with_a_suggestion(name, meant):
    with pytest.raises(bp.UnknownNameError, match=meant):
        find_activation(name)


# ---- erfc ----------------------------------------------------------------------------------------


def test_the_normal_distribution_is_right_to_rounding():
    z = np.linspace(-37, 9, 2001)
    with mpmath.workdps(50):
        exact = [mpmath.erfc(-mpmath.mpf(v) / mpmath.sqrt(2)) / 2 for v in z]
        computed = [mpmath.mpf(v) for v in normal_cdf(np, z)]
        ulps = [
            float(abs(c - e) / np.spacing(float(e))) for c, e in zip(computed, exact, strict=True)
        ]
    # Half an ulp in z alone moves the result by z^2 / 2 of them on the left.
    left = np.maximum(-z, 0)
    assert (ulps <= 4 + 2 * left**2).all()
    assert max(ulps[i] for i in np.flatnonzero(z > 0)) <= 2


def test_the_erfc_series_is_the_one_that_50_digits_give():
    nodes = 80
    with mpmath.workdps(50):
        angles = [mpmath.pi * (k + mpmath.mpf(1) / 2) / nodes for k in range(nodes)]

        def function(u):
            t = (u + 1) / 2
            x = 2 / t - 2
            return mpmath.log(mpmath.erfc(x) / t) + x * x

        values = [function(mpmath.cos(angle)) for angle in angles]
        series = [
            2
            * sum(v * mpmath.cos(k * angle) for v, angle in zip(values, angles, strict=True))
            / nodes
            for k in range(len(ERFC))
        ]
        series[0] /= 2
    np.testing.assert_allclose(ERFC, np.array(series, float), rtol=1e-15, atol=1e-17)


# ---- an activation of one's own ------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch):
    """A copy of the table, to register in."""
    monkeypatch.setattr(activations, "ACTIVATIONS", dict(ACTIVATIONS))


def softsign(**changes):
    entry = {
        "name": "softsign",
        "function": lambda xp, z: z / (1 + xp.abs(z)),
        "derivative": lambda xp, z: 1 / (1 + xp.abs(z)) ** 2,
        "derivative_from": "z",
    }
    return bp.Activation(**entry | changes)


def batch(net, n=5):
    random = np.random.default_rng(3)
    return random.normal(size=(n, net.layer_sizes[0])), random.normal(size=(n, net.layer_sizes[-1]))


@pytest.mark.usefixtures("table")
def test_a_registered_activation_is_one_like_the_others(backend, dtype):
    bp.register_activation(softsign())
    net = bp.MLP([3, 4, 2], ["softsign", "softsign"], device=backend, dtype=dtype, seed=1)
    x, y = batch(net)
    grads = net.backward(net.forward(x), y)
    assert {array.dtype for array in (grads.flat, *grads.deltas)} == {dtype}
    bp.check_gradients(net, x, y)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("name", ["sigmoid", "leaky_relu", "softsign"])
def test_a_name_is_given_once(name):
    bp.register_activation(softsign())
    with pytest.raises(bp.DomainError, match=name):
        bp.register_activation(softsign(name=name))


@pytest.mark.usefixtures("table")
def test_one_s_own_may_be_replaced_where_that_is_asked_for():
    """A cell of a notebook is run again; what a network was built with stays in it."""
    bp.register_activation(softsign())
    before = bp.MLP([1, 1], ["softsign"], device="cpu")
    with pytest.raises(bp.DomainError, match="give replace=True"):
        bp.register_activation(softsign())
    steeper = bp.register_activation(softsign(function=lambda xp, z: xp.tanh(z)), replace=True)
    assert bp.MLP([1, 1], ["softsign"], device="cpu").activations == (steeper,)
    assert before.activations != (steeper,)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("name", ["tanh", "leaky_relu"])
def test_a_built_in_one_stays_what_it_is(name):
    with pytest.raises(bp.DomainError, match=f"'{name}' is built in"):
        bp.register_activation(softsign(name=name), replace=True)


def test_an_entry_is_printed_by_its_name():
    assert f"{[LeakyReLU(0.1), find_activation('tanh')]}" == "[leaky_relu(0.1), tanh]"


@pytest.mark.parametrize("parameters", [{}, {"alpha": 0.1}], ids=str)
def test_an_entry_that_only_has_the_name_of_a_built_in_one_is_pickled_as_it_is(parameters):
    """Also with parameters that the built-in one does not have."""
    own = bp.Activation("leaky_relu", np.multiply, np.divide, "a", parameters=parameters)
    assert pickle.loads(pickle.dumps(own)) == own
    assert pickle.loads(pickle.dumps(LeakyReLU(0.1))) is LeakyReLU(0.1)


def test_kinks_and_the_range_of_outputs_may_be_lists():
    own = softsign(kinks=[0.0], output_range=[-1, 1])
    assert (own.kinks, own.output_range) == ((0.0,), (-1, 1))
    bp.MLP([3, 2], [own], device="cpu")


@pytest.mark.parametrize("kind", ["float64", "int64", "bool"])
def test_a_slope_of_another_type_leaves_a_float32_network_float32(kind, backend):
    ramp = bp.Activation(
        "ramp",
        function=lambda xp, z: xp.maximum(z, 0),
        derivative=lambda xp, z: (z > 0).astype(kind),
        derivative_from="z",
        kinks=(0.0,),
    )
    net = bp.MLP([3, 4, 2], [ramp, ramp], device=backend, dtype="float32", seed=1)
    x, y = batch(net)
    grads = net.backward(net.forward(x), y)
    assert {array.dtype for array in (grads.flat, *grads.deltas)} == {np.dtype("float32")}
    bp.check_gradients(net, x, y)


def test_a_derivative_that_returns_its_argument_leaves_the_trace_alone(backend, dtype):
    exponential = bp.Activation(
        "exponential",
        function=lambda xp, z: xp.exp(z),
        derivative=lambda xp, a: a,
        derivative_from="a",
    )
    net = bp.MLP([3, 4, 2], [exponential, "tanh"], device=backend, dtype=dtype, seed=1)
    x, y = batch(net)
    trace = net.forward(x)
    once, twice = (backend.to_numpy(net.backward(trace, y).flat) for _ in range(2))
    np.testing.assert_array_equal(once, twice)
    bp.check_gradients(net, x, y)

"""Each loss against 50 digits: values, gradients, the one place of 1/n, and the canonical pairs."""

import re

import mpmath
import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu import losses
from backprop_gpu.activations import ACTIVATIONS, LeakyReLU, find_activation
from backprop_gpu.checks import check_loss
from backprop_gpu.losses import ALIASES, LOSSES, find_loss

every = pytest.mark.parametrize("loss", LOSSES)
CANONICAL = [("binary_cross_entropy", "sigmoid"), ("categorical_cross_entropy", "softmax")]
canonical = pytest.mark.parametrize(("loss", "g"), CANONICAL)
SHAPES = [(1, 1), (1, 5), (2, 2), (3, 1), (5, 4), (31, 3)]

# C_i by the books.
BOOK = {
    "sse": lambda a, y: sum((p - q) ** 2 for p, q in zip(a, y, strict=True)),
    "mse": lambda a, y: BOOK["sse"](a, y) / len(a),
    "binary_cross_entropy": lambda a, y: (
        -sum(q * mpmath.log(p) + (1 - q) * mpmath.log(1 - p) for p, q in zip(a, y, strict=True))
    ),
    "categorical_cross_entropy": lambda a, y: (
        -sum(q * mpmath.log(p) for p, q in zip(a, y, strict=True))
    ),
}


def outputs_and_targets(shape, dtype, seed=0):
    """Numbers that every loss is defined for."""
    random = np.random.default_rng(seed)
    a = random.uniform(0.02, 0.98, shape).astype(dtype)
    y = random.dirichlet(np.ones(shape[1]), shape[0]).astype(dtype)
    return a, y


def apply(backend, loss, g, a, y, z=None):
    """C, dC/da and delta as the backend has them."""
    a, y, z = (backend.asarray(array, a.dtype) for array in (a, y, a if z is None else z))
    C = backend.empty((1,), a.dtype)
    dC_da, delta = (backend.empty(a.shape, a.dtype) for _ in range(2))
    with backend.computing():
        backend.output_delta(find_loss(loss), find_activation(g), z, a, y, C, dC_da, delta)
    return (backend.to_numpy(array) for array in (C, dC_da, delta))


def last_layer(backend, dtype, g, z):
    """A network whose z is the given one, whatever x is."""
    net = bp.MLP([1, len(z)], [g], device=backend, dtype=dtype)
    net.set_parameters([np.zeros((len(z), 1))], [z])
    return net


# ---- values --------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_50_digits_and_averages_over_samples_once(loss, shape, backend, dtype):
    a, y = outputs_and_targets(shape, dtype)
    C, dC_da, _ = apply(backend, loss, "identity", a, y)
    with mpmath.workdps(50):
        exact_a, exact_y = ([[mpmath.mpf(float(v)) for v in row] for row in m] for m in (a, y))
        exact_C = sum(BOOK[loss](p, q) for p, q in zip(exact_a, exact_y, strict=True)) / len(a)
        exact_dC_da = [
            [
                mpmath.diff(lambda v, p=p, q=q, j=j: BOOK[loss]([*p[:j], v, *p[j + 1 :]], q), p[j])
                / len(a)
                for j in range(len(p))
            ]
            for p, q in zip(exact_a, exact_y, strict=True)
        ]
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(C, [float(exact_C)], rtol=8 * eps)
    exact_dC_da = np.array(exact_dC_da, float)
    np.testing.assert_allclose(
        dC_da, exact_dC_da, rtol=8 * eps, atol=4 * eps * np.abs(exact_dC_da).max()
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_mse_is_sse_divided_by_the_outputs_only(shape, backend, dtype):
    a, y = outputs_and_targets(shape, dtype)
    mse, sse = (apply(backend, loss, "tanh", a, y) for loss in ("mse", "sse"))
    for of_mse, of_sse in zip(mse, sse, strict=True):
        np.testing.assert_allclose(of_mse * shape[1], of_sse, rtol=8 * np.finfo(dtype).eps)


@every
def test_entries_know_nothing_of_the_batch(loss, dtype):
    a, y = outputs_and_targets((4, 3), dtype)
    entry = find_loss(loss)
    C_i, gradient = entry.value(np, a, y), entry.gradient(np, a, y)
    assert (C_i.shape, C_i.dtype) == ((4,), dtype)
    assert (gradient.shape, gradient.dtype) == ((4, 3), dtype)
    for i in range(4):
        alone = slice(i, i + 1)
        np.testing.assert_array_equal(entry.value(np, a[alone], y[alone]), C_i[alone])
        np.testing.assert_array_equal(entry.gradient(np, a[alone], y[alone]), gradient[alone])


@pytest.mark.parametrize("a", [0.0, 1.0])
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "categorical_cross_entropy"])
def test_a_certain_and_right_output_costs_nothing(loss, a, backend, dtype):
    outputs = np.array([[a, 1 - a]], dtype)
    C, _, _ = apply(backend, loss, "identity", outputs, outputs)
    assert C == 0


def test_a_small_share_of_a_wrong_class_is_not_rounded_off(backend, dtype):
    a = np.array([[1e-20]], dtype)
    C, dC_da, _ = apply(backend, "binary_cross_entropy", "identity", a, np.zeros_like(a))
    np.testing.assert_allclose(C, a[0], rtol=1e-6)
    assert dC_da == 1


@every
def test_entries_are_complete(loss):
    entry = LOSSES[loss]
    assert entry.latex != bp.Loss.latex
    assert entry.latex_gradient != bp.Loss.latex_gradient


# ---- canonical pairs -----------------------------------------------------------------------------


@canonical
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2), (31, 4)])
def test_delta_of_a_canonical_pair_is_exactly_the_error(loss, g, shape, backend, dtype):
    a, y = outputs_and_targets(shape, dtype)
    _, _, delta = apply(backend, loss, g, a, y, z=a)
    n = len(a)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(delta, (a - y) / n, rtol=2 * eps)  # 1/n is rounded, or not
    if n == 1:
        np.testing.assert_array_equal(delta, a - y)


@pytest.mark.parametrize("z", [1e4, 1e30])
@pytest.mark.parametrize(("y", "sign"), [(0, 1), (1, 1), (0, -1), (1, -1)])
def test_binary_cross_entropy_of_saturated_sigmoids_is_exact(z, y, sign, backend, dtype):
    net = last_layer(backend, dtype, "sigmoid", [sign * z])
    grads = net.backward(net.forward([[1.0]]), [[y]], "bce")
    right = (sign > 0) == (y == 1)
    assert grads.loss == (0 if right else dtype.type(z))
    assert float(grads.deltas[0][0, 0]) == (0 if right else sign)
    assert float(grads.biases[0][0]) == (0 if right else sign)


@pytest.mark.parametrize("z", [1e4, 1e30, "half of the largest"])
@pytest.mark.parametrize("right", [True, False])
def test_categorical_cross_entropy_of_saturated_softmaxes_is_exact(z, right, backend, dtype):
    z = np.finfo(dtype).max / 2 if isinstance(z, str) else z
    net = last_layer(backend, dtype, "softmax", [z, -z / 2])
    y = [[1, 0]] if right else [[0, 1]]
    grads = net.backward(net.forward([[1.0]]), y, "cce")
    expected = 0 if right else dtype.type(z) - dtype.type(-z / 2)
    assert grads.loss == expected
    np.testing.assert_array_equal(
        backend.to_numpy(grads.deltas[0]), [[0, 0]] if right else [[1, -1]]
    )


def test_classes_that_are_out_of_reach_and_not_wanted_cost_nothing(backend, dtype):
    top = np.finfo(dtype).max  # the difference of the two z is infinite
    net = last_layer(backend, dtype, "softmax", [top, -top])
    assert net.loss([[1.0]], [[1, 0]], "cce") == 0


@canonical
def test_canonical_losses_agree_with_their_value_from_a(loss, g, dtype):
    z = np.random.default_rng(1).normal(0, 2, (7, 3)).astype(dtype)
    a = find_activation(g).function(np, z)
    y = outputs_and_targets(z.shape, dtype)[1]
    entry = find_loss(loss)
    np.testing.assert_allclose(
        entry.canonical_value(np, z, y), entry.value(np, a, y), rtol=100 * np.finfo(dtype).eps
    )
    assert entry.canonical_value(np, z, y).dtype == dtype


def test_only_the_canonical_activation_is_canonical():
    pairs = {
        (loss, g) for loss in LOSSES for g in ACTIVATIONS
        if LOSSES[loss].is_canonical_for(find_activation(g))
    }  # fmt: skip
    assert pairs == set(CANONICAL)


def test_an_activation_that_only_shares_the_name_is_not_canonical():
    hard = bp.Activation(
        "sigmoid",
        function=lambda xp, z: xp.clip(0.5 + 0.2 * z, 0.0, 1.0),
        derivative=lambda xp, a: 0.2 * ((a > 0) & (a < 1)),
        derivative_from="a",
        kinks=(-2.5, 2.5),
        output_range=(0.0, 1.0),
    )
    net = bp.MLP([2, 2], [hard], device="cpu", dtype="float64", seed=1)
    trace = net.forward([[0.1, 0.2]])
    y = np.array([[0.5, 0.5]])
    delta = net.backward(trace, y, "bce").deltas[0]
    a = trace.output
    np.testing.assert_allclose(delta, 0.2 * (a - y) / (a * (1 - a)), rtol=1e-13)


# ---- domains -------------------------------------------------------------------------------------

BETWEEN_0_AND_1 = ["sigmoid", "softmax"]


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "categorical_cross_entropy"])
@pytest.mark.parametrize("g", [*ACTIVATIONS, LeakyReLU(0.0), LeakyReLU(-1.0)], ids=str)
def test_cross_entropies_want_outputs_between_0_and_1(loss, g):
    net = bp.MLP([2, 3], [g], device="cpu")
    if g in BETWEEN_0_AND_1:
        assert check_loss(net, loss) is LOSSES[loss]
        return
    with pytest.raises(bp.DomainError, match=LOSSES[loss].canonical):
        check_loss(net, loss)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("bce", [0.5, 1.5], "0.5 to 1.5"),
        ("bce", [-0.1, 1], "-0.1 to 1"),
        ("cce", [1, 1], "one_hot"),
        ("cce", [0, 0], "one_hot"),
        ("cce", [0.5, 0.4999], "one_hot"),
        ("cce", [2, -1], "between 0 and 1"),
    ],
)
def test_targets_outside_the_domain_are_refused(loss, y, message, backend, dtype):
    net = bp.MLP([2, 2], ["softmax"], device=backend, dtype=dtype)
    with pytest.raises(bp.DomainError, match=message):
        net.backward(net.forward([[1, 2]]), [y], loss)


def test_two_classes_in_one_output_want_the_other_cross_entropy():
    net = bp.MLP([2, 1], ["sigmoid"], device="cpu")
    with pytest.raises(bp.DomainError, match=r"one output .* 'binary_cross_entropy'"):
        bp.train(net, [[1, 2], [3, 4]], [[0], [1]], loss="cce")


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_softmax_of_one_output_is_refused(loss):
    """It is 1, whatever the parameters are."""
    net = bp.MLP([2, 1], ["softmax"], device="cpu")
    for train, nets in ((bp.train, net), (bp.train_many, [net])):
        with pytest.raises(bp.DomainError, match=r"'softmax' is always 1.* use 'sigmoid'"):
            train(nets, [[1, 2], [3, 4]], [[1], [1]], loss=loss)


@pytest.mark.parametrize("loss", ["cce", "categorical_cross_entropy"])
def test_rows_of_rounded_shares_are_a_distribution(loss, backend):
    net = bp.MLP([2, 31], ["softmax"], device=backend, dtype="float32")
    y = np.full((1, 31), 1 / 31, np.float32)
    assert net.loss([[1, 2]], y, loss) > 0


@pytest.mark.parametrize(
    "rounded", [lambda p: p.round(4), lambda p: p.astype("float16")], ids=["to 4 digits", "float16"]
)
def test_rounded_probabilities_are_refused_with_what_makes_them_sum_to_1(rounded):
    """With sums off by e, a - y is off by e from the gradient, and the loss by e of itself."""
    y = rounded(np.random.default_rng(0).dirichlet(np.ones(7), size=20))
    net = bp.MLP([2, 7], ["softmax"], device="cpu", dtype="float64", seed=0)
    with pytest.raises(bp.DomainError, match=r"off by 0\.000.*one_hot\(labels, 7\)") as refused:
        net.loss(np.ones((20, 2)), y, "cce")
    remedy = re.search(r"y / y\.sum\(.*?\)", str(refused.value)).group()
    y = eval(remedy, {"y": y})
    assert bp.check_gradients(net, np.ones((20, 2)), y, "cce").largest_error < 1e-6


# ---- the table -----------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch):
    """A copy of the table, to register in."""
    monkeypatch.setattr(losses, "LOSSES", dict(LOSSES))


def log_cosh(**changes):
    entry = {
        "name": "log_cosh",
        "value": lambda xp, a, y: xp.log(xp.cosh(a - y)).sum(axis=1),
        "gradient": lambda xp, a, y: xp.tanh(a - y),
    }
    return bp.Loss(**entry | changes)


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_name_the_same_loss(alias):
    assert find_loss(alias) is LOSSES[ALIASES[alias]]


@pytest.mark.parametrize(("name", "meant"), [("mee", "mse"), ("MSE", "mse"), (None, "sse")])
def test_unknown_names_are_refused_with_a_suggestion(name, meant):
    with pytest.raises(bp.UnknownNameError, match=meant):
        find_loss(name)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("g", ["tanh", "softmax"])
def test_a_registered_loss_is_one_like_the_others(g, backend, dtype):
    bp.register_loss(log_cosh())
    net = bp.MLP([3, 4, 2], ["tanh", g], device=backend, dtype=dtype, seed=1)
    random = np.random.default_rng(2)
    x, y = random.normal(size=(5, 3)), random.normal(size=(5, 2))
    grads = net.backward(net.forward(x), y, "log_cosh")
    assert {array.dtype for array in (grads.C, grads.flat, *grads.deltas)} == {dtype}
    bp.check_gradients(net, x, y, "log_cosh")


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("name", ["mse", "bce", "log_cosh"])
def test_a_name_is_given_once(name):
    bp.register_loss(log_cosh())
    with pytest.raises(bp.DomainError, match=name):
        bp.register_loss(log_cosh(name=name))


@pytest.mark.usefixtures("table")
def test_one_s_own_may_be_replaced_where_that_is_asked_for():
    bp.register_loss(log_cosh())
    with pytest.raises(bp.DomainError, match="give replace=True"):
        bp.register_loss(log_cosh())
    other = bp.register_loss(log_cosh(), replace=True)
    assert find_loss("log_cosh") is other


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("name", ["mse", "bce"])
def test_a_built_in_one_stays_what_it_is(name):
    with pytest.raises(bp.DomainError, match=f"'{name}' is built in"):
        bp.register_loss(log_cosh(name=name), replace=True)


def test_a_gradient_in_float64_leaves_a_float32_network_float32(backend):
    wide = log_cosh(gradient=lambda xp, a, y: xp.tanh(a.astype("float64") - y))
    net = bp.MLP([3, 4, 2], device=backend, dtype="float32", seed=1)
    random = np.random.default_rng(2)
    x, y = random.normal(size=(5, 3)), random.normal(size=(5, 2))
    grads = net.backward(net.forward(x), y, wide)
    assert {array.dtype for array in (grads.C, grads.flat, *grads.deltas)} == {np.dtype("float32")}
    bp.check_gradients(net, x, y, wide)


@pytest.mark.parametrize(("dtype", "z"), [("float32", 30.0), ("float64", 37.0), ("float64", 700.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_of_outputs_that_round_to_0_or_1_are_exact(dtype, z, sign):
    """dC/da of the wrong side: 1 / (1 - a) is 1 + e^z, though a has rounded to 1."""
    net = bp.MLP([1, 1], ["sigmoid"], device="cpu", dtype=dtype)
    net.set_parameters([[[sign * z]]], [[0.0]])
    grads = net.backward(net.forward([[1.0]]), [[0.0 if sign > 0 else 1.0]], "bce")
    expected = sign * float(1 + mpmath.exp(z))
    assert float(grads.activations[1][0, 0]) == pytest.approx(
        expected, rel=4 * float(np.finfo(dtype).eps)
    )


def test_a_loss_is_printed_by_its_name():
    assert f"{[find_loss('mse'), find_loss('bce')]}" == "[mse, binary_cross_entropy]"

"""A gradient check has to pass what is right, fail what is wrong, and say where it is wrong."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.activations import find_activation
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.losses import find_loss

SIZES = (3, 4, 5, 2)
TERMS = [
    *((term, layer) for layer in (1, 2, 3) for term in ("dC/dW", "dC/db", "delta", "dC/da")),
    ("dC/da", 0),
]


def network(activations=("silu", "tanh", "sigmoid"), kind=bp.MLP, sizes=SIZES, **options):
    net = kind(sizes, activations, **{"device": "cpu", "dtype": "float64", "seed": 5} | options)
    random = np.random.default_rng(5)
    biases = [random.normal(0, 0.3, b.shape) for b in net.biases]
    net.set_parameters([net.backend.to_numpy(W) for W in net.weights], biases)
    return net


def data(net, n=4):
    random = np.random.default_rng(6)
    x = random.normal(size=(n, net.layer_sizes[0]))
    return x, random.dirichlet(np.ones(net.layer_sizes[-1]), n)


def refuses(net, term, layer, loss="mse", **options):
    with pytest.raises(bp.GradientError, match=re.escape(f"{term} of layer {layer} is off")):
        bp.check_gradients(net, *data(net), loss, **options)


# ---- what is right -------------------------------------------------------------------------------


def test_every_term_of_the_textbook_network_is_checked(backend):
    report = bp.check_gradients(*bp.textbook(device=backend))
    assert {(t.term, t.layer): (t.checked, t.skipped) for t in report.terms} == {
        (term, layer): (entries + 4, 0)  # 4 random directions
        for layer, sizes in enumerate([(15, 3, 3, 3), (15, 5, 5, 5), (20, 4, 4, 4)], start=1)
        for term, entries in zip(("dC/dW", "dC/db", "delta", "dC/da"), sizes, strict=True)
    } | {("dC/da", 0): (9, 0)}
    assert report.largest_error < 1e-8
    assert report.largest_error == max(t.largest_error for t in report.terms)


def test_the_report_is_a_table_of_every_term():
    report = bp.check_gradients(*bp.textbook(device="cpu"))
    lines = repr(report).splitlines()
    assert str(report) == repr(report)
    assert lines[0].split() == ["layer", "term", "checked", "skipped", "largest", "error"]
    assert len(lines) == 2 + 13
    assert lines[5].split()[:4] == ["3", "dC/dW", "24", "0"]


def test_a_change_to_one_sample_computes_no_other_again():
    computed = []

    def value(xp, a, y):
        computed.append(len(a))
        return ((a - y) ** 2).sum(axis=1)

    net = network()
    bp.check_gradients(net, *data(net, 50), replace(find_loss("sse"), value=value), directions=0)
    changed = Counter(computed)
    assert changed.keys() == {1, 50}
    assert changed[1] > changed[50]


@pytest.mark.parametrize("loss", ["mse", "sse", "bce", "cce"])
@pytest.mark.parametrize("weight_decay", [0, 0.01])
def test_right_gradients_pass(loss, weight_decay, backend, dtype):
    net = network(device=backend, dtype=dtype)
    bp.check_gradients(net, *data(net), loss, weight_decay=weight_decay, max_entries=5)


# Where finite differences are believed for agreeing in their rounding, the higher seeds fail.
@pytest.mark.parametrize("seed", [*range(20), 52, 60, 159, 207, 208, 268, 307, 308, 368, 372])
def test_random_networks_of_any_scale_pass(seed):
    random = np.random.default_rng(seed)
    sizes = [int(size) for size in random.integers(1, 6, random.integers(2, 6))]
    names = ("tanh", "relu", "leaky_relu", "gelu", "softmax", "softplus", "silu", "sigmoid")
    net = network([*random.choice(names, len(sizes) - 1)], sizes=sizes, seed=seed)
    large_W, large_x, large_y = 10 ** random.uniform([-1, -2, -3], [1, 2, 3])
    net.parameters[...] *= large_W
    x, y = data(net)
    x, y = large_x * x, large_y * y
    weight_decay = 0.1 * (seed % 3)
    bp.check_gradients(net, x, y, "sse", max_entries=10, weight_decay=weight_decay)


def test_saturated_networks_pass(dtype):
    net = network(["sigmoid", "tanh", "sigmoid"], dtype=dtype)
    net.weights[1][...] *= 1e4
    bp.check_gradients(net, *data(net), "bce")


@pytest.mark.parametrize(("head", "loss"), [("sigmoid", "bce"), ("softmax", "cce")])
def test_nothing_is_skipped_before_outputs_that_round_to_0_and_1(head, loss, dtype):
    net = network(["sigmoid", "tanh", head], dtype=dtype)
    net.weights[-1][...] *= 1e4
    report = bp.check_gradients(net, *data(net), loss)
    skipped = {(t.term, t.layer) for t in report.terms if t.skipped}
    assert skipped == {("dC/da", 3)}  # of a alone, C is infinite


def test_the_network_is_not_changed_and_the_seed_decides_the_entries():
    net = network()
    before = net.parameters.copy()
    reports = [bp.check_gradients(net, *data(net), max_entries=3, seed=s) for s in (1, 1, 2)]
    np.testing.assert_array_equal(net.parameters, before)
    assert reports[0] == reports[1] != reports[2]


def test_only_so_many_entries_and_directions_are_checked():
    net = network()
    report = bp.check_gradients(net, *data(net), max_entries=2, directions=3)
    assert {term.checked for term in report.terms} == {5}


# ---- kinks ---------------------------------------------------------------------------------------


def test_what_would_cross_a_kink_is_skipped(dtype):
    net = network(["leaky_relu", "tanh", "sigmoid"], dtype=dtype)
    x, y = data(net)
    net.biases[0][1] -= net.forward(x).z[0][2, 1]  # z of sample 2, node 1 is 0, or all but
    report = bp.check_gradients(net, x, y, directions=0)
    skipped = {(t.term, t.layer): t.skipped for t in report.terms if t.skipped}
    assert skipped == {("delta", 1): 1, ("dC/db", 1): 1, ("dC/dW", 1): 3, ("dC/da", 0): 3}


@pytest.mark.parametrize("near", [1e-3, 1e-4, 1e-5])
def test_what_is_only_near_a_kink_is_checked_in_smaller_steps(near):
    net = network(["leaky_relu", "tanh", "sigmoid"])
    x, y = data(net)
    net.biases[0][1] += near - net.forward(x).z[0][2, 1]
    assert not any(t.skipped for t in bp.check_gradients(net, x, y).terms)


def test_a_straight_line_has_no_kink():
    net = network([bp.LeakyReLU(1.0), "tanh", "sigmoid"])
    x, y = data(net)
    net.biases[0][1] -= net.forward(x).z[0][2, 1]
    assert not any(t.skipped for t in bp.check_gradients(net, x, y).terms)


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_a_wrong_slope_is_found_beside_a_kink(slope):
    right = bp.LeakyReLU(0.2)
    wrong = replace(right, derivative=bp.LeakyReLU(slope).derivative)
    refuses(network([wrong, "tanh", "sigmoid"]), "delta", 1)


# ---- what is wrong -------------------------------------------------------------------------------


def wrong_in(term, layer, change):
    """Return a network whose backward changes one array after all else is done."""

    class Wrong(bp.MLP):
        def backward(self, *args, **options):
            grads = super().backward(*args, **options)
            group = {"dC/dW": "weights", "dC/db": "biases", "delta": "deltas"}.get(term)
            if group is None:
                change(grads.activations[layer])
            else:
                change(getattr(grads, group)[layer - 1])
            return grads

    return Wrong


def set_last(factor, addend):
    def change(array):
        last = (-1,) * array.ndim
        array[last] = array[last] * factor + addend

    return change


@pytest.mark.parametrize(("term", "layer"), TERMS)
@pytest.mark.parametrize(
    ("factor", "addend"), [(1 + 1e-3, 0), (-1, 0), (1, 1e-4), (1, np.nan), (1, np.inf)]
)
def test_one_wrong_entry_is_found_and_named(term, layer, factor, addend):
    net = network(kind=wrong_in(term, layer, set_last(factor, addend)))
    refuses(net, term, layer)


@pytest.mark.parametrize(("term", "layer"), [t for t in TERMS if t[1] < 2])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1.0])
def test_the_only_entry_is_found_if_it_is_wrong(term, layer, wrong):
    net = network(["tanh"], wrong_in(term, layer, set_last(0, wrong)), sizes=(1, 1))
    with pytest.raises(bp.GradientError, match=re.escape(f"{term} of layer {layer} is off")):
        bp.check_gradients(net, [[0.5]], [[0.1]])


@pytest.mark.parametrize(("term", "layer"), TERMS)
def test_one_wrong_entry_of_many_is_found_by_the_random_directions(term, layer):
    net = network(kind=wrong_in(term, layer, set_last(1, 1e-3)), sizes=(40, 50, 45, 40))
    refuses(net, term, layer, max_entries=1)


@pytest.mark.parametrize(("term", "layer"), TERMS)
def test_a_wrong_entry_of_a_float32_network_is_found(term, layer):
    refuses(network(kind=wrong_in(term, layer, set_last(-1, 0.01)), dtype="float32"), term, layer)


@pytest.mark.parametrize(("term", "layer"), TERMS)
@pytest.mark.parametrize(
    "factor", [0, 4, 0.25, 2]
)  # not averaged twice over 4 samples or 2 outputs
def test_a_factor_too_many_is_found(term, layer, factor):
    def change(array):
        array *= factor

    refuses(network(kind=wrong_in(term, layer, change)), term, layer)


def test_the_message_holds_both_numbers():
    net = network(kind=wrong_in("dC/dW", 2, set_last(0, 7)))
    with pytest.raises(bp.GradientError, match=r"at entry \(4, 3\): backward gives 7, finite diff"):
        bp.check_gradients(net, *data(net))


def off_by_one_entry(array):
    array.flat[array.size // 2] *= 1.001


class WrongGemm(NumpyBackend):
    def gemm(self, A, B, out):
        super().gemm(A, B, out)
        if out.shape == (5, 4):  # dC/dW of layer 2
            off_by_one_entry(out)


class WrongDelta(NumpyBackend):
    def delta(self, dC_da, activation, reference, delta, dC_db):
        super().delta(dC_da, activation, reference, delta, dC_db)
        if delta.shape[1] == 4:  # layer 1; its dC/db is still right
            off_by_one_entry(delta)


class WrongColumnSum(NumpyBackend):
    def delta(self, dC_da, activation, reference, delta, dC_db):
        super().delta(dC_da, activation, reference, delta, dC_db)
        if delta.shape[1] == 5:
            dC_db -= delta[-1]  # a row is lost


class WrongOutputDelta(NumpyBackend):
    def output_delta(self, loss, activation, z, a, y, C, dC_da=None, delta=None):
        super().output_delta(loss, activation, z, a, y, C, dC_da, delta)
        if delta is not None:
            off_by_one_entry(delta)


class WrongForward(NumpyBackend):
    def bias_activation(self, z, b, activation, a):
        super().bias_activation(z, b, activation, a)
        if a.shape[1] == 2:
            off_by_one_entry(a)


class DecayedBiases(NumpyBackend):
    def update(self, optimizer, parameters, gradient, state, numbers, decayed):
        super().update(optimizer, parameters, gradient, state, numbers, parameters.size)


class NoDecay(NumpyBackend):
    def update(self, optimizer, parameters, gradient, state, numbers, decayed):
        super().update(optimizer, parameters, gradient, state, numbers, 0)


@pytest.mark.parametrize(
    ("backend", "term", "layer"),
    [
        (WrongGemm(), "dC/dW", 2),
        (WrongDelta(), "delta", 1),
        (WrongColumnSum(), "dC/db", 2),
        (WrongOutputDelta(), "delta", 3),
        (WrongForward(), "dC/da", 3),
        (DecayedBiases(), "dC/db", 3),
        (NoDecay(), "dC/dW", 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, NumpyBackend) else str(value),
)
def test_a_wrong_backend_is_found(backend, term, layer):
    refuses(network(device=backend), term, layer, weight_decay=0.1)


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize(
    "g",
    [
        replace(find_activation("tanh"), derivative=lambda xp, a: 1 - a),
        replace(find_activation("tanh"), derivative_from="z"),
        replace(find_activation("gelu"), derivative=lambda xp, z: 1 / (1 + xp.exp(-1.702 * z))),
        replace(find_activation("softplus"), derivative=lambda xp, a: 1 - xp.exp(-1.001 * a)),
        replace(find_activation("softmax"), jacobian_product=None),
    ],
    ids=["tanh", "tanh of z", "gelu", "softplus", "softmax"],
)
def test_a_wrong_derivative_is_found_in_its_layer(g, layer):
    activations = ["silu", "tanh", "sigmoid"]
    activations[layer - 1] = g
    refuses(network(activations), "delta", layer)


@pytest.mark.parametrize(
    "gradient",
    [
        lambda xp, a, y: a - y,
        lambda xp, a, y: 2 * (a - y),
        lambda xp, a, y: (a - y) / len(a),
        lambda xp, a, y: y - a,
    ],
    ids=["half too much", "outputs forgotten", "samples twice", "the sign"],
)
def test_a_wrong_gradient_of_the_loss_is_found(gradient):
    wrong = replace(find_loss("mse"), gradient=gradient)
    refuses(network(sizes=(3, 4, 5, 3)), "dC/da", 3, wrong)


def test_a_pair_that_is_wrongly_called_canonical_is_found():
    refuses(network(), "delta", 3, replace(find_loss("mse"), canonical="sigmoid"))


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerance": 0},
        {"tolerance": -1},
        {"tolerance": np.nan},
        {"max_entries": 0},
        {"max_entries": 1.5},
        {"directions": -1},
        {"weight_decay": -0.1},
    ],
    ids=str,
)
def test_arguments_are_checked(wrong):
    net = network()
    with pytest.raises(bp.DomainError, match=next(iter(wrong))):
        bp.check_gradients(net, *data(net), **wrong)


def test_the_tolerance_is_ones_own():
    net = network(kind=wrong_in("dC/dW", 2, set_last(1.001, 0)))
    bp.check_gradients(net, *data(net), tolerance=0.01)

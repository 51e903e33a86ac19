"""Explanations: every number against a calculation that has no matrices, and every rendering."""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from host import launcher
from host.backend import emulated_backend

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.explaining.explain import explain, explain_activation, explain_bias
from backprop_gpu.explaining.formulas import Cases, Fraction, Leaf, Row, Scripts, to_text
from backprop_gpu.explaining.outline import with_numbers
from backprop_gpu.losses import LOSSES
from backprop_gpu.mlp import MLP

needs_gpp = pytest.mark.skipif(
    launcher.unavailable_reason() is not None, reason=str(launcher.unavailable_reason())
)
SIZES = (3, 4, 2, 3)
PAIRS = [
    (g, loss)
    for g in [*ACTIVATIONS, bp.LeakyReLU(-0.5)]
    for loss in LOSSES
    if LOSSES[loss].output_range is None or g in ("sigmoid", "softmax")
]
by_pair = pytest.mark.parametrize(("g", "loss"), PAIRS, ids=lambda value: str(value))


@pytest.fixture
def textbook():
    return bp.textbook(device="cpu")


def network(g, backend="cpu", dtype="float64", last=None):
    net = bp.MLP(SIZES, [g, g, last or g], device=backend, dtype=dtype, seed=3)
    random = np.random.default_rng(4)
    biases = [random.normal(size=b.shape) for b in net.biases]
    net.set_parameters([net.backend.to_numpy(W) for W in net.weights], biases)
    return net


def data(n):
    random = np.random.default_rng(n)
    return random.normal(size=(n, SIZES[0])), random.dirichlet(np.ones(SIZES[-1]), n)


def some_of_every_layer(net, x, y, loss, **options):
    """The explanation of a weight, a bias and an activation of every layer."""
    for l in (1, 2, 3):
        yield explain(net, x, y, l, l % SIZES[l], l % SIZES[l - 1], loss, **options)
        yield explain_bias(net, x, y, l, SIZES[l] - 1, loss, **options)
    for l, nodes in enumerate(SIZES):
        yield explain_activation(net, x, y, l, (l + 1) % nodes, loss, **options)


def values(term):
    return [float(part.values[0]) for part in term.parts]


# ---- the textbook network, in plain Python -------------------------------------------------------


def by_hand():
    """The textbook's forward feed and every dC/da, one node after the other."""
    random = np.random.RandomState(42)
    x = [int(v) / 100 for v in random.randint(1, 100, 5)]
    y = [int(v) / 100 for v in random.randint(1, 100, 4)]
    W = [random.random_sample(shape).tolist() for shape in ((3, 5), (5, 3), (4, 5))]
    a = [x]
    for l in range(3):
        z = [sum(w * v for w, v in zip(row, a[-1], strict=True)) for row in W[l]]
        a.append([v if l == 0 else 1 / (1 + math.exp(-v)) for v in z])  # no z is negative here
    slopes = [None, [1.0] * 3, *([v * (1 - v) for v in layer] for layer in a[2:])]
    dC_da = [None, None, None, [2 / 4 * (p - q) for p, q in zip(a[3], y, strict=True)]]
    for l in (2, 1, 0):
        dC_da[l] = [
            sum(dC_da[l + 1][q] * slopes[l + 1][q] * W[l][q][k] for q in range(len(W[l])))
            for k in range(len(a[l]))
        ]
    return W, a, slopes, dC_da


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_weight_of_the_textbook_is_a_product_of_three(layer, textbook):
    _, a, slopes, dC_da = by_hand()
    for j in range(len(a[layer])):
        for k in range(len(a[layer - 1])):
            e = explain(*textbook, layer, j, k)
            three = [dC_da[layer][j], slopes[layer][j], a[layer - 1][k]]
            assert values(e.term) == pytest.approx(three, rel=1e-13)
            assert e.value == pytest.approx(math.prod(three), rel=1e-13)
            assert e.backward == pytest.approx(e.value, rel=1e-13)
            assert [part.role for part in e.term.parts] == [
                "loss term",
                "activation term",
                "input term",
            ]


def test_known_numbers(textbook):
    """To every digit that is printed, so that a change of convention can't go unseen."""
    assert explain(*textbook, 3, 1, 2).value == pytest.approx(0.0029349224802, rel=1e-9)
    assert explain(*textbook, 2, 1, 2).value == pytest.approx(0.001382674, rel=1e-6)
    assert explain(*textbook, 1, 1, 2).value == pytest.approx(0.0006895659, rel=1e-6)
    assert explain(*textbook, 3, 1, 2, "sse").value == pytest.approx(4 * 0.0029349224802, rel=1e-9)


@pytest.mark.parametrize("layer", [1, 2])
def test_a_hidden_nodes_loss_term_is_a_sum_over_the_next_layer(layer, textbook):
    W, a, slopes, dC_da = by_hand()
    for j in range(len(a[layer])):
        loss_term = explain(*textbook, layer, j, 0).term.parts[0]
        assert loss_term.rule == "sum"
        assert loss_term.omitted == 0
        assert sorted(part.node for part in loss_term.parts) == [*range(len(a[layer + 1]))]
        for part in loss_term.parts:
            q = part.node
            three = [dC_da[layer + 1][q], slopes[layer + 1][q], W[layer][q][j]]
            assert values(part) == pytest.approx(three, rel=1e-13)
        sizes = [abs(v) for v in values(loss_term)]
        assert sizes == sorted(sizes, reverse=True)
        assert float(loss_term.values[0]) == pytest.approx(dC_da[layer][j], rel=1e-13)


@pytest.mark.parametrize("layer", range(4))
def test_activations_and_the_input(layer, textbook):
    _, a, _, dC_da = by_hand()
    for k in range(len(a[layer])):
        e = explain_activation(*textbook, layer, k)
        assert e.value == pytest.approx(dC_da[layer][k], rel=1e-13)
        assert e.term.rule == ("sum" if layer < 3 else "function")


def test_a_bias_has_1_in_the_place_of_the_input(textbook):
    _, _, slopes, dC_da = by_hand()
    e = explain_bias(*textbook, 2, 3)
    assert values(e.term) == pytest.approx([dC_da[2][3], slopes[2][3], 1], rel=1e-13)
    assert e.parameter == 0
    assert (e.name, e.where) == ("dC/db_3[2]", "grads.biases[1][3]")


# ---- every activation with every loss ------------------------------------------------------------

FUNCTIONS = {
    "sigma": lambda z: 1 / (1 + math.exp(-z)),
    "Phi": lambda z: math.erfc(-z / math.sqrt(2)) / 2,
    "phi": lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    "ln": math.log,
    "max": max,
    "tanh": math.tanh,
    "e": math.e,
    "float": float,
}


def python(node):
    """A formula of numbers as Python: operands next to each other are multiplied."""
    match node:
        case Leaf(_, _, "mspace"):
            return ""
        case Leaf(text):
            signs = {"[": "float(", "]": ")", "=": "=="}
            return signs.get(text, f"({text})" if node.element == "mn" else text)
        case Row(items):
            source = ""
            for item in filter(None, map(python, items)):
                end = re.search(r"\w+$|\)$", source)
                starts = re.match(r"[\w(]", item)
                call = end and end[0] in FUNCTIONS and end[0] != "e"
                source += "*" if end and starts and not call else ""
                source += item
            return source
        case Fraction(above, below):
            return f"(({python(above)})/({python(below)}))"
        case Scripts(base, None, sup):
            return f"(({python(base)})**({python(sup)}))"
        case Cases(((value, condition), (other, _))):
            return f"({python(value)} if {python(condition)} else {python(other)})"
    raise AssertionError(f"{node} has an index and no number")


def assert_made_of_its_parts(term, tolerance=1e-11):
    """Every value follows from those below it, by the rule that it states."""
    for part in term.walk():
        below = [p.values for p in part.parts]
        scale = np.abs(part.values).max() + 1e-300
        if part.rule == "product":
            np.testing.assert_allclose(part.values, math.prod(below), rtol=1e-14)
        elif part.rule == "sum":
            assert part.omitted or not part.omitted_values.any()
            scale = np.abs(below).sum(0).max() + scale
            total = np.sum(below, axis=0) + part.omitted_values
            np.testing.assert_allclose(part.values, total, rtol=0, atol=1e-14 * scale)
        elif part.rule == "function":
            for i, value in enumerate(part.values):
                own = eval(python(with_numbers(part, i, digits=17)), dict(FUNCTIONS))
                assert value == pytest.approx(own, rel=tolerance, abs=tolerance), part.name
        else:
            assert part.rule == "value"
            assert not part.parts


@by_pair
@pytest.mark.parametrize("n", [1, 3])
def test_a_tree_to_full_depth_is_made_of_its_parts(g, loss, n):
    net, (x, y) = network(g), data(n)
    grads = net.backward(net.forward(x), y, loss)
    for e in some_of_every_layer(net, x, y, loss, depth="full"):
        assert_made_of_its_parts(e.term)
        assert e.samples == n
        assert e.value == pytest.approx(float(e.term.values.mean()), rel=1e-14)
        l, j, k = e.layer, e.j, e.k
        if e.kind == "weight":
            expected = grads.weights[l - 1][j, k]
            assert e.parameter == net.weights[l - 1][j, k]
        elif e.kind == "bias":
            expected = grads.biases[l - 1][j]
        else:
            expected = grads.activations[l][:, k].sum()
        assert e.backward == expected
        assert eval(e.where, {"grads": grads}) == expected
        assert e.value == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("pair", [("silu", None, "sse"), ("tanh", "softmax", "mse")], ids=str)
def test_every_backend_and_dtype_gives_the_same(pair, backend, dtype):
    g, last, loss = pair
    net, twin = network(g, backend, dtype, last), network(g, "cpu", "float64", last)
    arrays = ([net.backend.to_numpy(array) for array in own] for own in (net.weights, net.biases))
    twin.set_parameters(*arrays)
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    x, y = (array.astype(dtype) for array in data(3))
    ways = [some_of_every_layer(own, x, y, loss, depth="full") for own in (net, twin)]
    for e, exact in zip(*ways, strict=True):
        assert e.value == pytest.approx(exact.value, rel=tolerance, abs=tolerance / 10)
        assert_made_of_its_parts(e.term, tolerance)


# ---- depth ---------------------------------------------------------------------------------------


def rules(e, l):
    """How the loss terms of a layer come about."""
    pattern = re.compile(rf"dC/da_\d+\[{l}\]")
    return {part.rule for part in e.term.walk() if pattern.fullmatch(part.name)}


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (0, ({"value"}, set(), set())),
        (1, ({"sum"}, {"value"}, set())),
        (None, ({"sum"}, {"value"}, set())),
        (2, ({"sum"}, {"sum"}, {"function"})),
        (np.int64(2), ({"sum"}, {"sum"}, {"function"})),
        (3, ({"sum"}, {"sum"}, {"function"})),
        ("full", ({"sum"}, {"sum"}, {"function"})),
    ],
)
def test_depth_is_how_often_a_loss_term_is_taken_apart(depth, expected, textbook):
    e = explain(*textbook, 1, 0, 0, depth=depth)
    assert tuple(rules(e, l) for l in (1, 2, 3)) == expected
    assert e.value == pytest.approx(explain(*textbook, 1, 0, 0).value, rel=1e-14)


def test_depth_does_not_matter_at_the_output(textbook):
    assert str(explain(*textbook, 3, 0, 0, depth=0)) == str(explain(*textbook, 3, 0, 0))


def test_a_node_that_many_hear_from_is_explained_once(textbook):
    """dC/da_q[3] is in the sum of every node of layer 2: that is why it goes backward."""
    terms = list(explain(*textbook, 1, 0, 0, depth="full").term.walk())
    names = [t.name for t in terms if t.name.startswith("dC/da") and "*" not in t.name]
    assert len(names) == len(set(names)) == 1 + 5 + 4


# ---- batches -------------------------------------------------------------------------------------


def test_products_are_averaged_and_not_factors():
    net, (x, y) = network("tanh"), data(3)
    e = explain(net, x, y, 2, 1, 3, "sse")
    alone = [explain(net, x[i : i + 1], y[i : i + 1], 2, 1, 3, "sse") for i in range(3)]
    np.testing.assert_allclose(e.term.values, [one.value for one in alone], rtol=1e-13)
    assert e.value == pytest.approx(np.mean([one.value for one in alone]), rel=1e-13)
    wrong = math.prod(part.values.mean() for part in e.term.parts)
    assert abs(e.value - wrong) > 1e-3 * abs(e.value)
    assert f"{wrong:.7g}, is something else" in str(e)
    assert e.term.name == "dC_i/dw_1,3[2]"
    assert e.name == "dC/dw_1,3[2]"


def test_of_many_samples_the_largest_are_shown():
    net, (x, y) = network("tanh"), data(50)
    e = explain(net, x, y, 3, 0, 0, largest=2)
    assert len(e.term.values) == 50
    table = re.search(r"\n  +i .*?\n\n", str(e), re.DOTALL)[0]
    order = np.argsort(-np.abs(e.term.values))
    assert [int(i) for i in re.findall(r"^ +(\d+)  ", table, re.MULTILINE)] == [*order[:2]]
    assert f"{e.term.values[order[2:]].sum():.7g}" in table
    assert "48 more" in table
    assert "sum / 50 = dC/dw_0,0[3]" in table


# ---- large networks ------------------------------------------------------------------------------


def test_the_largest_summands_are_shown_and_the_rest_is_summed_up(textbook):
    whole = explain_activation(*textbook, 1, 0, largest=5).term
    some = explain_activation(*textbook, 1, 0, largest=2).term
    assert [part.node for part in some.parts] == [part.node for part in whole.parts[:2]]
    assert (whole.omitted, some.omitted) == (0, 3)
    rest = sum(float(part.values[0]) for part in whole.parts[2:])
    assert float(some.omitted_values[0]) == pytest.approx(rest, rel=1e-13)
    assert "3 more" in str(explain_activation(*textbook, 1, 0, largest=2))


def test_a_wide_network_sends_no_matrix_to_the_cpu(monkeypatch):
    net = bp.MLP([9, 4096, 4096, 11], ["silu", "tanh", "softmax"], device="cpu", seed=1)
    random = np.random.default_rng(2)
    x, y = random.normal(size=(3, 9)), random.dirichlet(np.ones(11), 3)
    fetched = []
    to_numpy = net.backend.to_numpy

    def counted(array):
        fetched.append(array.size)
        return to_numpy(array)

    monkeypatch.setattr(net.backend, "to_numpy", counted, raising=False)
    e = explain(net, x, y, 1, 4095, 8, "cce")
    assert [part.rule for part in e.term.parts] == ["sum", "function", "value"]
    assert len(list(e.term.walk())) < 60
    assert max(fetched) <= 4096  # how large each summand of a layer is, to choose the largest
    assert sum(fetched) < 2 * 4096
    assert e.term.parts[0].omitted == 4091

    deep = explain_activation(net, x, y, 0, 8, "mse", depth="full")
    assert len(list(deep.term.walk())) < 1000
    assert sum(fetched) < 30 * 4096
    assert max(map(len, str(e).splitlines())) <= 80


# ---- exact where numbers are extreme -------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "loss", "y", "dC_da"),
    [
        ("sigmoid", "bce", [1.0, 0.0], [-1, 1]),
        ("sigmoid", "bce", [0.0, 1.0], [math.inf, -math.inf]),
        ("softmax", "cce", [1.0, 0.0], [-1, 0]),
        ("softmax", "cce", [0.0, 1.0], [0, -math.inf]),
    ],
)
def test_a_saturated_output_is_exact_with_the_loss_that_goes_with_it(output, loss, y, dC_da):
    net = bp.MLP([2, 2, 2], ["tanh", output], device="cpu", dtype="float32")
    net.set_parameters([np.eye(2), [[1e4, 0], [0, 1e4]]], [np.zeros(2), np.zeros(2)])
    book = net, [[9.0, -9.0]], [y]  # z is 1e4 and -1e4, a is 1 and 0
    for j, a in enumerate((1, 0)):
        e = explain(*book, 2, j, 1, loss)
        delta, input_term = e.term.parts
        assert delta.values == a - y[j]
        assert to_text(delta.equation[-1]) == "a_j - y_j"
        assert e.value == (a - y[j]) * float(input_term.values[0])
        assert_made_of_its_parts(explain(*book, 1, j, 0, loss).term, 1e-5)
        output_term = explain_activation(*book, 2, j, loss)
        assert output_term.value == output_term.backward == dC_da[j]
        assert f"dC/da_{j}[2] = {dC_da[j]}" in str(output_term)


def test_where_the_chain_rule_has_no_finite_value():
    net = bp.MLP([1, 1], ["sigmoid"], device="cpu", dtype="float64")
    net.set_parameters([[[1e4]]], [[0.0]])
    with pytest.raises(bp.NonFiniteError, match=r"has no finite value: dC/da_0\[1\] is -inf"):
        explain(net, [[-1.0]], [[1.0]], 1, 0, 0, "categorical_cross_entropy")


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(4))
def test_rounding_is_never_taken_for_an_error(scale, seed):
    """Wide layers, cancelling sums, numbers near the ends of float32: no false alarm."""
    random = np.random.default_rng(seed)
    net = bp.MLP([40, 200, 30, 7], ["gelu", "tanh", "softmax"], device="cpu", seed=seed)
    net.set_parameters(
        [random.normal(size=W.shape) * scale for W in net.weights],
        [random.normal(size=b.shape) for b in net.biases],
    )
    x, y = random.normal(size=(20, 40)), random.dirichlet(np.ones(7), 20)
    for loss in ("cce", "mse"):
        for l, j, k in ((1, 5, 6), (2, 3, 4), (3, 1, 2)):
            explain(net, x, y, l, j, k, loss, depth="full")
            explain_activation(net, x, y, l, j, loss)


# ---- the comparison with backward ----------------------------------------------------------------


@pytest.fixture
def tampered(monkeypatch, textbook):
    """The textbook network; tamper(change) lets backward's gradients be changed."""
    backward = MLP.backward

    def tamper(change):
        def wrong(self, *args, **options):
            grads = backward(self, *args, **options)
            change(grads)
            return grads

        monkeypatch.setattr(MLP, "backward", wrong)
        return textbook

    return tamper


def test_a_wrong_weight_gradient_is_found(tampered):
    def change(grads):
        grads.weights[1][1, 2] *= 1 + 1e-12

    with pytest.raises(bp.GradientError, match=r"dC/dw_1,2\[2\] is 0\.00138.*in backward.*differ"):
        explain(*tampered(change), 2, 1, 2)


def test_a_wrong_bias_gradient_is_found(tampered):
    def change(grads):
        grads.biases[2][0] += 1e-12

    with pytest.raises(bp.GradientError, match=r"dC/db_0\[3\]"):
        explain_bias(*tampered(change), 3, 0)


def test_a_wrong_sum_is_found_where_it_is(tampered):
    def change(grads):
        grads.activations[2][0, 3] *= 1 + 1e-12

    tampered = tampered(change)
    with pytest.raises(bp.GradientError, match=r"dC/da_3\[2\]"):
        explain_activation(*tampered, 2, 3)
    with pytest.raises(bp.GradientError, match=r"dC/da_3\[2\]"):
        explain(*tampered, 1, 0, 0, depth=2)


def test_rounding_is_no_difference(tampered):
    def change(grads):
        for array in (*grads.weights, *grads.biases):
            array[...] = np.nextafter(array, 1)

    explain(*tampered(change), 2, 1, 2)


@needs_gpp
def test_a_kernel_with_another_derivative_is_found():
    g = bp.Activation(
        "cubic",
        function=lambda xp, z: z**3,
        derivative=lambda xp, z: 3 * z**2,
        derivative_from="z",
        cuda="z * z * z",
        cuda_derivative="real(3) * z",
    )
    net = network(g, emulated_backend(), last="identity")
    with pytest.raises(bp.GradientError, match="by the chain rule"):
        explain(net, *data(1), 1, 0, 0)


# ---- what users add ------------------------------------------------------------------------------


def test_entries_without_formulas():
    g = bp.Activation("mine", lambda xp, z: z * 2, lambda xp, z: xp.full_like(z, 2), "z")
    loss = bp.Loss("cubes", lambda xp, a, y: (a**3).sum(axis=1), lambda xp, a, y: 3 * a**2)
    net, (x, y) = network(g), data(1)
    e = explain(net, x, y, 3, 1, 0, loss)
    assert [part.rule for part in e.term.parts] == ["value", "function", "value"]
    assert "g'(z_j)" in str(e)
    assert "as backward has it" in str(e)
    ET.fromstring(e._repr_html_())


def test_an_activation_of_whole_rows_that_is_not_softmax():
    """Its Jacobian has no formula here: dC/dz is shown as it is."""
    g = bp.Activation(
        "centred",
        function=lambda xp, z: z - z.mean(axis=-1, keepdims=True),
        derivative=lambda xp, z: xp.ones_like(z),
        derivative_from="z",
        jacobian_product=lambda xp, dC_da, z: dC_da - dC_da.mean(axis=-1, keepdims=True),
    )
    net, (x, y) = network(g), data(3)
    for e in some_of_every_layer(net, x, y, "mse", depth="full"):
        assert e.value == pytest.approx(e.backward, rel=1e-9, abs=1e-15)
    e = explain(net, x, y, 2, 0, 0)
    assert [part.name for part in e.term.parts] == ["dC_i/dz_0[2]", "dz_0[2]/dw_0,0[2]"]
    assert e.term.parts[0].rule == "value"


# ---- what is wrong is said -----------------------------------------------------------------------

WRONG = [
    (
        lambda n, x, y: explain(n, x, y, 0, 0, 0),
        "layer is 0; expected .* 1 to 3; layer 0 is the in",
    ),
    (lambda n, x, y: explain(n, x, y, 4, 0, 0), "layer is 4; expected a whole number from 1 to 3"),
    (lambda n, x, y: explain(n, x, y, -1, 0, 0), "layer is -1"),
    (lambda n, x, y: explain(n, x, y, True, 0, 0), "layer is True"),
    (lambda n, x, y: explain(n, x, y, 1.0, 0, 0), "layer is 1.0"),
    (lambda n, x, y: explain(n, x, y, None, 0, 0), "layer is None"),
    (lambda n, x, y: explain(n, x, y, 3, 4, 0), "j is 4; layer 3 has 4 .* from 0 to 3"),
    (lambda n, x, y: explain(n, x, y, 3, -1, 0), "j is -1; layer 3"),
    (lambda n, x, y: explain(n, x, y, 3, 0.0, 0), "j is 0.0; layer 3"),
    (lambda n, x, y: explain(n, x, y, 3, False, 0), "j is False"),
    (lambda n, x, y: explain(n, x, y, 3, 0, 5), "k is 5; layer 2 has 5 .* from 0 to 4"),
    (lambda n, x, y: explain(n, x, y, 1, 0, "2"), "k is '2'; layer 0 has 5"),
    (lambda n, x, y: explain_bias(n, x, y, 0, 0), "layer is 0"),
    (lambda n, x, y: explain_bias(n, x, y, 1, 3), "j is 3; layer 1 has 3"),
    (lambda n, x, y: explain_activation(n, x, y, 4, 0), "layer is 4; .* from 0 to 3"),
    (lambda n, x, y: explain_activation(n, x, y, 0, 5), "k is 5; layer 0 has 5"),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, depth=-1), 'depth is -1; .* 0 or above, or "full"'),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, depth=1.5), "depth is 1.5"),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, depth=True), "depth is True"),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, depth="all"), "depth is 'all'"),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, largest=0), "largest is 0; .* 1 or above"),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, largest=2.0), "largest is 2.0"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message for _, message in WRONG])
def test_options_that_are_wrong(call, message, textbook):
    with pytest.raises(bp.DomainError, match=message):
        call(*textbook)


def test_data_and_losses_that_are_wrong(textbook):
    net, x, y = textbook
    with pytest.raises(bp.UnknownNameError, match=r"'msee'.*'mse'"):
        explain(net, x, y, 1, 0, 0, "msee")
    with pytest.raises(bp.DomainError, match="targets from"):
        explain(net, x, y + 1, 1, 0, 0, "bce")
    with pytest.raises(bp.DomainError, match="'binary_cross_entropy' needs outputs between 0"):
        explain(network("tanh"), *data(1), 1, 0, 0, "bce")
    with pytest.raises(bp.NonFiniteError, match="x holds 1 value"):
        explain(net, np.where(x == x[0, 0], np.nan, x), y, 1, 0, 0)
    with pytest.raises(bp.ShapeError, match=r"x has shape \(5,\)"):
        explain(net, x[0], y, 1, 0, 0)
    with pytest.raises(bp.ShapeError, match="x has 2 rows and y has 1"):
        explain(net, np.repeat(x, 2, 0), y, 1, 0, 0)


# ---- values --------------------------------------------------------------------------------------


def test_an_explanation_is_a_value(textbook):
    net, x, y = textbook
    before = net.parameters.copy()
    e = explain(net, x, y, 2, 1, 2)
    with pytest.raises(FrozenInstanceError):
        e.value = 0.0
    with pytest.raises(FrozenInstanceError):
        e.term.values = None
    for part in e.term.walk():
        assert part.values.shape == part.omitted_values.shape == (1,)
        assert part.values.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            part.values[0] = 0
    assert replace(e, loss="other").loss == "other"
    np.testing.assert_array_equal(net.parameters, before)
    assert repr(e) == "<Explanation dC/dw_1,2[2] = 0.001382674: 37 terms>"


def test_numpy_integers_are_indices(textbook):
    e = explain(*textbook, np.int64(3), np.uint8(1), np.int32(2))
    assert (e.layer, e.j, e.k) == (3, 1, 2)
    assert type(e.j) is int


# ---- renderings ----------------------------------------------------------------------------------

OUTPUT_WEIGHT = """\
dC/dw_1,2[3] = 0.002934922
the weight from node 2 of layer 2 to node 1 of layer 3, now 0.3910606
MLP(5-3-5-4; leaky_relu(0.1), sigmoid, sigmoid; float64 on cpu)
loss mse, C = 0.1059626, 1 sample

dC/dw_jk[3] = dC/da_j[3] * da_j[3]/dz_j[3] * dz_j[3]/dw_jk[3]

  loss term        dC/da_1[3]         0.03327859   = 2/m (a_j - y_j)
                                                   = 2/4 (0.8965572 - 0.83)
  activation term  da_1[3]/dz_1[3]    0.09274241   = a_j (1 - a_j)
                                                   = 0.8965572 (1 - 0.8965572)
  input term       dz_1[3]/dw_1,2[3]  0.9509406    = a_k[2]
  -----------------------------------------------
  product          dC/dw_1,2[3]       0.002934922

The matrix products of backward give the same, to rounding:
  grads.weights[2][1, 2] = 0.002934922"""

INPUT = """\
dC/da_2[0] = 0.000842468
input 2
MLP(5-3-5-4; leaky_relu(0.1), sigmoid, sigmoid; float64 on cpu)
loss mse, C = 0.1059626, 1 sample

dC/da_k[0] = sum_q dC/da_q[1] * da_q[1]/dz_q[1] * w_qk[1]
  da_q[1]/dz_q[1] = 1 where z_q > 0, 0.1 where z_q <= 0
  w_qk[1]         = dz_q[1]/da_k[0]
"""


def test_text_of_an_output_weight(textbook):
    assert str(explain(*textbook, 3, 1, 2)) == OUTPUT_WEIGHT


def test_text_of_an_input(textbook):
    text = str(explain_activation(*textbook, 0, 2, largest=2))
    assert text.startswith(INPUT)
    assert re.search(r"1 more +[-\d.e]+\n +sum = dC/da_2\[0\] +0\.000842468", text)


def batch(g, loss, n, k):
    return explain(network(g, last="softmax"), *data(n), 1, 1, k, loss, depth="full", largest=2)


RENDERED = {
    "a weight": lambda book: explain(*book, 3, 1, 2),
    "to full depth": lambda book: explain(*book, 1, 1, 2, depth="full"),
    "a bias": lambda book: explain_bias(*book, 3, 0, "bce"),
    "an output": lambda book: explain_activation(*book, 3, 0, "bce"),
    "one number": lambda book: explain_activation(*book, 2, 0, depth=0),
    "silu": lambda book: batch("silu", "cce", 1, 0),
    "gelu, a batch": lambda book: batch("gelu", "mse", 3, 1),
    "relu, a batch": lambda book: batch("relu", "sse", 3, 2),
}


@pytest.mark.parametrize("name", RENDERED)
def test_every_rendering(name, textbook):
    e = RENDERED[name](textbook)
    text = str(e)
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"[^\x20-\x7e\n]", text)
    assert not re.search(r" $|\\", text, re.MULTILINE)

    html = ET.fromstring(e._repr_html_())
    numbers = "".join(html.itertext())
    assert f"{e.backward:.7g}" in numbers
    assert not re.search(r"https?://(?!www\.w3\.org/1998/Math/MathML)", e._repr_html_())
    assert html.find(".//script") is None
    for table in html.iter("table"):
        widths = {sum(int(c.get("colspan", 1)) for c in row) for row in table.iter("tr")}
        assert len(widths) == 1

    latex = e.latex()
    assert latex.startswith("\\begin{align*}\n")
    assert latex.endswith("\n\\end{align*}")
    assert e._repr_latex_().startswith("$$\n\\begin{aligned}")
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", latex):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    for line in latex.split("\\\\\n"):
        assert re.sub(r"\\begin\{cases\}.*?\\end\{cases\}", "", line).count("&") == 1
    assert latex.count(r"\Bigl(") == latex.count(r"\Bigr)")
    assert len(re.findall(r"\\begin", latex)) == len(re.findall(r"\\end", latex))
    # Nothing but commands that LaTeX with amsmath knows.
    known = "begin end frac partial cdot sum quad underbrace text times Bigl Bigr bigl bigr"
    known += " sigma varphi Phi le max tanh ln"
    assert set(re.findall(r"\\([a-zA-Z]+)", latex)) <= set(known.split())

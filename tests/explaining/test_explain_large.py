"""Explanations of deep trees, many samples, wide layers and extreme numbers."""

import math
import re

import numpy as np
import pytest
from explained import assert_made_of_its_parts, data, network

import backprop_gpu as bp
from backprop_gpu.explaining.explain import explain, explain_activation
from backprop_gpu.explaining.formulas import to_text

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

"""Explanations: every number against a calculation that has no matrices."""

import math

import numpy as np
import pytest
from explained import assert_made_of_its_parts, data, network, some_of_every_layer

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.explaining.explain import explain, explain_activation, explain_bias
from backprop_gpu.losses import LOSSES

PAIRS = [
    (g, loss)
    for g in [*ACTIVATIONS, bp.LeakyReLU(-0.5)]
    for loss in LOSSES
    if LOSSES[loss].output_range is None or g in ("sigmoid", "softmax")
]
by_pair = pytest.mark.parametrize(("g", "loss"), PAIRS, ids=lambda value: str(value))


def values(term):
    return [float(part.values[0]) for part in term.parts]


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

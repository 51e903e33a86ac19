"""Jumping Back: playing it is backpropagation."""

import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.explaining.jump_back import jump_back
from backprop_gpu.losses import LOSSES

PAIRS = [
    (g, loss)
    for g in [*ACTIVATIONS, bp.LeakyReLU(-0.5)]
    for loss in LOSSES
    if LOSSES[loss].output_range is None or g in ("sigmoid", "softmax")
]


def network(g, backend="cpu", dtype="float64", hidden="tanh"):
    return bp.MLP([5, 3, 6, 4], [g, hidden, g], device=backend, dtype=dtype, seed=1)


def data(n):
    random = np.random.default_rng(n)
    return random.normal(size=(n, 5)), random.dirichlet(np.ones(4), n)


def assert_is_backpropagation(jumps, net, x, y, loss):
    """When all jumps are made, every gradient of backward has been met, bit for bit."""
    grads = net.backward(net.forward(x), y, loss)
    met = {}
    for jump in jumps:
        l = jump.layer
        if jump.kind == "loss":
            met["dC/da", l] = jump.gradient
        elif jump.kind == "activation":
            met["delta", l] = jump.gradient
        elif jump.kind == "weights and biases":
            met["dC/dW", l], met["dC/db", l] = jump.dC_dW, jump.dC_db
        else:
            met["dC/da", l - 1] = jump.gradient
    expected = {("dC/da", 0): grads.activations[0]}
    for l in (1, 2, 3):
        expected["dC/da", l] = grads.activations[l]
        expected["delta", l] = grads.deltas[l - 1]
        expected["dC/dW", l] = grads.weights[l - 1]
        expected["dC/db", l] = grads.biases[l - 1]
    assert met.keys() == expected.keys()
    for name, array in expected.items():
        own, other = (net.backend.to_numpy(a) for a in (met[name], array))
        np.testing.assert_array_equal(own, other, err_msg=str(name))


@pytest.mark.parametrize(("g", "loss"), PAIRS, ids=str)
@pytest.mark.parametrize("n", [1, 4])  # 4 is as wide as the output
def test_playing_it_is_backpropagation(g, loss, n):
    net, (x, y) = network(g), data(n)
    assert_is_backpropagation(jump_back(net, x, y, loss), net, x, y, loss)


@pytest.mark.parametrize(("g", "loss"), [("softmax", "cce"), ("sigmoid", "mse"), ("relu", "sse")])
def test_on_every_backend(g, loss, backend, dtype):
    net, (x, y) = network(g, backend, dtype, hidden="gelu"), data(3)
    jumps = jump_back(net, x, y, loss)
    assert_is_backpropagation(jumps, net, x, y, loss)
    assert all(jump.gradient.dtype == dtype for jump in jumps)
    assert str(jumps[2]).startswith("arrived at the weights and biases of layer 3")


def test_the_rules_of_the_game():
    """What the words say, done with nothing but the words."""
    net, x, y = bp.textbook(device="cpu")
    trace = net.forward(x)
    collected = None
    for jump in jump_back(net, x, y):
        l = jump.layer
        if jump.kind == "loss":
            collected = 2 / 4 * (trace.output - y)
        elif jump.kind == "activation":
            a = trace.a[l]
            collected = collected * (a * (1 - a) if l > 1 else 1.0)
        elif jump.kind == "weights and biases":
            np.testing.assert_allclose(jump.dC_db, collected[0], rtol=1e-14)
            np.testing.assert_allclose(jump.dC_dW, collected.T @ trace.a[l - 1], rtol=1e-14)
        else:
            collected = collected @ net.weights[l - 1]
        np.testing.assert_allclose(jump.gradient, collected, rtol=1e-13)


def test_order_shapes_and_updates():
    jumps = jump_back(*bp.textbook(device="cpu"))
    assert [(jump.kind, jump.layer, jump.shape, jump.updates) for jump in jumps] == [
        ("loss", 3, (1, 4), ()),
        ("activation", 3, (1, 4), ()),
        ("weights and biases", 3, (1, 4), ("W[3]", "b[3]")),
        ("weights", 3, (1, 5), ()),
        ("activation", 2, (1, 5), ()),
        ("weights and biases", 2, (1, 5), ("W[2]", "b[2]")),
        ("weights", 2, (1, 3), ()),
        ("activation", 1, (1, 3), ()),
        ("weights and biases", 1, (1, 3), ("W[1]", "b[1]")),
        ("weights", 1, (1, 5), ()),
    ]


@pytest.mark.parametrize(
    ("g", "loss", "texts"),
    [
        (
            "sigmoid",
            "mse",
            [
                "dC/da[3] = 1/n dC_i/da[3], dC_i/da_j = 2/m (a_j - y_j)",
                "delta[3] = dC/da[3] * g'(z[3]), g' = a (1 - a)",
                "dC/dW[3] = (delta[3])^T a[2], dC/db[3] = sum_i delta_i[3]",
                "dC/da[2] = delta[3] W[3]",
            ],
        ),
        (
            "softmax",
            "cce",
            [
                "dC/da[3] = 1/n dC_i/da[3], dC_i/da_j = -y_j/a_j",
                "delta_j[3] = sum_q dC/da_q[3] * da_q[3]/dz_j[3] = 1/n (a_j[3] - y_j)",
            ],
        ),
        ("sigmoid", "bce", [None, "delta[3] = dC/da[3] * g'(z[3]) = 1/n (a[3] - y)"]),
        ("softmax", "mse", [None, "delta_j[3] = sum_q dC/da_q[3] * da_q[3]/dz_j[3]"]),
    ],
)
def test_formulas(g, loss, texts):
    jumps = jump_back(network(g), *data(2), loss)
    for jump, text in zip(jumps, texts, strict=False):
        assert text in (None, jump.text)
        assert jump.formula.count("{") == jump.formula.count("}")


def test_entries_without_formulas():
    g = bp.Activation("mine", lambda xp, z: z * 2, lambda xp, z: xp.full_like(z, 2), "z")
    loss = bp.Loss("cubes", lambda xp, a, y: (a**3).sum(axis=1), lambda xp, a, y: 3 * a**2)
    jumps = jump_back(network(g), *data(2), loss)
    assert jumps[0].text == "dC/da[3] = 1/n dC_i/da[3]"
    assert jumps[1].text == "delta[3] = dC/da[3] * g'(z[3])"


ARRIVED = """\
arrived at the weights and biases of layer 3

  dC/dW[3] = (delta[3])^T a[2]
  dC/db[3] = sum_i delta_i[3]

  dC/dW[3], shape (4, 5):
    0.040272    0.037805    0.041289    0.037244    0.040673
    0.0028627   0.0026873   0.0029349   0.0026474   0.0028912
    0.00017305  0.00016245  0.00017741  0.00016003  0.00017477
    0.0054736   0.0051383   0.0056118   0.005062    0.0055281

  dC/db[3], shape (4,):
    0.043419  0.0030863  0.00018657  0.0059013"""


def test_text():
    assert str(jump_back(*bp.textbook(device="cpu"))[2]) == ARRIVED


def test_repr():
    assert repr(jump_back(*bp.textbook(device="cpu"))[3]) == (
        "Jump(over the weights of layer 3: dC/da[2] = delta[3] W[3]; shape (1, 5))"
    )


def test_large_arrays_are_shown_in_part():
    net = bp.MLP([300, 200, 100], device="cpu")
    x, y = np.ones((50, 300)), np.ones((50, 100))
    for jump in jump_back(net, x, y):
        lines = str(jump).splitlines()
        assert len(lines) < 20
        assert max(map(len, lines)) <= 80
        assert re.search(r"\.\.\.$", lines[-1])


def test_a_jump_is_a_value():
    jump = jump_back(*bp.textbook(device="cpu"))[0]
    with pytest.raises(FrozenInstanceError):
        jump.layer = 2


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (bp.ShapeError, "x has 2 rows and y has 1", lambda x, y: (np.repeat(x, 2, 0), y, "mse")),
        (bp.ShapeError, r"x has shape \(5,\)", lambda x, y: (x[0], y, "mse")),
        (bp.NonFiniteError, "y holds 4 value", lambda x, y: (x, y * np.nan, "mse")),
        (bp.DomainError, "targets from", lambda x, y: (x, y + 1, "bce")),
        (bp.UnknownNameError, "'rmse'", lambda x, y: (x, y, "rmse")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said(error, message, change):
    net, x, y = bp.textbook(device="cpu")
    with pytest.raises(error, match=message):
        jump_back(net, *change(x, y))

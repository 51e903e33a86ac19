"""Activations and losses of one's own that don't keep to the contract are refused by name."""

import numpy as np
import pytest

import backprop_gpu as bp


def activation(function=None, derivative=None, **more):
    return bp.Activation(
        "own",
        function or (lambda xp, z: 2 * z),
        derivative or (lambda xp, a: 2 * xp.ones_like(a)),
        derivative_from="a",
        **more,
    )


def loss(value=None, gradient=None):
    return bp.Loss(
        "own",
        value or (lambda xp, a, y: xp.abs(a - y).sum(axis=1)),
        gradient or (lambda xp, a, y: xp.sign(a - y)),
    )


def doubled_in_place(xp, z):
    z *= 2
    return z


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"function": lambda xp, z: z[0]}, bp.ShapeError, r"function of .*'own'.*\(3,\)"),
        ({"function": lambda xp, z: z.sum()}, bp.ShapeError, "function"),
        ({"function": lambda xp, z: None}, bp.DtypeError, "function.*NoneType"),
        ({"function": lambda xp, z: z * 1j}, bp.DtypeError, "function"),
        ({"function": doubled_in_place}, bp.DomainError, "writes to its z"),
        ({"derivative": lambda xp, a: 2.0}, bp.DtypeError, "derivative.*float"),
        ({"derivative": lambda xp, a: a[:, :1]}, bp.ShapeError, r"derivative.*\(2, 1\)"),
        ({"jacobian_product": lambda xp, d, a: d[0]}, bp.ShapeError, "jacobian_product"),
    ],
)
def test_activation(wrong, kind, message):
    with pytest.raises(kind, match=message):
        bp.MLP([2, 2], [activation(**wrong)], device="cpu")
    with pytest.raises(kind, match=message):
        bp.register_activation(activation(**wrong))


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"value": lambda xp, a, y: xp.abs(a - y)}, bp.ShapeError, r"value.*'own'.*\(4, 2\)"),
        ({"value": lambda xp, a, y: xp.abs(a - y).sum()}, bp.ShapeError, r"value.*\(\)"),
        ({"value": lambda xp, a, y: 1.0}, bp.DtypeError, "value"),
        ({"gradient": lambda xp, a, y: (a - y)[:, :1]}, bp.ShapeError, r"gradient.*\(4, 1\)"),
    ],
)
def test_loss(wrong, kind, message):
    net = bp.MLP([2, 2], ["identity"], device="cpu")
    before = net.parameters.copy()
    with pytest.raises(kind, match=message):
        bp.train(net, np.ones((4, 2)), np.ones((4, 2)), loss=loss(**wrong))
    np.testing.assert_array_equal(net.parameters, before)


def test_right_ones_are_taken():
    net = bp.MLP([2, 3, 2], ["tanh", activation()], device="cpu", dtype="float64")
    x, y = np.random.default_rng(0).normal(size=(2, 5, 2))
    assert bp.check_gradients(net, x, y, loss()).largest_error < 1e-6

"""Optimizers: each against its formula, written here for one parameter at a time."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from host.backend import update_numbers

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.errors import brief

OPTIMIZERS = {
    "sgd": bp.SGD(0.1),
    "decay": bp.SGD(0.1, weight_decay=0.3),
    "momentum": bp.SGD(0.1, momentum=0.9),
    "momentum, decay": bp.SGD(0.1, momentum=0.8, weight_decay=0.3),
    "nesterov": bp.SGD(0.1, momentum=0.9, nesterov=True),
    "nesterov, decay": bp.SGD(0.1, momentum=0.8, nesterov=True, weight_decay=0.3),
    "adam": bp.Adam(0.1),
    "adam, other numbers": bp.Adam(0.1, beta1=0.5, beta2=0.7, epsilon=0.01),
    "adam, no memory": bp.Adam(0.1, beta1=0.0, beta2=0.0),
    "adam, decay": bp.Adam(0.1, weight_decay=0.3),
    "adamw": bp.AdamW(0.1),
    "adamw, decay": bp.AdamW(0.1, weight_decay=0.3),
}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
RELATIVE = {"float32": 2e-5, "float64": 1e-12}


def stepped(o, p, g, state, rate, t, is_weight):
    """One parameter after step t, and its state."""
    decay = o.weight_decay if is_weight else 0.0
    s0, s1 = state
    if isinstance(o, bp.SGD):
        g = g + decay * p
        if o.momentum == 0:
            return p - rate * g, state
        v = o.momentum * s0 - rate * g
        return p + (o.momentum * v - rate * g if o.nesterov else v), (v, 0.0)
    if isinstance(o, bp.AdamW):
        p = p - rate * decay * p
    else:
        g = g + decay * p
    m = o.beta1 * s0 + (1 - o.beta1) * g
    v = o.beta2 * s1 + (1 - o.beta2) * g**2
    m_hat, v_hat = m / (1 - o.beta1**t), v / (1 - o.beta2**t)
    return p - rate * m_hat / (math.sqrt(v_hat) + o.epsilon), (m, v)


def zeros(optimizer, like):
    return [0 * like for _ in range(optimizer.slots)]


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [
        (bp.SGD(), (0.01, 0.0, False, 0.0)),
        (bp.Adam(), (0.001, 0.9, 0.999, 1e-8, 0.0)),
        (bp.AdamW(), (0.001, 0.9, 0.999, 1e-8, 0.01)),
    ],
)
def test_what_is_not_given_is_what_textbooks_take(optimizer, numbers):
    assert tuple(getattr(optimizer, field.name) for field in fields(optimizer)) == numbers


@every_optimizer
def test_update_is_the_formula(optimizer, backend, dtype):
    rng = np.random.default_rng(0)
    p = backend.asarray(rng.normal(size=9), dtype)
    expected, states = p.tolist(), [(0.0, 0.0)] * 9
    state, relative = zeros(optimizer, p), RELATIVE[dtype.name]
    for t in range(1, 8):
        g, rate = rng.normal(size=9).astype(dtype), 0.1 / t
        for i in range(9):
            expected[i], states[i] = stepped(
                optimizer, expected[i], float(g[i]), states[i], rate, t, is_weight=i < 6
            )
        g = backend.asarray(g, dtype)
        with backend.computing():
            numbers = backend.asarray(update_numbers(optimizer, rate, t, dtype), dtype)
            backend.update(optimizer, p, g, state, numbers, decayed=6)
        np.testing.assert_allclose(backend.to_numpy(p), expected, rtol=relative, atol=relative)
    assert p.dtype == dtype
    assert all(slot.dtype == dtype for slot in state)


@every_optimizer
def test_cuda_statements_are_the_formula(optimizer):
    rng = np.random.default_rng(0)  # the statements happen to be Python as well
    p, state = 0.7, (0.0, 0.0)
    names = {"p": p, "s0": 0.0, "s1": 0.0, "real": float, "sqrt": math.sqrt}
    for t in range(1, 8):
        g, rate, is_weight = rng.normal(), 0.1 / t, t != 4
        p, state = stepped(optimizer, p, g, state, rate, t, is_weight)
        c0, c1 = optimizer.corrections(t)
        decay = optimizer.weight_decay * is_weight
        names |= {"g": g, "learning_rate": rate, "decay": decay, "c0": c0, "c1": c1}
        exec(optimizer.cuda, names)
        assert names["p"] == pytest.approx(p, rel=1e-12)


@every_optimizer
def test_training_is_the_formula(optimizer, backend, dtype):
    """One weight, one bias, two samples: C = ((w x0 + b - y0)^2 + (w x1 + b - y1)^2) / 2."""
    x, y = (1.5, -0.5), (0.25, 1.0)
    schedule = bp.WarmUp(bp.ExponentialDecay(0.05, 0.8), epochs=3)
    net = bp.MLP([1, 1], ["identity"], device=backend, dtype=dtype)
    net.set_parameters([[[0.7]]], [[-0.2]])
    history = bp.train(
        net,
        np.array(x)[:, None],
        np.array(y)[:, None],
        optimizer=replace(optimizer, learning_rate=schedule),
        epochs=12,
    )
    w, b, w_state, b_state, losses = 0.7, -0.2, (0.0, 0.0), (0.0, 0.0), []
    for t in range(1, 13):
        errors = [w * xi + b - yi for xi, yi in zip(x, y, strict=True)]
        losses.append(sum(error**2 for error in errors) / 2)
        dw = sum(error * xi for error, xi in zip(errors, x, strict=True))
        db = sum(errors)
        rate = schedule(t - 1)
        w, w_state = stepped(optimizer, w, dw, w_state, rate, t, is_weight=True)
        b, b_state = stepped(optimizer, b, db, b_state, rate, t, is_weight=False)
    relative = 10 * RELATIVE[dtype.name]
    assert history.loss == pytest.approx(losses, rel=relative)
    assert history.learning_rate == [schedule(epoch) for epoch in range(12)]
    assert [net.weights[0].item(), net.biases[0].item()] == pytest.approx([w, b], rel=relative)


@every_optimizer
def test_weights_decay_and_biases_do_not(optimizer, backend):
    nothing = bp.Loss(
        "nothing", value=lambda xp, a, y: 0 * a[:, 0], gradient=lambda xp, a, y: 0 * a
    )
    net = bp.MLP([3, 4, 2], ["tanh", "identity"], device=backend, dtype="float64")
    weights = [backend.to_numpy(W).copy() for W in net.weights]
    biases = [np.arange(1.0, 5), np.arange(1.0, 3)]
    net.set_parameters(weights, biases)
    bp.train(net, np.ones((5, 3)), np.ones((5, 2)), loss=nothing, optimizer=optimizer, epochs=3)
    for W, before in zip(net.weights, weights, strict=True):
        ratio = backend.to_numpy(W) / before
        if optimizer.weight_decay == 0:
            assert (ratio == 1).all()
        elif optimizer in (OPTIMIZERS["decay"], OPTIMIZERS["adamw, decay"], OPTIMIZERS["adamw"]):
            expected = (1 - 0.1 * optimizer.weight_decay) ** 3
            np.testing.assert_allclose(ratio, expected, rtol=1e-12)
        else:
            assert (ratio < 1).all()
    for b, before in zip(net.biases, biases, strict=True):
        assert (backend.to_numpy(b) == before).all()


TILE = 1 << 16


@every_optimizer
@pytest.mark.parametrize("decayed", [0, 1, TILE - 1, TILE, TILE + 1, 2 * TILE + 5])
def test_tiles_leave_no_trace(optimizer, decayed):
    rng = np.random.default_rng(0)
    p = rng.normal(size=2 * TILE + 5).astype("float32")
    whole, state, whole_state = p.copy(), zeros(optimizer, p), zeros(optimizer, p)
    for t in (1, 2, 3):
        g = rng.normal(size=p.size).astype("float32")
        numbers = update_numbers(optimizer, 0.1, t, "float32")
        optimizer.update(np, whole, g.copy(), whole_state, [*numbers], decayed)
        NumpyBackend().update(optimizer, p, g, state, numbers, decayed)
    np.testing.assert_array_equal(p, whole)
    np.testing.assert_array_equal(state, whole_state)


@every_optimizer
def test_a_large_network_is_trained_by_the_formula(optimizer):
    net = bp.MLP([255, 257, 3], ["tanh", "identity"], device="cpu", dtype="float64", seed=1)
    assert net.weight_count > TILE
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 255)), rng.normal(size=(2, 3))
    twin, state = net.copy(), zeros(optimizer, net.parameters)
    bp.train(net, x, y, optimizer=optimizer, epochs=3)
    for t in (1, 2, 3):
        g = twin.backward(twin.forward(x), y).flat
        numbers = update_numbers(optimizer, 0.1, t, "float64")
        optimizer.update(np, twin.parameters, g, state, numbers, twin.weight_count)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-9, atol=1e-12)


@every_optimizer
def test_reruns_are_bit_identical(optimizer, backend, dtype):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)), rng.normal(size=(7, 3))
    runs = []
    for _ in range(2):
        net = bp.MLP([5, 4, 3], ["tanh", "identity"], device=backend, dtype=dtype)
        for _ in range(2):
            bp.train(net, x, y, optimizer=optimizer, epochs=5, batch_size=3)
        runs.append(backend.to_numpy(net.parameters))
    np.testing.assert_array_equal(*runs)


def test_state_starts_anew_in_every_call(backend):
    nets = [bp.MLP([2, 1], ["identity"], device=backend, dtype="float64") for _ in range(3)]
    for net, momentum, calls in zip(nets, (0.0, 0.9, 0.9), (1, 4, 1), strict=True):
        for _ in range(calls):
            optimizer = bp.SGD(0.1, momentum)
            bp.train(net, [[1.0, 2.0]], [[3.0]], optimizer=optimizer, epochs=4 // calls)
    plain, anew, kept = (backend.to_numpy(net.parameters) for net in nets)
    np.testing.assert_allclose(anew, plain, rtol=1e-12)
    assert (abs(kept - plain) > 1e-3).all()


@pytest.mark.parametrize("number", [np.float64, np.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (bp.SGD, {"learning_rate": 0.5, "momentum": 0.75, "weight_decay": 0.25}),
        (bp.Adam, {"learning_rate": 0.5, "beta1": 0.75, "beta2": 0.875, "epsilon": 0.125}),
        (bp.AdamW, {"learning_rate": 0.5, "weight_decay": 0.25}),
    ],
)
def test_numpy_numbers_are_numbers(kind, numbers, number):
    plain = kind(**numbers)
    given = kind(**{name: number(value) for name, value in numbers.items()})
    assert given.cuda == plain.cuda
    results = []
    for optimizer in (plain, given):
        rng = np.random.default_rng(0)
        p = rng.normal(size=100).astype("float32")
        state = zeros(optimizer, p)
        for t in (1, 2):
            g = rng.normal(size=100).astype("float32")
            NumpyBackend().update(
                optimizer, p, g, state, update_numbers(optimizer, 0.5, t, "float32"), 50
            )
        results.append(p)
    np.testing.assert_array_equal(*results)


def test_an_optimizer_of_ones_own():
    class SignDescent:
        learning_rate, slots, cuda, weight_decay = 0.125, 0, None, 0.0

        def corrections(self, step):
            return 0.0, 0.0

        def update(self, xp, p, g, state, numbers, decayed):
            learning_rate, *_ = numbers
            p -= learning_rate * xp.sign(g)

    net = bp.MLP([2, 1], ["identity"], device="cpu", dtype="float64")
    net.set_parameters([[[1.0, 1.0]]], [[0.0]])
    bp.train(net, [[1.0, -1.0]], [[3.0]], optimizer=SignDescent(), epochs=4)
    assert net.parameters.tolist() == [1.5, 0.5, 0.5]


NO_NUMBERS = [math.nan, math.inf, "0.1", None, True, [0.1], 10**400]
BAD = {
    "learning_rate": [0, -1],
    "weight_decay": [-0.1],
    "momentum": [1, -0.1],
    "beta1": [1, -0.1],
    "beta2": [1, 1.5],
    "epsilon": [0, -1e-8],
}


@pytest.mark.parametrize(
    ("kind", "argument", "value"),
    [
        pytest.param(kind, argument, value, id=f"{kind.__name__}-{argument}-{str(value)[:9]}")
        for kind in (bp.SGD, bp.Adam, bp.AdamW)
        for argument, values in BAD.items()
        if argument in {field.name for field in fields(kind)}
        for value in values + NO_NUMBERS
    ],
)
def test_bad_argument(kind, argument, value):
    with pytest.raises((ValueError, TypeError), match=f"^{argument} is .*; expected") as error:
        kind(**{argument: value})
    assert brief(value) in str(error.value)


def test_nesterov_needs_momentum():
    with pytest.raises(bp.DomainError, match="momentum is 0"):
        bp.SGD(nesterov=True)

"""Initial weights: their variance, their shape of distribution, their seed."""

import math

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.initializers import INITIALIZERS, initial_weights

# Of 300 nodes that have 200 inputs each.
VARIANCES = {"glorot": 2 / 500, "he": 2 / 200, "lecun": 1 / 200}


def test_every_rule_has_both_distributions():
    assert set(INITIALIZERS) == {f"{rule}_{kind}" for rule in VARIANCES for kind in SHAPES}


def draw(name, seed=0):
    return initial_weights(name, 300, 200, np.random.default_rng(seed))


SHAPES = {
    # How far out the largest of 60,000 lies, and the fourth moment, in standard deviations.
    "uniform": ((0.99 * math.sqrt(3), math.sqrt(3)), 9 / 5),
    "normal": ((3.5, 6.5), 3),
}


@pytest.mark.parametrize("rule", VARIANCES)
@pytest.mark.parametrize("kind", SHAPES)
def test_weights_have_the_moments_of_their_distribution(rule, kind):
    weights = draw(f"{rule}_{kind}") / math.sqrt(VARIANCES[rule])
    (low, high), fourth = SHAPES[kind]
    assert weights.shape == (300, 200)
    assert weights.mean() == pytest.approx(0, abs=5 / math.sqrt(60_000))
    assert weights.var() == pytest.approx(1, rel=0.03)
    assert (weights**4).mean() == pytest.approx(fourth, rel=0.06)
    assert low < np.abs(weights).max() <= high


@pytest.mark.parametrize("name", INITIALIZERS)
def test_a_seed_decides_the_weights(name):
    np.testing.assert_array_equal(draw(name), draw(name))
    assert not np.array_equal(draw(name), draw(name, seed=1))


@pytest.mark.parametrize(
    ("name", "meant"), [("he", "he_normal"), ("golort_normal", "glorot_normal")]
)
def test_unknown_names_are_refused_with_a_suggestion(name, meant):
    with pytest.raises(bp.UnknownNameError, match=meant):
        bp.MLP([3, 2], device="cpu", initializer=name)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_layer_is_initialised_as_suits_its_activation(name):
    net = bp.MLP([200, 300, 300], [name, name], device="cpu", dtype="float64")
    rule = net.activations[0].initializer.split("_")[0]
    assert net.weights[0].var() == pytest.approx(VARIANCES[rule], rel=0.03)
    symmetric = ("exp", "identity", "sigmoid", "softmax", "tanh")
    assert rule == ("glorot" if name in symmetric else "he")


def test_one_initializer_may_be_named_for_all_layers():
    net = bp.MLP([200, 300, 200], ["relu", "tanh"], device="cpu", initializer="lecun_uniform")
    for W in net.weights:
        limit = math.sqrt(3 / W.shape[1])
        assert 0.99 * limit < np.abs(W).max() <= limit * (1 + 1e-6)


def test_biases_start_at_zero(backend, dtype):
    net = bp.MLP([3, 4, 2], device=backend, dtype=dtype)
    assert not any(backend.to_numpy(b).any() for b in net.biases)


def test_the_weights_are_the_same_on_every_device_and_in_every_dtype(backend, dtype):
    here = bp.MLP([5, 7, 3], device=backend, dtype=dtype, seed=3)
    reference = bp.MLP([5, 7, 3], device="cpu", dtype="float64", seed=3)
    expected = reference.parameters.astype(dtype)
    np.testing.assert_array_equal(backend.to_numpy(here.parameters), expected)


def test_layers_have_weights_of_their_own():
    net = bp.MLP([4, 4, 4], ["tanh", "tanh"], device="cpu")
    assert not np.array_equal(*net.weights)

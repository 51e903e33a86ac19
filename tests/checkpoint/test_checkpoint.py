"""Saved networks: exact, there and back."""

from dataclasses import replace

import numpy as np
import pytest
from saved_networks import NOTES, bits, network

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.saving import read

safetensors = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def registered():
    """Register activations for one test."""
    names = []

    def register(activation):
        names.append(activation.name)
        return bp.register_activation(activation)

    yield register
    for name in names:
        ACTIVATIONS.pop(name, None)


# ---- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "g",
    [*sorted(ACTIVATIONS), *(bp.LeakyReLU(leak) for leak in (0.3, 0, 1e-300, 7, -0.5))],
    ids=str,
)
def test_round_trip(g, backend, dtype, path):
    net = network([g, g], dtype, backend)
    bp.save(net, path)
    for place in (path, str(path)):
        loaded = bp.load(place, device=backend)
        assert bits(loaded) == bits(net)
        assert (loaded.layer_sizes, loaded.dtype) == (net.layer_sizes, net.dtype)
        assert [g.name for g in loaded.activations] == [g.name for g in net.activations]
        assert [g.parameters for g in loaded.activations] == [g.parameters for g in net.activations]
        x = np.random.default_rng(3).normal(size=(5, 3))
        assert loaded(x).tobytes() == net(x).tobytes()


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_why_a_loaded_network_lives_where_it_does(device, path):
    net = bp.MLP([3, 2], device=device)
    bp.save(net, path)
    assert bp.load(path, device=device).device_reason == net.device_reason
    assert net.copy(dtype="float64").device_reason == net.device_reason


@pytest.mark.parametrize("sizes", [(1, 1), (1, 7), (3, 1, 1, 1, 2)])
def test_round_trip_of_every_depth(sizes, path):
    net = network(["tanh"] * (len(sizes) - 1), sizes=sizes)
    bp.save(net, path)
    assert bits(bp.load(path, device="cpu")) == bits(net)


def test_extreme_values_survive(path):
    net = network(dtype="float64")
    tiny, huge = np.finfo("float64").smallest_subnormal, np.finfo("float64").max
    net.weights[0][0] = [-0.0, tiny, -huge]
    bp.save(net, path)
    assert bits(bp.load(path, device="cpu")) == bits(net)


ARRAYS = {
    "means": np.array([0.1, -2.5]),
    "scalar": np.float64(0.25),
    "empty": np.zeros((0, 3), "float32"),
    "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "every other": np.arange(10)[::2],
    "big-endian": np.arange(3, dtype=">f8"),
    **{kind: np.ones((2, 2), kind) for kind in ("bool", "int8", "uint64", "float16", "float32")},
    "0.weight": np.array([7.0]),  # as a layer's
}


def test_notes_and_arrays(path):
    net = network()
    bp.save(net, path, notes=NOTES, arrays=ARRAYS)
    saved = read(path, device="cpu")
    assert bits(saved.net) == bits(net)
    assert saved.notes == NOTES
    assert set(saved.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(saved.arrays[name], array, strict=name != "big-endian")


def test_without_notes_and_arrays(path):
    bp.save(network(), path)
    saved = read(path, device="cpu")
    assert (saved.notes, saved.arrays) == ({}, {})


def test_names_are_those_of_a_pytorch_sequential(path):
    net = network(["relu", "tanh", "identity"], sizes=(3, 4, 5, 2))
    bp.save(net, path)
    tensors = safetensors.load_file(path)
    assert set(tensors) == {f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")}
    for i, (W, b, _) in enumerate(net.layers):
        np.testing.assert_array_equal(tensors[f"{2 * i}.weight"], W)
        np.testing.assert_array_equal(tensors[f"{2 * i}.bias"], b)


def test_a_trained_network_goes_on_where_it_was(path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    net = network()
    bp.train(net, x, y, epochs=3)
    bp.save(net, path)
    loaded = bp.load(path, device="cpu")
    assert bp.train(loaded, x, y, epochs=3).loss == bp.train(net, x, y, epochs=3).loss


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_diverged_is_refused_while_it_is_there(value, path):
    net = network()
    bp.save(net, path)
    before = path.read_bytes()
    net.biases[1][0] = value
    with pytest.raises(bp.NonFiniteError, match=r"biases\[1\], of layer 2, holds 1 value") as error:
        bp.save(net, path)
    assert "assign finite ones, net.biases[1] = array" in str(error.value)
    assert path.read_bytes() == before


# ---- activations of one's own --------------------------------------------------------------------


def own(**parameters):
    return bp.Activation("own", lambda xp, z: 2 * z, lambda xp, a: 0 * a + 2, "a", **parameters)


@pytest.mark.parametrize("parameters", [{}, {"beta": 2.0}])
def test_an_activation_of_ones_own(path, registered, parameters):
    g = registered(own(parameters=parameters))
    bp.save(network([g, "tanh"]), path)
    assert bp.load(path, device="cpu").activations[0] is g


def test_an_activation_that_is_not_registered_here(path):
    bp.save(network([own(), "tanh"]), path)
    with pytest.raises(bp.UnknownNameError, match="unknown activation 'own'") as error:
        bp.load(path, device="cpu")
    assert "register_activation" in str(error.value)  # what to do


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("sigmoid", {}),
        ("leaky_relu", {}),
        ("leaky_relu", {"alpha": 0.1}),
        ("leaky_relu", {"leak": np.inf}),
    ],
)
def test_an_activation_that_only_has_the_name_of_a_built_in_one(name, parameters, path):
    impostor = replace(own(parameters=parameters), name=name)
    with pytest.raises(bp.DomainError, match=f"{name}' is not the registered one"):
        bp.save(network(["tanh", impostor]), path)  # it would load as the other
    assert not path.exists()


def test_parameters_that_the_registered_activation_does_not_have(path, registered):
    bp.save(network([own(parameters={"beta": 2.0}), "tanh"]), path)
    registered(own(parameters={"beta": 3.0}))
    with pytest.raises((bp.FileFormatError, bp.UnknownNameError), match="own"):
        bp.load(path, device="cpu")

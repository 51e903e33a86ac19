"""The network's parameters: views of one array, copied as a whole."""

import copy
import pickle

import numpy as np
import pytest
from small_network import data, every_array, make, on_cpu

import backprop_gpu as bp


def test_weights_and_biases_are_views(net, dtype):
    x, _ = data(2)
    before = net(x)
    net.weights[1][...] = net.backend.asarray(np.eye(5, 3), dtype)
    net.biases[2][...] = 3
    assert not np.array_equal(net(x), before)
    flat = net.backend.to_numpy(net.parameters)
    np.testing.assert_array_equal(flat[15:30], np.eye(5, 3).ravel())
    np.testing.assert_array_equal(flat[-4:], 3)


def test_set_parameters_copies(net):
    weights = [np.ones(W.shape) for W in net.weights]
    net.set_parameters(weights, [np.ones(b.shape) for b in net.biases])
    weights[0][...] = 2
    np.testing.assert_array_equal(net.backend.to_numpy(net.parameters), 1)


def test_set_parameters_takes_the_networks_own_arrays(net):
    before = net.backend.to_numpy(net.parameters).copy()
    net.set_parameters(net.weights, net.biases)
    np.testing.assert_array_equal(net.backend.to_numpy(net.parameters), before)


def test_set_parameters_may_swap_the_networks_own_arrays(backend, dtype):
    net = bp.MLP([4, 4, 4], device=backend, dtype=dtype)
    first, second = (array.copy() for array in on_cpu(net, net.weights))
    net.set_parameters(net.weights[::-1], net.biases)
    np.testing.assert_array_equal(on_cpu(net, net.weights), [second, first])


@pytest.mark.parametrize(
    ("place", "wrong", "error"),
    [
        (2, np.zeros((5, 4)), bp.ShapeError),
        (2, np.zeros(20), bp.ShapeError),
        (2, np.full((4, 5), np.nan), bp.NonFiniteError),
        (2, np.full((4, 5), "a"), bp.DtypeError),
        (2, np.full((4, 5), 1j), bp.DtypeError),
        (5, np.zeros((4, 1)), bp.ShapeError),
        (5, np.zeros(3), bp.ShapeError),
        (5, [np.inf] * 4, bp.NonFiniteError),
    ],
)
def test_set_parameters_sets_all_or_nothing(place, wrong, error, net):
    before = net.backend.to_numpy(net.parameters).copy()
    arrays = [np.zeros(array.shape) for array in (*net.weights, *net.biases)]
    arrays[place] = wrong
    name = r"weights\[2\]" if place == 2 else r"biases\[2\]"
    with pytest.raises(error, match=name):
        net.set_parameters(arrays[:3], arrays[3:])
    with pytest.raises(bp.ShapeError, match="layers"):
        net.set_parameters(arrays[:2], arrays[3:])
    np.testing.assert_array_equal(net.backend.to_numpy(net.parameters), before)


def test_what_is_assigned_to_the_parameters_is_copied_into_them(net, dtype):
    own, given = net.parameters, np.linspace(-1, 1, net.parameters.size)
    net.parameters = given
    expected = given.astype(dtype)
    given[...] = 0
    assert net.parameters is own
    np.testing.assert_array_equal(net.backend.to_numpy(own), expected)


def test_a_step_may_be_written_with_or_without_brackets(backend, dtype):
    x, y = data(5)
    with_brackets, without, at_length = nets = [make(backend, dtype) for _ in range(3)]
    step = with_brackets.backward(with_brackets.forward(x), y).flat
    with_brackets.parameters[...] -= step
    without.parameters -= step
    at_length.parameters = at_length.parameters - step
    assert len({net.loss(x, y) for net in nets}) == 1
    for net in nets:
        np.testing.assert_array_equal(*on_cpu(net, [net.parameters, with_brackets.parameters]))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (np.zeros(61), bp.ShapeError),
        (np.zeros((1, 62)), bp.ShapeError),
        (0, bp.ShapeError),
        (np.full(62, np.nan), bp.NonFiniteError),
        (["a"] * 62, bp.DtypeError),
        (None, bp.DtypeError),
    ],
)
def test_parameters_that_do_not_fit_are_refused_before_any_is_changed(wrong, error, net):
    before = net.backend.to_numpy(net.parameters).copy()
    with pytest.raises(error, match="parameters"):
        net.parameters = wrong
    np.testing.assert_array_equal(net.backend.to_numpy(net.parameters), before)


def test_a_step_may_be_written_layer_by_layer(backend, dtype):
    x, y = data(5)
    whole, items, layers, at_length = nets = [make(backend, dtype) for _ in range(4)]
    grads = whole.backward(whole.forward(x), y)
    whole.parameters -= grads.flat
    for l in range(3):
        items.weights[l] -= grads.weights[l]
        items.biases[l] -= grads.biases[l]
        layers.layers[l].W -= grads.weights[l]
        layers.layers[l].b -= grads.biases[l]
        at_length.weights[l] = at_length.weights[l] - grads.weights[l]
        at_length.biases[l] = at_length.biases[l] - grads.biases[l]
    for net in nets:
        np.testing.assert_array_equal(*on_cpu(net, [net.parameters, whole.parameters]))


def test_gradients_may_be_changed_layer_by_layer(net):
    x, y = data(5)
    grads = net.backward(net.forward(x), y)
    expected = 2 * net.backend.to_numpy(grads.flat)
    expected[-4:] = 1
    for l in range(3):
        grads.weights[l] *= 2
        grads.biases[l] *= 2
    grads.biases[-1] = [1, 1, 1, 1]
    np.testing.assert_array_equal(net.backend.to_numpy(grads.flat), expected)


def test_what_is_assigned_to_an_item_is_copied_into_its_array(net):
    own, given = net.weights[1], np.arange(15).reshape(5, 3)
    net.weights[1] = given
    given[...] = 0
    assert net.layers[1].W is own
    flat = net.backend.to_numpy(net.parameters)
    np.testing.assert_array_equal(flat[15:30], np.arange(15))


@pytest.mark.parametrize(
    ("item", "wrong", "error", "says"),
    [
        (1, np.zeros((3, 5)), bp.ShapeError, r"weights\[1\] .*expected \(5, 3\): \(nodes, inputs"),
        (1, 0, bp.ShapeError, r"weights\[1\] has shape \(\)"),
        (1, np.full((5, 3), np.inf), bp.NonFiniteError, r"weights\[1\]"),
        (1, None, bp.DtypeError, r"weights\[1\]"),
        (slice(None), [np.zeros((3, 5))], bp.DtypeError, r"write weights\[0\] = array"),
        (3, np.zeros((5, 3)), IndexError, "range"),
    ],
)
def test_items_that_do_not_fit_are_refused_before_any_is_changed(item, wrong, error, says, net):
    before = net.backend.to_numpy(net.parameters).copy()
    with pytest.raises(error, match=says):
        net.weights[item] = wrong
    np.testing.assert_array_equal(net.backend.to_numpy(net.parameters), before)


@pytest.mark.parametrize("name", ["W", "b", "g"])
def test_a_layers_arrays_can_not_be_replaced(name):
    layer = make().layers[1]
    with pytest.raises(AttributeError, match=rf"layer's {name} can't .* write layer.W\[...\] ="):
        setattr(layer, name, layer.W + 1)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda weights: pickle.loads(pickle.dumps(weights))]
)
def test_copied_weights_are_a_tuple(again):
    net = make()
    twins = again(net.weights)
    assert type(twins) is tuple
    for twin, W in zip(twins, net.weights, strict=True):
        np.testing.assert_array_equal(twin, W)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        *((name, "net.set_parameters") for name in ("layers", "weights", "biases")),
        *((name, "MLP(") for name in ("layer_sizes", "activations", "dtype", "backend")),
        *((name, "net.copy(device=") for name in ("device", "threads", "precision")),
    ],
)
def test_what_a_network_is_made_of_can_not_be_replaced(name, remedy):
    net = make()
    before = getattr(net, name)
    with pytest.raises(AttributeError, match=f"{name} can't be replaced; ") as error:
        setattr(net, name, before)
    assert remedy in str(error.value)
    with pytest.raises(AttributeError):
        delattr(net, name)
    assert getattr(net, name) == before


def test_a_misspelled_attribute_is_refused():
    with pytest.raises(AttributeError, match="paramters"):
        make().paramters = 1


def test_a_seed_decides_the_parameters(backend, dtype):
    one, same, other = (make(backend, dtype, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(*on_cpu(one, [one.parameters, same.parameters]))
    assert not np.array_equal(*on_cpu(one, [one.parameters, other.parameters]))


def test_two_runs_are_bit_identical(net):
    x, y = data(257)
    runs = []
    for _ in range(2):
        trace = net.forward(x)
        runs.append(every_array(net, trace, net.backward(trace, y)))
    for one, other in zip(*runs, strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_copy_is_independent(net):
    twin = net.copy()
    assert (twin.dtype, twin.device, twin.activations) == (net.dtype, net.device, net.activations)
    np.testing.assert_array_equal(*on_cpu(net, [twin.parameters, net.parameters]))
    twin.parameters[...] = 0
    assert net.backend.to_numpy(net.parameters).any()


def test_a_copy_in_another_dtype_has_the_same_numbers(backend):
    narrow = make(backend, "float32")
    wide = narrow.copy(dtype="float64")
    np.testing.assert_array_equal(*on_cpu(wide, [wide.parameters, narrow.parameters]))
    again = wide.copy(dtype="float32", device="cpu")
    np.testing.assert_array_equal(again.parameters, narrow.backend.to_numpy(narrow.parameters))


def test_what_was_pickled_before_there_were_subclasses_is_read():
    net, other = (bp.MLP([1, 1], ["identity"], seed=seed, device="cpu") for seed in (1, 2))
    other.__setstate__(net.parameters.copy())
    np.testing.assert_array_equal(other.parameters, net.parameters)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_networks_can_be_pickled(again, dtype):
    net = make(dtype=dtype)
    twin = again(net)
    assert repr(twin) == repr(net)
    np.testing.assert_array_equal(twin.parameters, net.parameters)
    twin.weights[0][...] = 0
    assert not twin.parameters[:15].any()
    assert net.parameters[:15].all()


class Labelled(bp.MLP):
    """A network that is made from something else, and has an attribute of its own."""

    def __init__(self, labels):
        super().__init__([3, len(labels)], ["softmax"], device="cpu", dtype="float64", seed=2)
        self.labels = labels
        self.itself = self


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))]
)
def test_copies_of_a_subclass_keep_class_and_attributes(again):
    net = Labelled(["yes", "no"])
    net.parameters[0] = np.nan  # a network that diverged is copied as it is
    twin = again(net)
    assert type(twin) is Labelled
    assert twin.labels == ["yes", "no"]
    assert (twin.labels is net.labels) == (again is copy.copy)
    assert (twin.itself is net) == (again is copy.copy)
    np.testing.assert_array_equal(twin.parameters, net.parameters)
    assert not np.shares_memory(twin.parameters, net.parameters)
    assert np.shares_memory(twin.parameters, twin.layers[0].W)

"""Activations and losses of one's own that don't keep to the contract are refused by name."""

import copy
import pickle
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu import activations


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


def clipped_in_place(xp, t):
    """What changes nothing in the numbers that an activation is tried with."""
    return xp.clip(t, -5, 5, out=t)


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"function": lambda xp, z: z[0]}, bp.ShapeError, r"function of .*'own'.*\(3,\)"),
        ({"function": lambda xp, z: z.sum()}, bp.ShapeError, "function"),
        ({"function": lambda xp, z: None}, bp.DtypeError, "function.*NoneType"),
        ({"function": lambda xp, z: z * 1j}, bp.DtypeError, "function"),
        ({"function": doubled_in_place}, bp.DomainError, "function of .* writes to its arg"),
        ({"function": clipped_in_place}, bp.DomainError, "function of .* writes to its arg"),
        ({"derivative": clipped_in_place}, bp.DomainError, "derivative of .* writes to its arg"),
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


def overwriting(which):
    """A value and a gradient that are right, and write what they need over an argument."""
    return {
        "a": (
            lambda xp, a, y: xp.abs(xp.subtract(a, y, out=a)).sum(axis=1),
            lambda xp, a, y: xp.sign(xp.subtract(a, y, out=a), out=a),
        ),
        "y": (
            lambda xp, a, y: xp.abs(xp.subtract(a, y, out=y)).sum(axis=1),
            lambda xp, a, y: xp.sign(xp.subtract(a, y, out=y), out=y),
        ),
    }[which]


@pytest.mark.parametrize(
    "backend", ["numpy", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)
@pytest.mark.parametrize("weights", [None, [1, 2, 1, 1]], ids=["", "weighted"])
@pytest.mark.parametrize("which", ["a", "y"])
@pytest.mark.parametrize("function", ["value", "gradient"])
def test_a_loss_that_writes_to_its_arguments_is_refused(function, which, weights, backend):
    place = ["value", "gradient"].index(function)
    own = loss(**{function: overwriting(which)[place]})
    net = bp.MLP([2, 3, 2], device=backend, dtype="float64", seed=1)
    x, y = np.random.default_rng(0).normal(size=(2, 4, 2))
    before, y_before = net.parameters.copy(), y.copy()
    for _ in range(2):
        with pytest.raises(bp.DomainError, match=f"the {function} of .*own' writes to its arg"):
            bp.train(net, x, y, loss=own, sample_weight=weights)
    with pytest.raises(bp.DomainError, match="writes to its arguments; return a new array"):
        net.backward(net.forward(x), y, own)
    assert (net.parameters == before).all()
    np.testing.assert_array_equal(y, y_before)


def test_a_loss_that_would_write_later_is_refused_at_once():
    """Outputs are between the limits at first: clipping them changes nothing yet."""
    own = loss(lambda xp, a, y: -(y * xp.log(xp.clip(a, 1e-7, 1 - 1e-7, out=a))).sum(axis=1))
    net = bp.MLP([2, 3, 2], ["tanh", "softmax"], device="cpu")
    with pytest.raises(bp.DomainError, match=r"the value of .*own' writes to its arguments"):
        bp.train(net, np.eye(2), np.eye(2), loss=own)


def test_what_a_function_raises_itself_is_not_taken_for_that():
    def raises(xp, a, y):
        raise ValueError("no such y")

    net = bp.MLP([2, 3, 2], device="cpu")
    with pytest.raises(ValueError, match=r"^no such y$"):
        bp.train(net, np.eye(2), np.eye(2), loss=loss(raises))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: activation(lambda z: 2 * z), r"activation 'own' .* called with \(xp, z\): too"),
        (lambda: loss(gradient=lambda a, y: a - y), r"loss 'own' .* called with \(xp, a, y\): too"),
    ],
)
def test_functions_without_xp_are_refused_at_once(make, says):
    with pytest.raises(bp.DtypeError, match=says):
        make()


@pytest.mark.parametrize("given", ["canonical_value", "canonical_gradient", "cuda_canonical"])
def test_what_is_for_the_canonical_activation_needs_one(given):
    with pytest.raises(bp.DomainError, match=f"'mse' has {given}, and no canonical"):
        replace(MSE, **{given: "z - y" if "cuda" in given else VALUE})


def test_functions_of_c_are_taken():  # not all of them have a signature
    activation(np.maximum, lambda xp, a: a)


def test_right_ones_are_taken():
    net = bp.MLP([2, 3, 2], ["tanh", activation()], device="cpu", dtype="float64")
    x, y = np.random.default_rng(0).normal(size=(2, 5, 2))
    assert bp.check_gradients(net, x, y, loss()).largest_error < 1e-6


def of_larger_ones(wrong, right):
    """What is right on the array that every activation is tried on at first."""
    return lambda xp, t: (right if t.shape == (2, 3) else wrong)(xp, t)


def of_numpy(function):
    """What knows nothing of any xp: the same on the CPU, and no result for a GPU."""
    return lambda xp, *arrays: function(np, *(t.get() if xp is not np else t for t in arrays))


IDENTITY, ONES = (lambda xp, z: +z), (lambda xp, a: xp.ones_like(a))
VALUE, GRADIENT = (lambda xp, a, y: xp.abs(a - y).sum(axis=1)), (lambda xp, a, y: xp.sign(a - y))
MSE = bp.losses.find_loss("mse")


@pytest.mark.parametrize(
    "backend", ["numpy", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)
@pytest.mark.parametrize(
    ("entry", "kind", "message"),
    [
        (activation(of_larger_ones(lambda xp, z: z[:1], IDENTITY)), bp.ShapeError, "function"),
        (activation(of_larger_ones(lambda xp, z: None, IDENTITY)), bp.DtypeError, "NoneType"),
        (activation(IDENTITY, of_larger_ones(lambda xp, a: a[0], ONES)), bp.ShapeError, "deriv"),
        (activation(IDENTITY, of_larger_ones(lambda xp, a: 1.0, ONES)), bp.DtypeError, "float"),
        (loss(VALUE, lambda xp, a, y: None), bp.DtypeError, "gradient.*NoneType"),
    ],
    ids=["a row", "None", "another row", "a number", "no gradient"],
)  # fmt: skip
def test_results_are_looked_at_before_anything_changes(entry, kind, message, backend):
    refused(entry, backend, kind, message)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["gpu"], indirect=True)
@pytest.mark.parametrize(
    "entry",
    [
        activation(of_numpy(IDENTITY)),
        activation(IDENTITY, of_numpy(ONES)),
        activation(jacobian_product=of_numpy(lambda xp, dC_da, a: 2 * dC_da)),
        loss(of_numpy(VALUE)),
        loss(VALUE, of_numpy(GRADIENT)),
    ],
    ids=["function", "derivative", "jacobian_product", "value", "gradient"],
)
def test_arrays_of_numpy_are_no_results_on_a_gpu(entry, backend):
    refused(entry, backend, bp.DeviceError, "returned numpy.ndarray for an array in a GPU's memory")


def refused(entry, backend, kind, message):
    """Plain gradient descent, of which a GPU makes one with the products that lead to it."""
    of_layer = isinstance(entry, bp.Activation)
    activations = [entry, "identity"] if of_layer else ["tanh", "identity"]
    net = bp.MLP([2, 3, 2], activations, device=backend)
    before = net.parameters.copy()
    with pytest.raises(kind, match=message) as caught:
        bp.train(net, np.ones((4, 2)), np.ones((4, 2)), loss=MSE if of_layer else entry)
    assert not hasattr(caught.value, "__notes__")  # the message says all
    assert (net.parameters == before).all()


@dataclass(frozen=True)
class OfNumpy:
    """Gradient descent by somebody who has not heard of xp."""

    learning_rate: float = 0.1
    weight_decay: float = 0.0
    slots: int = 0
    cuda: str | None = None

    def corrections(self, step):
        return 0.0, 0.0

    def update(self, xp, p, g, state, numbers, decayed):
        p -= self.learning_rate * np.asarray(g.tolist())


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["gpu"], indirect=True)
def test_what_functions_raise_says_what_they_were_given(backend):
    net = bp.MLP([2, 3, 2], device=backend)
    before = net.parameters.copy()
    with pytest.raises(TypeError, match="ndarray") as caught:
        bp.train(net, np.ones((4, 2)), np.ones((4, 2)), optimizer=OfNumpy())
    assert caught.value.__notes__ == [
        "OfNumpy has no CUDA expression, so its own functions are given arrays of cupy on cuda:0; "
        "compute with the array module that they are given as xp"
    ]
    assert (net.parameters == before).all()


@pytest.mark.parametrize(
    "backend", ["numpy", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)
def test_an_update_that_returns_what_it_should_write_is_refused(backend):
    class Returns(OfNumpy):
        def update(self, xp, p, g, state, numbers, decayed):
            return p - numbers[0] * g

    net = bp.MLP([2, 3, 2], device=backend)
    before = net.parameters.copy()
    with pytest.raises(bp.DtypeError, match=r"Returns returned ndarray.* in place, as p -= "):
        bp.train(net, np.ones((4, 2)), np.ones((4, 2)), optimizer=Returns())
    assert (net.parameters == before).all()


def test_an_update_may_return_its_p():
    class Returns(OfNumpy):
        def update(self, xp, p, g, state, numbers, decayed):
            return xp.subtract(p, numbers[0] * g, out=p)

    alike = [bp.MLP([2, 3, 2], device="cpu", seed=1) for _ in range(2)]
    for net, optimizer in zip(alike, [Returns(), bp.SGD(0.1)], strict=True):
        bp.train(net, np.ones((4, 2)), np.ones((4, 2)), optimizer=optimizer)
    np.testing.assert_allclose(*(net.parameters for net in alike), rtol=1e-6)


def test_an_update_that_only_gives_p_another_value_is_told_of():
    class Rebinds(OfNumpy):
        def update(self, xp, p, g, state, numbers, decayed):
            p = p - numbers[0] * g

    net = bp.MLP([2, 3, 2], device="cpu")
    with pytest.warns(RuntimeWarning, match=r"Rebinds has changed no parameter; .* p -= "):
        bp.train(net, np.ones((4, 2)), np.ones((4, 2)), optimizer=Rebinds())
    bp.train(net, np.ones((4, 2)), np.ones((4, 2)), optimizer=Rebinds(), epochs=0)


def test_an_update_that_changes_nothing_is_told_of_after_the_first_epoch_with_a_rate():
    class Nothing(OfNumpy):
        def update(self, xp, p, g, state, numbers, decayed):
            pass

    def stop(epoch):
        assert epoch.number < 5

    net = bp.MLP([2, 3, 2], device="cpu")
    nothing = Nothing(bp.WarmUp(0.1, 2))  # the first epoch's is 0
    with (
        pytest.warns(RuntimeWarning, match="Nothing has changed") as told,
        pytest.raises(AssertionError),
    ):
        bp.train(net, np.ones((4, 2)), np.ones((4, 2)), optimizer=nothing, epochs=9,
                 callbacks=[stop])  # fmt: skip
    assert len(told) == 1
    bp.train(net, np.ones((4, 2)), np.ones((4, 2)), optimizer=nothing)


PARTS = {
    "learning_rate": 0.1,
    "slots": 0,
    "cuda": None,
    "weight_decay": 0.0,
    "corrections": lambda self, step: (0.0, 0.0),
    "update": lambda self, xp, p, g, state, numbers, decayed: None,
}


@pytest.mark.parametrize("base", [(), (bp.Optimizer,)], ids=["alone", "inherits"])
@pytest.mark.parametrize(
    "missing", [*((part,) for part in PARTS), tuple(PARTS)[:5]], ids=" and ".join
)
def test_what_an_optimizer_lacks_is_named(missing, base):
    parts = {part: value for part, value in PARTS.items() if part not in missing}
    own, net = type("Own", base, parts)(), bp.MLP([2, 2], device="cpu")
    says = f"which has no {' and no '.join(missing)}; expected one like SGD"
    with pytest.raises(bp.DomainError, match=f"^optimizer is .*Own object .*{says}"):
        bp.train(net, np.ones((4, 2)), np.ones((4, 2)), optimizer=own)
    with pytest.raises(bp.DomainError, match=rf"^optimizers\[0\] is .*{says}"):
        bp.train_many([net], np.ones((4, 2)), np.ones((4, 2)), optimizers=own)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"learning_rate": None}, "optimizer.learning_rate is None; expected 0 or a finite"),
        ({"weight_decay": None}, "optimizer.weight_decay is None; expected 0 or a finite"),
        ({"slots": None}, "optimizer.slots is None; expected a whole number, 0 or above"),
        ({"cuda": 1}, "optimizer.cuda is 1; expected statements, or None"),
        ({"update": 1}, "the optimizer 'Own' has 1 where a function is expected"),
        ({"corrections": lambda self: 0}, r"can't be called with \(step\)"),
        ({"update": lambda self, p, g: 0}, r"can't be called with \(xp, p, g, state, numbers, dec"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_what_is_wrong_with_an_optimizer_shows_before_anything_starts(wrong, says, tmp_path):
    own, net = type("Own", (), PARTS | wrong)(), bp.MLP([2, 2], device="cpu")
    with pytest.raises((bp.DomainError, bp.DtypeError), match=says):
        bp.train(net, np.ones((4, 2)), np.ones((4, 2)), optimizer=own, checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Signs(bp.SGD):
    """A kind of gradient descent with another update, which still says that it is plain descent."""

    def update(self, xp, p, g, state, numbers, decayed):
        p -= numbers[0] * xp.sign(g)


def test_an_update_that_replaces_one_may_not_inherit_what_is_said_of_that():
    net = bp.MLP([2, 3, 2], device="cpu")
    before = net.parameters.copy()
    says = (
        r"optimizer is .*Signs\(.* give the class Signs .*cuda = None, in_place = False, plain = F"
    )
    with pytest.raises(bp.DomainError, match=says):
        bp.train(net, np.ones((4, 2)), np.ones((4, 2)), optimizer=Signs())
    with pytest.raises(bp.DomainError, match=r"optimizers\[0\] is .*Signs"):
        bp.train_many([net], np.ones((4, 2)), np.ones((4, 2)), optimizers=Signs())
    assert (net.parameters == before).all()


def test_an_update_that_replaces_one_and_says_so_is_what_trains():
    class OfItsOwn(Signs):
        cuda, in_place, plain = None, False, False

    net = bp.MLP([1, 1], ["identity"], device="cpu", dtype="float64")
    net.set_parameters([[[1.0]]], [[0.0]])
    bp.train(net, [[1.0]], [[3.0]], optimizer=OfItsOwn(0.125), epochs=4)
    assert net.parameters.tolist() == [1.5, 0.5]


def doubled(xp, z):
    return 2 * z


def slope_of_doubled(xp, a):
    return 2 * xp.ones_like(a)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_activations_of_module_functions_are_copied_and_pickled_as_they_are(again):
    net = bp.MLP([2, 2], [activation(doubled, slope_of_doubled)], device="cpu")
    assert again(net).activations == net.activations


def test_activations_of_module_functions_are_known_where_they_are_not_registered(monkeypatch):
    """In other processes of a search, say."""
    own = activation(doubled, slope_of_doubled)
    with monkeypatch.context() as here:
        here.setattr(activations, "ACTIVATIONS", dict(activations.ACTIVATIONS))
        pickled = pickle.dumps(bp.register_activation(own))
    assert pickle.loads(pickled) == own


@pytest.mark.parametrize("function", [None, partial(lambda xp, z: 2 * z)], ids=["", "partial"])
def test_activations_of_lambdas_are_copied_and_to_be_pickled_are_registered(function, monkeypatch):
    monkeypatch.setattr(activations, "ACTIVATIONS", dict(activations.ACTIVATIONS))
    own = activation(function, slope_of_doubled)
    net = bp.MLP([2, 2], [own], device="cpu")
    assert copy.deepcopy(net).activations == (own,)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(net)
    bp.register_activation(own)
    assert pickle.loads(pickle.dumps(net)).activations == (own,)

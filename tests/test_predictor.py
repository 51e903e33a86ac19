"""Predictors: what the network predicted when they were made, from many threads, to the bit."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from cases import SOFTSIGN, TOLERANCE
from host.needs import needs_compiler

import backprop_gpu as bp
from backprop_gpu.compiled import CompileError
from backprop_gpu.compiled.forward import CompiledForward, why_not, worth_it
from backprop_gpu.compiled.threads import worth_waking

pytestmark = pytest.mark.usefixtures("compiled_soon")
ELEMENTWISE = sorted(set(bp.activations.ACTIVATIONS) - {"softmax"})
NO_EXPRESSION = bp.Activation(
    "plain", lambda xp, z: z, lambda xp, a: xp.ones_like(a), derivative_from="a"
)


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "c++")


def network(sizes=(7, 33, 5), activations=("gelu", "softmax"), dtype="float64", **options):
    net = bp.MLP(sizes, list(activations), device="cpu", dtype=dtype, seed=3, **options)
    random = np.random.default_rng(3)
    for b in net.biases:
        b[...] = random.normal(size=b.shape)
    return net


def samples(n, inputs=7, dtype="float64"):
    return np.random.default_rng(n).normal(size=(n, inputs)).astype(dtype)


def check(net, *, n, path="compiled"):
    x = samples(n, net.layer_sizes[0], net.dtype)
    found, expected = net.predictor(path=path)(x), net(x)
    assert found.dtype == net.dtype
    tolerance = TOLERANCE[net.dtype.name]
    np.testing.assert_allclose(found, expected, tolerance, tolerance * abs(expected).max())


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("n", [1, 2, 3, 31, 33, 64, 257, 1025])
def test_numbers_of_samples(n, dtype):
    check(network(dtype=dtype), n=n)


@needs_compiler
@pytest.mark.parametrize(
    "sizes",
    [(1, 1), (5, 3, 5, 4), (2, 31, 1), (33, 1, 257, 2), (257, 31, 33), (16, 64, 32, 10), (7, 300)],
)
def test_sizes(sizes):
    activations = [bp.LeakyReLU(0.1), *["sigmoid"] * (len(sizes) - 2)]
    for dtype, n in (("float32", 70), ("float64", 5), ("float64", 1)):
        check(network(sizes, activations, dtype), n=n)


@needs_compiler
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_activations(dtype):
    """All of them, one above the other; softmax in the middle, too, and as the head."""
    middle = len(ELEMENTWISE) // 2
    names = [*ELEMENTWISE[:middle], "softmax", *ELEMENTWISE[middle:], "softmax"]
    check(network([9] * len(names) + [3], names, dtype), n=50)


@needs_compiler
def test_optimised_as_it_is_used(monkeypatch):
    monkeypatch.delenv("CXX")
    for dtype, n in (("float64", 90), ("float32", 1)):
        check(network((20, 33, 40, 7), (bp.LeakyReLU(0.1), "tanh", "softmax"), dtype), n=n)


@needs_compiler
def test_a_sample_is_predicted_alike_whatever_is_beside_it():
    net, x = network((7, 33, 40, 5), ("gelu", "tanh", "softmax"), "float32"), samples(200)
    predict = net.predictor(path="compiled")
    together = predict(x)
    np.testing.assert_array_equal(np.concatenate([predict(row[None]) for row in x]), together)
    np.testing.assert_array_equal(predict(x[130:]), together[130:])


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_threads_change_no_bit(threads, monkeypatch):
    monkeypatch.setattr("backprop_gpu.compiled.forward.worth_waking", lambda flops, most: most)
    x = samples(1025)
    alone = network(threads=1).predictor(path="compiled")(x)
    shared = network(threads=threads).predictor(path="compiled")
    for n in (1025, 2):  # fewer samples than threads, too
        np.testing.assert_array_equal(shared(x[:n]), alone[:n])


def test_threads_are_woken_for_much_work():
    assert worth_waking(1e6, 8) == 1
    assert worth_waking(5e7, 8) == 2
    assert worth_waking(1e12, 8) == 8


@needs_compiler
def test_many_samples_take_several_calls(monkeypatch):
    net, x = network(), samples(100)
    whole = net.predictor(path="compiled")(x)
    monkeypatch.setattr("backprop_gpu.compiled.forward.MOST_FLOPS", 13.0 * 2 * net.weight_count)
    np.testing.assert_array_equal(net.predictor(path="compiled")(x), whole)


@pytest.mark.parametrize("path", ["auto", "steps"])
def test_from_many_threads_at_once(path):
    net = network()
    predict = net.predictor(path=path)
    inputs = [samples(n) for n in (1, 2, 3, 500, 8, 70)] * 20
    expected = [predict(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for found, right in zip(pool.map(predict, inputs), expected, strict=True):
            np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("path", ["auto", "steps"])
def test_parameters_are_those_of_the_moment(path):
    net, x = network(), samples(9)
    predict, before = net.predictor(path=path), net(x)
    net.parameters[...] = 0
    np.testing.assert_allclose(predict(x), before, 1e-12)
    np.testing.assert_allclose(predict(x), before, 1e-12)


@pytest.mark.parametrize("path", ["auto", "steps"])
def test_a_prediction_is_nobody_elses(path):
    predict, x = network().predictor(path=path), samples(3)
    first = predict(x)
    before = first.copy()
    predict(2 * x)
    np.testing.assert_array_equal(first, before)


class Own(np.ndarray):
    pass


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_inputs_are_converted_as_the_network_does(dtype):
    net = network(dtype=dtype)
    predict, wide = net.predictor(), samples(40, 14)
    frozen = wide[:, :7].astype(dtype)
    frozen.flags.writeable = False
    for x in (
        wide[:, ::2],
        np.asfortranarray(wide[:, :7]),
        wide[::-3, :7].astype("float32"),
        (3 * wide[:, :7]).astype(int),
        wide[:, :7].astype(dtype).byteswap().view(np.dtype(dtype).newbyteorder()),
        wide[:2, :7].tolist(),
        wide[:, :7].astype(dtype).view(Own),
        frozen,
    ):
        np.testing.assert_allclose(predict(x), net(x), TOLERANCE[dtype], 1e-6)


class OnGPU:
    __cuda_array_interface__ = None
    dtype, shape = np.dtype("float64"), (2, 7)


REFUSED = {
    "no sample": np.zeros((0, 7)),
    "a row": np.zeros(7),
    "too few columns": np.zeros((2, 6)),
    "transposed": np.zeros((7, 2)),
    "complex": np.zeros((2, 7), complex),
    "masked": np.ma.masked_equal(np.eye(7), 1),
    "NaN": np.full((2, 7), np.nan),
    "infinity": np.diag([1, 1, 1, 1, np.inf, 1, 1]),
    "infinity in the last of many": np.vstack([np.zeros((3000, 7)), np.full(7, -np.inf)]),
    "text": [["a"] * 7],
    "on a GPU": OnGPU(),
}


@pytest.mark.parametrize("path", ["auto", "steps"])
@pytest.mark.parametrize("what", REFUSED)
def test_what_the_network_refuses_is_refused_alike(what, path):
    net, x = network(threads=2), REFUSED[what]
    with pytest.raises((TypeError, ValueError)) as expected:
        net(x)
    with pytest.raises(type(expected.value)) as found:
        net.predictor(path=path)(x)
    assert str(found.value) == str(expected.value)


def test_infinities_arise_quietly():
    net = network((1, 9, 1), ("exp", "identity"), "float32")
    np.testing.assert_array_equal(net.predictor()([[1e30]]), net([[1e30]]))


def test_a_network_that_has_diverged_is_refused():
    net = network()
    net.weights[1][2, 3] = np.nan
    with pytest.raises(bp.NonFiniteError, match=r"weights\[1\]"):
        net.predictor()


class TestPath:
    @needs_compiler
    def test_networks_are_compiled(self):
        predict = network().predictor()
        assert predict.path == "compiled"
        assert "one call" in predict.why

    def test_large_networks_are_left_to_mkl(self):
        assert worth_it((784, 2048, 2048, 10), "float32")
        assert worth_it((784, 1024, 1024, 10), "float32", mkl=True)
        assert not worth_it((784, 1024, 1024, 10), "float64", mkl=True)

    def test_without_a_compiler(self, no_compiler):
        net, x = network(), samples(33)
        predict = net.predictor()
        assert predict.path == "steps"
        assert "install g++" in predict.why
        np.testing.assert_array_equal(predict(x), net(x))
        with pytest.raises(bp.DomainError, match=r"can't predict.*install g"):
            net.predictor(path="compiled")
        with pytest.raises(bp.DomainError, match="install g"):
            CompiledForward(net.layer_sizes, net.activations, net.parameters)

    @needs_compiler
    def test_an_activation_without_expressions(self):
        net, x = network(activations=(NO_EXPRESSION, "softmax")), samples(33)
        predict = net.predictor()
        assert predict.path == "steps"
        assert "'plain' has no C++" in predict.why
        np.testing.assert_array_equal(predict(x), net(x))
        with pytest.raises(bp.DomainError, match="'plain' has no C"):
            net.predictor(path="compiled")

    @needs_compiler
    def test_an_expression_that_does_not_compile(self):
        wrong = bp.Activation(
            **{"name": "wrong", "function": NO_EXPRESSION.function, "derivative_from": "a"},
            **{"derivative": NO_EXPRESSION.derivative, "cuda": "no_such(z)"},
            cuda_derivative="real(1)",
        )
        net, x = network(activations=(wrong, "softmax")), samples(33)
        with pytest.warns(UserWarning, match=r"(?s)no_such.*NumPy predicts instead"):
            predict = net.predictor()
        assert predict.path == "steps"
        assert "no_such" in predict.why
        np.testing.assert_array_equal(predict(x), net(x))
        with pytest.raises(CompileError, match="no_such"):
            net.predictor(path="compiled")

    @needs_compiler
    def test_own_entries_with_expressions(self):
        """Of the function: predictions need no derivative."""
        softsign = replace(SOFTSIGN, cuda_derivative=None)
        check(network(activations=(softsign, softsign)), n=33)

    def test_asked_for(self):
        predict = network().predictor(path="steps")
        assert (predict.path, predict.why) == ("steps", "asked for")
        with pytest.raises(bp.UnknownNameError, match="did you mean 'compiled'"):
            network().predictor(path="compile")

    def test_elsewhere_than_on_the_cpu(self, backend):
        net, x = bp.MLP([7, 33, 5], device=backend), samples(33, dtype="float32")
        predict = net.predictor()
        if backend.device != "cpu":
            assert predict.path == "steps"
            assert f"the network is on {net.device}" in predict.why
            with pytest.raises(bp.DomainError, match="the network is on"):
                net.predictor(path="compiled")
        np.testing.assert_allclose(predict(x), net(x), 1e-5, 1e-5)

    @needs_compiler
    def test_reasons(self):
        tanh = network().activations[:1]
        assert why_not((2, 2), tanh, "float32") is None
        assert "float16" in why_not((2, 2), tanh, "float16")
        assert "layers" in why_not([1] * 41, tanh * 40, "float32")


@needs_compiler
def test_too_little_memory_is_said(monkeypatch):
    predict = network().predictor(path="compiled")
    monkeypatch.setattr(predict._forward, "_predict", lambda *arguments: -1)
    with pytest.raises(MemoryError, match="forward pass"):
        predict(samples(3))


@pytest.mark.parametrize("path", ["auto", "steps"])
def test_copies(path):
    net, x = network(), samples(33)
    predict = net.predictor(path=path)
    for twin in (copy.copy(predict), copy.deepcopy(predict), pickle.loads(pickle.dumps(predict))):
        assert (twin.path, twin.why) == (predict.path, predict.why)
        np.testing.assert_array_equal(twin(x), predict(x))
    again = pickle.loads(pickle.dumps(net))  # a network that has a predictor
    np.testing.assert_array_equal(again(x), net(x))
    assert repr(predict).startswith("Predictor(MLP(7-33-5")

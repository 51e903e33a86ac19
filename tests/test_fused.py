"""The elementwise work of steps in C++: operation by operation what NumPy computes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import HEADS, OPTIMIZERS, TOLERANCE
from host.device import stand_in_library
from host.needs import needs_compiler, needs_gpp

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS, find_activation
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.backends.mkl import Mkl
from backprop_gpu.compiled import CompileError, FusedOperations, compiler, fused
from backprop_gpu.losses import find_loss
from backprop_gpu.optimizers import numbers_of

pytestmark = pytest.mark.usefixtures("compiled_soon")
SHAPES = [(1, 1), (1, 31), (2, 33), (33, 2), (257, 31), (130, 1025)]


@pytest.fixture(autouse=True)
def optimised_as_it_is_used(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)


def normal(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def fused_for(g="tanh", loss="mse", optimizer=None, *, dtype):
    return FusedOperations([find_activation(g)], find_loss(loss), optimizer or bp.SGD(), dtype)


def both(made, work, arrays):
    """What `work(backend, *arrays)` leaves in the arrays: fused, and by NumPy in float64."""
    ours = [array.copy() for array in arrays]
    numpys = [array.astype("float64") for array in arrays]
    with np.errstate(all="ignore"):
        made.record(NumpyBackend(), lambda backend: work(backend, *ours))()
        work(NumpyBackend(), *numpys)
    return ours, numpys


def check_close(ours, numpys, dtype, tolerances=TOLERANCE):
    tolerance = tolerances[dtype.name]
    for own, expected in zip(ours, numpys, strict=True):
        np.testing.assert_allclose(own, expected, tolerance, tolerance * abs(expected).max())


@needs_compiler
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("g", ACTIVATIONS)
def test_bias_and_activation(g, shape, in_place, dtype):
    def work(backend, z, b, a):
        backend.bias_activation(z, b, find_activation(g), z if in_place else a)

    arrays = normal(shape, dtype), normal(shape[1], dtype, 1), np.zeros(shape, dtype)
    check_close(*both(fused_for(g, dtype=dtype), work, arrays), dtype)


@needs_compiler
@pytest.mark.parametrize("place", ["of its own", "dC_da", "reference"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("g", ACTIVATIONS)
def test_delta_and_its_column_sums(g, shape, place, dtype):
    entry = find_activation(g)

    def work(backend, dC_da, reference, delta, dC_db):
        out = {"of its own": delta, "dC_da": dC_da, "reference": reference}[place]
        backend.delta(dC_da, entry, reference, out, dC_db)

    reference = normal(shape, dtype, 1)
    if entry.derivative_from == "a":
        reference = entry.function(np, reference)
    arrays = normal(shape, dtype), reference, np.zeros(shape, dtype), np.ones(shape[1], dtype)
    check_close(*both(fused_for(g, dtype=dtype), work, arrays), dtype)


@needs_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("g", "loss"), HEADS)
def test_loss_and_output_delta(g, loss, shape, dtype):
    entry, cost = find_activation(g), find_loss(loss)

    def work(backend, z, a, y, C):
        backend.output_delta(cost, entry, z, a, y, C, a, a)

    z, y = normal(shape, dtype), abs(normal(shape, dtype, 1)) + 0.1
    arrays = z, entry.function(np, z), y / y.sum(axis=1, keepdims=True), np.zeros(1, dtype)
    check_close(*both(fused_for(g, loss, dtype=dtype), work, arrays), dtype)


@pytest.fixture
def team():
    """MKL's library, and what its threads are from: three of them, if nothing else is said."""
    library = stand_in_library("mkl_stand_in.cpp")
    yield library
    library.stand_in_limit_threads(64)


@needs_compiler
@needs_gpp
@pytest.mark.parametrize("most", [1, 2, 64])
@pytest.mark.parametrize("shape", [(700, 150), (3, 40_000), (70_000, 2)])
def test_mkls_threads_share_the_work_and_change_no_bit(shape, most, team, dtype):
    tanh, made = find_activation("tanh"), fused_for(optimizer=bp.Adam(), dtype=dtype)
    size = shape[0] * shape[1]
    numbers = numbers_of(bp.Adam(), range(1), np.zeros(1))[0].astype(dtype)

    def work(backend, z, b, delta, dC_db, p, g, m, v):
        backend.bias_activation(z, b, tanh, z)
        backend.delta(delta, tanh, z, delta, dC_db)
        backend.update(bp.Adam(), p, g, [m, v], numbers, size // 3)

    arrays = [normal(shape, dtype), normal(shape[1], dtype, 1), normal(shape, dtype, 2)]
    arrays += [np.zeros(shape[1], dtype), *(abs(normal(size, dtype, i)) for i in range(3, 7))]
    team.stand_in_limit_threads(most)  # fewer may come than are asked for
    before, left = team.stand_in_parallel_calls(), []
    for backend in (NumpyBackend(), NumpyBackend(mkl=Mkl(team, team))):
        own = [array.copy() for array in arrays]
        made.record(backend, lambda backend, own=own: work(backend, *own))()
        left.append(own)
    assert team.stand_in_parallel_calls() == before + (2 if shape[1] == 2 else 3)
    for alone, shared in zip(*left, strict=True):
        np.testing.assert_array_equal(alone, shared)


@needs_compiler
@needs_gpp
def test_mkls_threads_are_as_many_as_the_network_may_have(team):
    z, before = normal((1000, 100), "float32"), team.stand_in_parallel_calls()
    backend = NumpyBackend(threads=1, mkl=Mkl(team, team))

    def work(backend, z, b):
        backend.bias_activation(z, b, find_activation("tanh"), z)

    replay = fused_for(dtype=z.dtype).record(backend, lambda b: work(b, z, z[0].copy()))
    with backend.computing():
        replay()
    assert team.stand_in_parallel_calls() == before
    replay()
    assert team.stand_in_parallel_calls() == before + 1


@needs_compiler
def test_a_loss_alone_needs_no_delta():
    made, z = fused_for("sigmoid", dtype=np.dtype("float32")), normal((5, 3), "float32")
    C = np.zeros(1, "float32")

    def work(backend):
        backend.output_delta(find_loss("mse"), find_activation("sigmoid"), z, z, 0 * z, C)

    made.record(NumpyBackend(), work)()
    assert C[0] == pytest.approx(np.mean(z**2))


@needs_compiler
@pytest.mark.parametrize("size", [1, 31, 257, 70_000])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_updates(optimizer, size, dtype):
    """Of weights, which decay, and biases, which don't; the third step of a training."""
    numbers = numbers_of(optimizer, range(2, 3), np.zeros(1))[0].astype(dtype)

    def work(backend, p, g, *state):
        backend.update(optimizer, p, g, state, numbers.astype(p.dtype), size // 2)

    state = [abs(normal(size, dtype, 2 + i)) for i in range(optimizer.slots)]
    arrays = normal(size, dtype), normal(size, dtype, 1), *state
    ours, numpys = both(fused_for(optimizer=optimizer, dtype=dtype), work, arrays)
    check_close([ours[0], *ours[2:]], [numpys[0], *numpys[2:]], dtype)  # the gradient is lost


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("g", sorted(set(ACTIVATIONS) - {"softmax"}))
def test_what_is_not_finite_is_seen(g, value, dtype):
    z = np.full((2, 20), value, dtype)

    def work(backend, z, b):
        backend.bias_activation(z, b, find_activation(g), z)

    (ours, _), (numpys, _) = both(fused_for(g, dtype=dtype), work, (z, np.zeros(20, dtype)))
    np.testing.assert_array_equal(ours, numpys.astype(dtype))


def small(activations=("tanh", "sigmoid"), dtype="float32", **options):
    return bp.MLP([6, 20, 3], list(activations), device="cpu", seed=1, dtype=dtype, **options)


def data(n=50, dtype="float32"):
    y = abs(normal((n, 3), dtype, 1)) + 0.1
    return normal((n, 6), dtype), y / y.sum(axis=1, keepdims=True)


def trained(path, net=None, **options):
    net = net or small()
    options = {"epochs": 3, "batch_size": 8, "optimizer": bp.SGD(0.1)} | options
    x, y = data(dtype=net.dtype.name)
    history = bp.train(net, x, y, path=path, **options)
    return np.array(history.loss), net.parameters, history


@needs_compiler
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": bp.SGD(0.1, momentum=0.9, weight_decay=0.01)},
        {"clip_norm": 0.1},
        {"clip_value": 0.01},
        {"clip_sample_norm": 0.1},
        {"validation": data(9)},
        {"shuffle": False, "batch_size": None},
        {"loss": "bce"},
    ],
    ids=lambda options: ", ".join(options),
)
def test_training_leads_where_steps_lead(options, dtype):
    ours, numpys = (trained(path, small(dtype=dtype), **options) for path in ("fused", "steps"))
    assert ours[2].path == "fused"
    check_close(ours[:2], numpys[:2], dtype, {"float32": 1e-4, "float64": 1e-11})


@needs_compiler
def test_two_trainings_are_equal_to_the_bit():
    (losses, parameters, _), (again, same, _) = (trained("fused") for _ in range(2))
    assert losses.tolist() == again.tolist()
    np.testing.assert_array_equal(parameters, same)


@needs_compiler
def test_trainings_at_the_same_time():
    _, expected, _ = trained("fused", optimizer=bp.Adam(0.01))
    with ThreadPoolExecutor(4) as pool:
        options = {"optimizer": bp.Adam(0.01)}
        found = list(pool.map(lambda _: trained("fused", **options)[1], range(8)))
    for parameters in found:
        np.testing.assert_array_equal(parameters, expected)


@needs_compiler
def test_a_stream_of_batches():
    def batches(epoch):
        x, y = data(20)
        return [(x[:8], y[:8]), (x[8:9], y[8:9]), (x[9:], y[9:])]

    results = []
    for path in ("fused", "steps"):
        net = small()
        bp.train(net, batches, epochs=2, path=path)
        results.append(net.parameters)
    check_close(*[[parameters] for parameters in results], np.dtype("float32"))


@needs_compiler
def test_batches_too_large_for_the_memory_are_computed_in_parts(monkeypatch):
    _, expected, _ = trained("fused")
    net, empty = small(), NumpyBackend.empty

    def little(self, shape, dtype):
        if shape == (8 * 20,):  # the hidden layer's a of a whole batch
            raise MemoryError
        return empty(self, shape, dtype)

    monkeypatch.setattr(NumpyBackend, "empty", little)
    with pytest.warns(RuntimeWarning, match="in parts of"):
        _, parameters, _ = trained("fused", net)
    check_close([parameters], [expected], np.dtype("float32"))


@needs_compiler
def test_own_entries_without_expressions_are_numpys():
    cube = bp.activations.Activation("cube", lambda xp, z: z**3, lambda xp, z: 3 * z**2, "z")
    results = [trained(path, small([cube, "sigmoid"]))[:2] for path in ("fused", "steps")]
    check_close(*results, np.dtype("float32"))


@needs_compiler
def test_own_entries_with_expressions_are_compiled(monkeypatch):
    sources = []
    monkeypatch.setattr(fused, "load", lambda source: sources.append(source))
    expressions = {"cuda": "z * z * z", "cuda_derivative": "3 * z * z"}
    cube = bp.activations.Activation(
        "cube", lambda xp, z: z**3, lambda xp, z: 3 * z**2, "z", **expressions
    )
    FusedOperations([cube, cube], find_loss("mse"), bp.Adam(), np.dtype("float32"))
    assert ["3 * z * z" in source for source in sources] == [True, True, False]


@needs_compiler
@pytest.mark.parametrize("path", ["fused", "compiled"])
def test_a_derivative_names_what_it_is_computed_from(path):
    swish = bp.activations.Activation(
        "swish",
        lambda xp, z: z / (1 + xp.exp(-z)),
        lambda xp, z: (1 + z * (1 - 1 / (1 + xp.exp(-z)))) / (1 + xp.exp(-z)),
        "z",
        cuda="z / (real(1) + exp(-z))",
        cuda_derivative="a + (real(1) - a) / (real(1) + exp(-z))",
    )
    with pytest.raises(CompileError, match=r"\ba\b"):
        trained(path, small([swish, "sigmoid"]))


@needs_compiler
def test_large_products_stay_mkls():
    backend = NumpyBackend(mkl=Mkl(stand_in_library("mkl_stand_in.cpp")))
    sizes, x = [200, 300, 5], normal((60, 200), "float32")
    results = []
    for path in ("fused", "steps"):
        net = bp.MLP(sizes, ["tanh", "sigmoid"], device=backend, seed=1)
        bp.train(net, x, x[:, :5], path=path, epochs=2, batch_size=30)
        results.append(net.parameters)
    check_close(*[[parameters] for parameters in results], np.dtype("float32"))


@needs_compiler
def test_a_divergence_names_the_layer_and_keeps_the_last_good_parameters():
    net = small(["relu", "identity"])
    with pytest.raises(bp.TrainingDiverged, match="layer 2") as raised:
        trained("fused", net, optimizer=bp.SGD(1e30))
    assert raised.value.history.path == "fused"
    assert np.isfinite(net.parameters).all()


@needs_compiler
@pytest.mark.parametrize(
    ("optimizer", "batch_size", "batches", "path"),
    [
        (bp.SGD(), 64, 200, "steps"),
        (bp.Adam(), 64, 200, "fused"),
        (bp.SGD(), 1024, 200, "compiled"),
        (bp.Adam(), 64, 20, "steps"),
    ],
)
def test_it_is_chosen_where_it_saves_more_than_compiling_takes(
    optimizer, batch_size, batches, path
):
    net = bp.MLP([784, 2048, 2048, 10], device="cpu")
    samples = batch_size * batches
    chosen = bp.plan(net, samples=samples, batch_size=batch_size, optimizer=optimizer)
    assert chosen.path == path
    assert f"{batches} steps" in chosen.why


@needs_compiler
def test_a_training_that_goes_on_stays_fused_and_ends_with_the_same_bits(tmp_path):
    pytest.importorskip("safetensors")
    _, expected, _ = trained("fused", epochs=5)
    trained("fused", epochs=2, checkpoint=tmp_path)
    _, parameters, history = trained("auto", epochs=5, checkpoint=tmp_path, resume=True)
    assert history.path == "fused"
    np.testing.assert_array_equal(parameters, expected)


@needs_compiler
@pytest.mark.parametrize("path", ["steps", "fused", "compiled"])
def test_parameters_that_are_read_only_are_refused(path):
    net = small()
    net.parameters.setflags(write=False)
    with pytest.raises(bp.DomainError, match="read-only"):
        trained(path, net)
    np.testing.assert_array_equal(net.parameters, small().parameters)


@needs_compiler
def test_estimators_take_it():
    X, _ = data(40)
    results = []
    for path in ("fused", "steps"):
        options = {"hidden_layer_sizes": (20,), "max_iter": 5, "random_state": 0, "alpha": 0.1}
        model = bp.MLPRegressor(**options, path=path, device="cpu")
        with pytest.warns(match="converged"):
            model.fit(X, X[:, 0], sample_weight=np.linspace(0.5, 1.5, 40))
        assert model.path_ == path
        results.append([*model.coefs_, np.array(model.loss_curve_)])
    for own, expected in zip(*results, strict=True):
        np.testing.assert_allclose(own, expected, 1e-5, 1e-6)


def test_without_a_compiler_it_can_not_be_had(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    net = small()
    with pytest.raises(bp.DomainError, match=r"path='fused'.* no C\+\+ compiler was found"):
        trained("fused", net)
    large = bp.MLP([784, 2048, 2048, 10], device="cpu")
    assert bp.plan(large, samples=10**6, batch_size=64, optimizer=bp.Adam()).path == "steps"


def test_what_the_compiler_refuses_is_run_by_numpy_unless_asked_for(monkeypatch):
    def refuse(source):
        raise CompileError("c++ could not compile the network")

    monkeypatch.setattr(fused, "load", refuse)
    net = small()
    with pytest.raises(CompileError, match="could not compile"):
        trained("fused", net)
    np.testing.assert_array_equal(net.parameters, small().parameters)

    monkeypatch.setattr("backprop_gpu.training.planning.WORTH_FUSING", 0)
    monkeypatch.setattr("backprop_gpu.training.planning.seconds_worth_compiling", lambda *_, mkl: 9)
    with pytest.warns(UserWarning, match="NumPy runs the steps instead"):
        _, parameters, history = trained("auto", net)
    assert history.path == "steps"
    np.testing.assert_array_equal(parameters, trained("steps")[1])


def test_it_is_for_the_cpu(backend):
    net = bp.MLP([2, 2], device=backend)
    if net.device == "cpu" and compiler.compiler():
        assert bp.plan(net, samples=1, path="fused").path == "fused"
    else:
        with pytest.raises(bp.DomainError, match="path='fused'"):
            bp.plan(net, samples=1, path="fused")

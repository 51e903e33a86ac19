"""Steps as CUDA graphs, on a stand-in whose stream can be captured; the kernels are the shipped."""

import warnings
from copy import copy

import numpy as np
import pytest
from host.backend import emulated_backend
from host.device import StandInDevice
from host.needs import needs_gpp

import backprop_gpu as bp
from backprop_gpu import schedules
from backprop_gpu.backends.recording import Recording, Replay
from backprop_gpu.checks import check_data, check_loss
from backprop_gpu.losses import LOSSES
from backprop_gpu.optimizers import numbers_of
from backprop_gpu.training.batches import shuffled_batches
from backprop_gpu.training.paths import graphs
from backprop_gpu.training.paths.single_steps import Steps

pytestmark = needs_gpp

OPTIMIZERS = (
    bp.SGD(schedules.StepDecay(0.5, every=1, factor=0.7)),
    bp.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    bp.AdamW(0.01, weight_decay=0.1),
)

CLIPPING = {"clip_value": 0.05, "clip_norm": 0.1}


def data(n=23, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.random((n, 2))
    return rng.normal(size=(n, 3)), y / y.sum(axis=1, keepdims=True)


def network(device="cpu", activations=("tanh", "sigmoid"), **options):
    return bp.MLP([3, 5, 2], activations, device=device, **options)


def trained(net, **options):
    """Parameters and losses, after a training that is long enough for graphs."""
    options = {"optimizer": bp.SGD(0.1), "epochs": 12, "batch_size": 4} | options
    history = bp.train(net, *data(), **options)
    return net.backend.to_numpy(net.parameters), history.loss


@pytest.mark.parametrize("batch_size", [None, 1, 4, 12, 23], ids=str)
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_graphs_train_as_numpy_does(optimizer, shuffle, batch_size):
    device = StandInDevice()
    options = {"optimizer": optimizer, "shuffle": shuffle, "batch_size": batch_size}
    expected = trained(network(dtype="float64"), **options)
    parameters, losses = trained(network(device.backend(), dtype="float64"), **options)
    np.testing.assert_allclose(parameters, expected[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(losses, expected[1], rtol=1e-9)
    assert device.graph_launches > 0


@pytest.mark.parametrize(
    ("output", "loss"),
    [("sigmoid", "mse"), ("softmax", "mse"), ("identity", "sse"), ("softmax", "cce")],
)
@pytest.mark.parametrize("hidden", [bp.LeakyReLU(0.1), "gelu"], ids=str)
def test_graphs_give_the_bits_that_single_launches_give(hidden, output, loss):
    options = {"loss": loss, "optimizer": bp.Adam(0.01)}
    alone = trained(network(emulated_backend(), (hidden, output)), **options)
    as_graphs = trained(network(StandInDevice().backend(), (hidden, output)), **options)
    np.testing.assert_array_equal(alone[0], as_graphs[0])
    assert alone[1] == as_graphs[1]
    by_numpy = trained(network("cpu", (hidden, output)), **options)
    np.testing.assert_allclose(alone[0], by_numpy[0], rtol=1e-3, atol=1e-4)


def test_an_epoch_is_a_few_launches_of_graphs_and_nothing_else():
    device = StandInDevice()
    net = network(device.backend())
    x, y = data(4 * 13 + 1)  # 14 batches; the first step of a chunk is made alone
    seen = []

    def look(epoch):
        seen.append((device.launches, device.graph_launches, device.allocations))

    bp.train(net, x, y, batch_size=4, epochs=8, callbacks=[look])
    single, graphs, arrays = (np.diff(column)[3:] for column in np.array(seen).T)
    # The order of the epoch; 1 step by two graphs, its load by two kernels, and three that keep
    # its parameters if they and the loss are finite; then 13 = 8 + 4 + 1 steps, of which the last
    # one has a batch of its own size.
    np.testing.assert_array_equal(graphs, 2 + 3)
    np.testing.assert_array_equal(single, 1 + 2 + 3)
    np.testing.assert_array_equal(arrays, 0)


def test_a_run_on_one_batch_is_a_graph_for_every_window():
    device = StandInDevice()
    net = network(device.backend())
    x, y = check_data(net, *data(4), check_loss(net, "mse"))
    optimizer = bp.SGD(0.1)
    steps = Steps(net, shuffled_batches(x, y, 4, None, net.backend), LOSSES["mse"], optimizer)
    run = range(1 + 2 * graphs.MOST)
    for _ in range(2):
        steps.run(run, numbers_of(optimizer, run, np.zeros(len(run))))
    # Of a step: two products forward, three backward less dC/dx; bias and activation, twice; the
    # loss in two stages; a column sum, and a delta with one, in two each; the update.
    of_a_step = 4 + 2 + 2 + 2 + 2 + 1
    # The gradients and the update of the first step in the second run, and windows but the first.
    assert device.graphs == [graphs.MOST * (of_a_step + 1), of_a_step, 1]
    assert device.graph_launches == 3 + 2


def test_what_has_no_kernel_is_not_captured_and_trains_all_the_same():
    own = bp.Activation("cube", lambda xp, z: z**3, lambda xp, z: 3 * z**2, "z")
    device = StandInDevice()
    parameters, losses = trained(network(device.backend(), (own, "sigmoid"), dtype="float64"))
    expected = trained(network("cpu", (own, "sigmoid"), dtype="float64"))
    np.testing.assert_allclose(parameters, expected[0], rtol=1e-9)
    np.testing.assert_allclose(losses, expected[1], rtol=1e-9)
    assert set(device.graphs) == {1}  # the update


def test_why_there_is_no_graph():
    def why_not(*args, optimizer=OPTIMIZERS[0]):
        return graphs.why_not_captured(network(*args), LOSSES["mse"], optimizer)

    class Own(bp.SGD):
        cuda = None

    cube = bp.Activation("cube", lambda xp, z: z**3, lambda xp, z: 3 * z**2, "z")
    backend = StandInDevice().backend()
    assert why_not(backend) is None
    assert why_not(backend, (cube, "sigmoid")) == "'cube' has no CUDA expressions"
    assert why_not(backend, ("tanh", cube)) == "'cube' has no CUDA expressions"
    assert why_not(backend, optimizer=Own()) == "Own has no CUDA expression"
    assert why_not(emulated_backend()) == "this backend makes no CUDA graphs"
    assert why_not("cpu") == "the network is on cpu"


def test_a_plan_tells_what_stands_between_graphs():
    net = network(StandInDevice().backend())

    def why(**asked):
        return bp.plan(net, samples=64, epochs=10, **asked).why

    assert "steps are a CUDA graph" in why()
    assert "a CUDA graph each, with streaming between them" in why(streams=True)
    assert why(weighted=True).endswith(
        "weighing samples takes single steps; its kernels are launched one by one, for "
        "'weighted mse' has no CUDA expressions"
    )


def test_a_weighted_loss_is_not_captured_as_its_plan_says():
    device, weights = StandInDevice(), np.arange(1, 24)
    trained(network(device.backend()), sample_weight=weights)
    assert set(device.graphs) == {1}  # the update


def test_clipped_data_from_files_take_no_single_launch(tmp_path):
    np.save(tmp_path / "x.npy", data()[0])
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    net = network(StandInDevice().backend())
    for options in ({}, {"clip_norm": 1.0}):
        with pytest.raises(bp.DomainError, match="streaming takes single steps"):
            bp.train(net, x, data()[1], batch_size=4, path="one launch", **options)


def test_a_plan_takes_no_memory_however_large_the_network_is():
    device, sizes = StandInDevice(), []
    backend = device.backend()
    net = bp.MLP([300, 3000, 10], device=backend)
    whole = backend.empty
    backend.empty = lambda shape, dtype: sizes.append(np.prod(shape)) or whole(shape, dtype)
    chosen = bp.plan(net, samples=10**9, optimizer=bp.Adam())
    assert f"{graphs.MOST} steps are a CUDA graph" in chosen.why
    assert max(sizes) < 100


def test_where_capturing_fails_kernels_are_launched_one_by_one():
    def fail(calls):
        raise RuntimeError("operation not permitted when stream is capturing")

    device = StandInDevice()
    net = network(device.backend(capture=fail), dtype="float64")
    with pytest.warns(RuntimeWarning, match="no CUDA graph could be made.*not permitted"):
        parameters, losses = trained(net)
    expected = trained(network(dtype="float64"))
    np.testing.assert_allclose(parameters, expected[0], rtol=1e-9)
    assert losses == pytest.approx(expected[1])


def test_capturing_fails_where_something_is_allocated():
    device = StandInDevice()
    backend = device.backend()
    replay = Replay(Recording([lambda: backend.empty((3,), np.dtype("float32"))]), device.capture)
    replay()
    with pytest.warns(RuntimeWarning, match=r"CaptureError: xp\.empty while"):
        replay()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay()  # it is not tried again
    assert device.allocations == 3


@pytest.mark.parametrize("options", [{"clip_norm": 0.1}, {"clip_value": 0.01}, CLIPPING], ids=str)
def test_clipping_is_in_the_graphs(options):
    device = StandInDevice()
    parameters, _ = trained(network(device.backend(), dtype="float64"), **options)
    expected, _ = trained(network(dtype="float64"), **options)
    np.testing.assert_allclose(parameters, expected, rtol=1e-9, atol=1e-12)
    assert 4 * min(device.graphs) < max(device.graphs)


def test_clipping_of_samples_is_between_two_graphs():
    device, options = StandInDevice(), {"clip_sample_norm": 0.1}
    parameters, _ = trained(network(device.backend(), dtype="float64"), **options)
    expected, _ = trained(network(dtype="float64"), **options)
    np.testing.assert_allclose(parameters, expected, rtol=1e-9, atol=1e-12)
    assert len(device.graphs) == 2 * 2  # gradients and update, for whole batches and the remainder


def test_batches_from_elsewhere_are_two_graphs_each():
    device = StandInDevice()
    net, twin = network(device.backend(), dtype="float64"), network(dtype="float64")
    x, y = data(20)

    def batches(epoch):
        return ((x[i : i + 4], y[i : i + 4]) for i in range(0, 20, 4))

    bp.train(net, batches, epochs=5)
    bp.train(twin, batches, epochs=5)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=1e-9)
    assert len(device.graphs) == 2


def test_an_estimators_penalty_is_in_the_graphs():
    """alpha is not 0 unless somebody says so; its penalty is a part of the loss."""
    pytest.importorskip("sklearn")
    x, y = data(23)
    options = {"hidden_layer_sizes": 5, "random_state": 0, "max_iter": 4, "batch_size": 1}
    device = StandInDevice()
    with pytest.warns(match="Maximum iterations"):
        on_cpu = bp.MLPRegressor(**options, device="cpu").fit(x, y)
    with pytest.warns(match="Maximum iterations"):
        in_graphs = bp.MLPRegressor(**options, device=device.backend()).fit(x, y)
    np.testing.assert_allclose(in_graphs.loss_curve_, on_cpu.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(in_graphs.coefs_[0], on_cpu.coefs_[0], rtol=1e-9)
    # An epoch of 23 batches is a step alone, and 16 + 4 + 2 in three graphs.
    assert 16 * min(device.graphs) in device.graphs


def test_divergence_within_a_graph_gives_back_good_parameters():
    net = bp.MLP([1, 1], ["identity"], device=StandInDevice().backend(), seed=3)
    with pytest.raises(bp.TrainingDiverged) as caught:
        bp.train(net, [[1e6]], [[1.0]], optimizer=bp.SGD(1.0), epochs=500)
    assert np.isfinite(net.parameters).all()
    assert np.isfinite(caught.value.history.loss).all()


@pytest.mark.filterwarnings("error")
def test_a_rate_that_is_too_large_for_the_dtype_warns_of_nothing():
    net = bp.MLP([1, 1], ["identity"], device=StandInDevice().backend(), seed=3)
    with pytest.raises(bp.TrainingDiverged):
        bp.train(net, [[1.0], [2.0]], [[1.0], [0.0]], optimizer=bp.SGD(1e39), epochs=9)


def test_memory_that_is_too_small_for_a_batch():
    device = StandInDevice()
    backend = device.backend()
    whole = backend.empty

    def empty(shape, dtype):
        if np.prod(shape) > 5 * 12 + 1:
            raise MemoryError
        return whole(shape, dtype)

    net = network(backend, dtype="float64")
    backend.empty = empty
    with pytest.warns(RuntimeWarning, match="too little memory"):
        parameters, _ = trained(net, batch_size=None)
    expected, _ = trained(network(dtype="float64"), batch_size=None)
    np.testing.assert_allclose(parameters, expected, rtol=1e-9)


# The same on a GPU, where a warning (no graph could be made) is an error.


@pytest.fixture
def launching_singly(backend):
    singly = copy(backend)
    singly._capture = None
    return singly


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["gpu"], indirect=True)
@pytest.mark.parametrize("batch_size", [None, 4], ids=str)
@pytest.mark.parametrize(
    ("optimizer", "clipping"),
    [*((optimizer, {}) for optimizer in OPTIMIZERS), (OPTIMIZERS[0], CLIPPING)],
    ids=str,
)
def test_on_a_gpu(optimizer, clipping, batch_size, backend, launching_singly, dtype):
    options = {"optimizer": optimizer, "batch_size": batch_size, "epochs": 200, **clipping}
    nets = [network(device, dtype=dtype) for device in (backend, launching_singly, "cpu")]
    assert graphs.why_not_captured(nets[0], LOSSES["mse"], optimizer) is None
    by_graphs, by_launches, by_numpy = (trained(net, path="steps", **options) for net in nets)
    np.testing.assert_array_equal(by_graphs[0], by_launches[0])
    assert by_graphs[1] == by_launches[1]
    tolerance = {"float32": 1e-3, "float64": 1e-9}[dtype.name]
    np.testing.assert_allclose(by_graphs[0], by_numpy[0], rtol=tolerance, atol=tolerance)

"""Whole training in one launch: step by step what NumPy computes, whatever the sizes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from cases import HEADS, OPTIMIZERS, TOLERANCE
from host import nvrtc
from host.backend import emulated_backend
from host.launcher import KernelError
from host.mutants import MutantLauncher
from host.needs import needs_gpp, needs_nvrtc
from host.one_launch import Case, force

import backprop_gpu as bp
from backprop_gpu.losses import find_loss
from backprop_gpu.optimizers import numbers_of
from backprop_gpu.shuffle import as_keys, orders, shuffled
from backprop_gpu.training.batches import shuffled_batches
from backprop_gpu.training.crossovers import CROSSOVERS, Crossover
from backprop_gpu.training.history import History
from backprop_gpu.training.paths import one_launch
from backprop_gpu.training.paths.one_launch import Gpu, Kernel, OneLaunch, choose, state_length
from backprop_gpu.training.paths.one_launch_steps import OneLaunchSteps
from backprop_gpu.training.paths.step import NO_LIMITS, Limits
from backprop_gpu.training.run import Run
from backprop_gpu.training.shared_launch import alike, train_together

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


@pytest.fixture(params=["train_warp", "train_block"])
def kernel(request, monkeypatch):
    """Whatever fits both kernels is trained by each, with tiles of 4 samples."""
    return force(request.param, monkeypatch)


def check_sizes(sizes, n, batch_size, dtype):
    activations = [bp.LeakyReLU(0.1), *["sigmoid"] * (len(sizes) - 2)]
    Case(sizes, activations, n=n, batch_size=batch_size, dtype=dtype, steps=4).check()


@needs_gpp
@pytest.mark.parametrize(
    ("sizes", "n", "batch_size", "dtype"),
    [
        ((5, 3, 5, 4), 1, 1, "float64"),  # the textbook's
        ((1, 1), 2, 1, "float32"),
        ((32, 32), 10, 4, "float32"),
        ((31, 17, 32), 9, 9, "float32"),
        ((2, 1, 32, 3), 5, 2, "float64"),
        ((3, 4, 4, 4, 4, 4, 2), 70, 33, "float32"),
        ((8, 9, 1), 300, 257, "float64"),
    ],
)
def test_sizes_of_a_warp(sizes, n, batch_size, dtype, monkeypatch):
    force("train_warp", monkeypatch)
    check_sizes(sizes, n, batch_size, dtype)


@needs_gpp
@pytest.mark.parametrize(
    ("sizes", "n", "batch_size", "dtype"),
    [
        ((5, 3, 5, 4), 1, 1, "float64"),
        ((1, 1), 2, 1, "float32"),
        ((33, 65, 3), 10, 4, "float32"),
        ((3, 129, 5), 9, 9, "float32"),  # a patch for some threads, none for others
        ((70, 70, 2), 70, 33, "float32"),  # two patches for some threads
        ((100, 125, 3), 90, 81, "float32"),  # patches of 8 x 8, and of 8 x 4
        ((2, 256, 1), 7, 5, "float32"),
        ((4, 3, 4, 3, 4, 3), 300, 257, "float64"),
    ],
)
def test_sizes_of_a_block(sizes, n, batch_size, dtype, monkeypatch):
    force("train_block", monkeypatch, tile=67)
    monkeypatch.setattr(one_launch, "gpu_of", lambda backend: Gpu(227 << 10))
    check_sizes(sizes, n, batch_size, dtype)


ELEMENTWISE = sorted(set(bp.activations.ACTIVATIONS) - {"softmax"})


@needs_gpp
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("some", [slice(4), slice(4, None)], ids=["first", "second"])
def test_activations(some, dtype, kernel):
    """One above the other."""
    activations = [*ELEMENTWISE[some], "softmax"]
    Case([4] * len(activations) + [5], activations, "cce", dtype=dtype).check()


@needs_gpp
@pytest.mark.parametrize(("activation", "loss"), HEADS)
def test_losses(activation, loss, kernel):
    Case((4, 10, 5), ["tanh", activation], loss, n=19, batch_size=9).check()


@needs_gpp
def test_softmax_inside(monkeypatch):
    force("train_warp", monkeypatch)
    Case((4, 10, 12, 5), ["softmax", "softmax", "tanh"], batch_size=7).check()


@needs_gpp
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_optimizers(optimizer, kernel):
    Case((6, 7, 3), ["tanh", "sigmoid"], optimizer=optimizer, n=20, batch_size=8).check()


class BySign:
    """p -= learning_rate g / |g|: NaN where the gradient is 0, as in lanes without a node."""

    learning_rate, slots, weight_decay = 0.01, 0, 0.0
    cuda = "p -= learning_rate * g / fabs(g);"

    def corrections(self, step):
        return np.ones_like(step), np.ones_like(step)

    def update(self, xp, p, g, state, numbers, decayed):
        p -= numbers[0] * g / abs(g)


@needs_gpp
def test_nothing_comes_of_lanes_without_a_node(monkeypatch):
    force("train_warp", monkeypatch)
    Case((2, 7, 3), ["tanh", "sigmoid"], optimizer=BySign(), n=20, batch_size=8).check()


LIMITS = [Limits(0.01), Limits(norm=0.05), Limits(0.01, 0.02), Limits(1e9, 1e9)]


def clipped_case(limits, optimizer=None):
    activations = ["tanh", "gelu", "sigmoid"]
    return Case((6, 17, 7, 3), activations, "mse", optimizer, n=20, batch_size=8, limits=limits)


@needs_gpp
@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("optimizer", [bp.SGD(0.5, momentum=0.9), bp.Adam(0.01)], ids=str)
def test_clipping(optimizer, limits, kernel):
    case = clipped_case(limits, optimizer)
    case.check()
    without = clipped_case(NO_LIMITS, optimizer).in_one_launch()
    changes_nothing = limits == LIMITS[-1]
    assert np.allclose(case.in_one_launch()[1], without[1], rtol=1e-12) == changes_nothing


@needs_gpp
@pytest.mark.parametrize(("error", "limit"), [(1e-25, 1e-30), (1e19, 1.0)])
def test_the_norm_is_clipped_where_squares_leave_the_range_of_float32(error, limit, kernel):
    net = bp.MLP([2, 1], ["identity"], device=emulated_backend(), dtype="float32")
    net.set_parameters([[[0.0, 0.0]]], [[0.0]])
    clipped = {"optimizer": bp.SGD(1.0), "clip_norm": limit, "path": "one launch"}
    bp.train(net, [[3, 4]], [[-error / 2]], loss="sse", **clipped)
    gradient = np.array([3, 4, 1]) / np.sqrt(26)
    np.testing.assert_allclose(net.parameters / limit, -gradient, rtol=1e-5)


@needs_gpp
@pytest.mark.parametrize("limits", [Limits(1.0), Limits(norm=1.0)], ids=str)
def test_a_gradient_of_zero_is_clipped_to_zero(limits, kernel):
    case = clipped_case(limits)
    case.y[...] = case.net.forward(case.x).output
    losses, parameters = case.in_one_launch()
    np.testing.assert_allclose(parameters, case.net.parameters, rtol=1e-12)
    assert max(losses) < 1e-25


@needs_gpp
@pytest.mark.parametrize("seed", [None, 0, 2**64 - 1, 2**70 + 5])
@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (2, 1), (100, 90), (4, 4)])
def test_order_of_samples(n, batch_size, seed, kernel):
    Case((3, 2), ["tanh"], n=n, batch_size=batch_size, seed=seed, first_step=5, steps=9).check()


def test_orders_are_those_of_shuffled():
    seeds, epochs = [0, 7, 2**70 + 5], range(3, 6)
    expected = [[shuffled(11, epoch, seed) for epoch in epochs] for seed in seeds]
    np.testing.assert_array_equal(orders(11, epochs, as_keys(seeds), np), expected)


def mixed_case(dtype="float32", **changes):
    options = {"optimizer": bp.Adam(0.01), "n": 10, "seed": 1, "steps": 11, "dtype": dtype}
    return Case((3, 4, 9, 2), ["tanh", "tanh", "softmax"], "cce", **options | changes)


@needs_gpp
def test_the_order_of_threads_does_not_matter(kernel):
    in_order, shuffled = (mixed_case().in_one_launch(emulated_backend(seed)) for seed in (None, 5))
    for one, other in zip(in_order, shuffled, strict=True):
        np.testing.assert_array_equal(one, other)


@needs_gpp
def test_launches_go_on_where_the_last_one_ended(kernel, monkeypatch):
    whole = mixed_case().in_one_launch()
    parts = []
    for first, last in pairwise((0, 2, 3, 11)):
        part = mixed_case(steps=last - first, first_step=first)
        if parts:
            part.net.parameters[...], part.state = parts[-1][1], parts[-1][2:]
        parts.append(part.in_one_launch())
    monkeypatch.setattr(one_launch, "MOST_ORDERED", 1)  # an epoch a launch
    for other in (
        (np.concatenate([part[0] for part in parts]), *parts[-1][1:]),
        mixed_case().in_one_launch(),
    ):
        for ours, expected in zip(other, whole, strict=True):
            np.testing.assert_array_equal(ours, expected)


@needs_gpp
@pytest.mark.parametrize("piece", [10**9, 1])
def test_stops_before_the_update_of_a_loss_that_is_not_finite(piece, kernel, monkeypatch):
    monkeypatch.setattr(one_launch, "MOST_ORDERED", piece)
    net = bp.MLP([1, 1], ["identity"], device=emulated_backend(), dtype="float64", seed=3)
    x = np.array([[1.0], [2.0], [1e200], [3.0]])
    batches = shuffled_batches(x, x / 2, 1, None, net.backend)
    steps = OneLaunchSteps(net, batches, find_loss("mse"), bp.SGD(0.1), None)
    with net.backend.computing():
        losses, counts = steps.run(range(8), np.full((8, 4), 0.1), "everything")
    assert len(losses) == len(counts) == 3
    assert np.isfinite(losses[:2]).all()
    assert not np.isfinite(losses[2])
    assert np.isfinite(net.parameters).all()
    assert steps.safe.go_back()


@needs_gpp
@pytest.mark.parametrize("sizes", [(3, 4, 2), (20, 40, 3)])  # the larger's state is read in pairs
def test_many_networks_at_once_are_each_as_alone(sizes, kernel):
    """With learning rates, seeds and bootstrap samples of their own; one of them diverges."""
    rates, seeds, n = (0.1, 0.02, 1e30), (4, 4, 9), 6
    optimizers = [bp.SGD(rate, momentum=0.5) for rate in rates]
    case = Case(sizes, ["tanh", "identity"], optimizer=optimizers[0], n=10, steps=12)
    rows = np.random.default_rng(1).integers(0, 10, (3, n))
    backend = emulated_backend(1)
    net, size = case.net.copy(device=backend), case.net.parameters.size
    start = np.random.default_rng(2).normal(size=(3, size)) / 2
    numbers = np.array([numbers_of(o, case.steps, np.array(case.steps) / 2) for o in optimizers])
    parameters, state = start.copy(), [np.zeros((3, state_length(size)))]
    with backend.computing():
        launch = OneLaunch(net, case.loss, optimizers[0], 3)
        losses, expected = np.empty((3, 12)), np.empty((1, 12))
        launch.run(
            *(parameters, state, case.x, case.y),
            **{"steps": case.steps, "numbers": numbers, "seeds": seeds, "rows": rows},
            losses=losses,
        )
        for i in range(3):
            alone, alone_state = start[i : i + 1].copy(), [np.zeros((1, size))]
            x, y = case.x[rows[i]], case.y[rows[i]]
            launch.run(
                *(alone, alone_state, x, y),
                **{"steps": case.steps, "numbers": numbers[i : i + 1], "seeds": seeds[i : i + 1]},
                losses=expected,
            )
            np.testing.assert_array_equal(losses[i], expected[0])
            np.testing.assert_array_equal(parameters[i], alone[0])
            np.testing.assert_array_equal(state[0][i, :size], alone_state[0][0])
    assert np.isfinite(losses[:2]).all()
    assert np.isnan(losses[2, -1])  # which was not run


@needs_gpp
def test_own_rows_without_shuffling():
    case = Case((3, 2), ["tanh"], n=5, batch_size=2, steps=7)
    rows = np.array([[4, 4, 1, 0, 2]])
    net = case.net.copy(device=emulated_backend())
    options = {"steps": case.steps, "numbers": case.numbers[None], "losses": np.empty((1, 7))}
    one, other = (net.parameters[None].copy() for _ in range(2))
    launch = OneLaunch(net, case.loss, case.optimizer, 2)
    launch.run(one, [], case.x, case.y, rows=rows, **options)
    launch.run(other, [], case.x[rows[0]], case.y[rows[0]], **options)
    np.testing.assert_array_equal(one, other)


def trained_alone(net, x, y, optimizer, seed):
    batches = shuffled_batches(x, y, 4, seed, net.backend)
    steps = OneLaunchSteps(net, batches, find_loss("mse"), optimizer, seed)
    run = Run(steps, History())
    with net.backend.computing():
        for _ in run.chunks(5, one_by_one=False):
            pass
        run.check_last_update()
    return run.history


@needs_gpp
@pytest.mark.parametrize("bootstrap", [True, False])
@pytest.mark.parametrize("seeds", [None, (4, 4, 9)])
def test_training_together_is_training_alone(seeds, bootstrap):
    backend, random = emulated_backend(), np.random.default_rng(0)
    x, y = random.normal(size=(10, 3)), random.normal(size=(10, 2))
    x, y = x.astype(np.float32), y.astype(np.float32)
    together, alone = (
        [bp.MLP([3, 4, 2], ["tanh", "identity"], device=backend, seed=i) for i in range(3)]
        for _ in range(2)
    )
    optimizers = [bp.SGD(0.1), bp.SGD(bp.schedules.StepDecay(0.1, every=1)), bp.SGD(1e30)]
    rows = [random.integers(0, 10, 9) for _ in together] if bootstrap else None
    assert alike(together, optimizers, rows)
    histories = train_together(
        *(together, x, y),
        **{"loss": find_loss("mse"), "optimizers": optimizers, "seeds": seeds, "rows": rows},
        **{"epochs": 5, "batch_size": 4},
    )
    for i in (0, 1):
        x_own, y_own = (x[rows[i]], y[rows[i]]) if bootstrap else (x, y)
        seed = None if seeds is None else seeds[i]
        expected = trained_alone(alone[i], x_own, y_own, optimizers[i], seed)
        assert histories[i].loss == expected.loss
        assert histories[i].learning_rate == expected.learning_rate
        np.testing.assert_array_equal(together[i].parameters, alone[i].parameters)
    assert histories[2] is None  # it diverged, and is as it was
    np.testing.assert_array_equal(together[2].parameters, alone[2].parameters)


def test_networks_that_are_not_alike():
    backend = emulated_backend()
    one, other = (bp.MLP([3, 4, 2], device=backend, seed=seed) for seed in (1, 2))
    wider = bp.MLP([3, 5, 2], device=backend)
    elsewhere = bp.MLP([3, 4, 2], device="cpu")
    sgd = bp.SGD(0.1)
    assert alike([one, other], [sgd, bp.SGD(0.2, weight_decay=0.1)], None)
    assert not alike([one, wider], [sgd, sgd], None)
    assert not alike([one, elsewhere], [sgd, sgd], None)
    assert not alike([one, other], [sgd, bp.SGD(0.1, momentum=0.5)], None)
    assert not alike([one, other], [bp.Adam(), bp.Adam(beta1=0.8)], None)
    assert not alike([one, other], [sgd, sgd], [np.arange(3), np.arange(4)])


@needs_gpp
def test_a_run_that_diverges_has_its_last_good_parameters(kernel):
    net = bp.MLP([1, 1], ["identity"], device=emulated_backend(), dtype="float64", seed=3)
    start, x = net.parameters.copy(), np.array([[1.0], [2.0], [3.0], [4.0]])
    with pytest.raises(bp.TrainingDiverged) as caught:
        trained_alone(net, x, x / 2, bp.SGD(1e200), None)
    assert caught.value.epoch == 1  # the first update was too large
    np.testing.assert_array_equal(net.parameters, start)


# Mutants: a test that passes without a shuffle or a barrier does not test what threads tell each
# other. By kernel: what is replaced, by what, and which one of its kind.

MUTANTS = {
    "train_warp": [
        ("return __shfl_sync(EVERYONE, mine, lane);", "return mine;", 0),
        ("keep + __shfl_xor_sync(EVERYONE, give, half)", "keep + give", 0),
        ("__shfl_xor_sync(EVERYONE, sum, lanes)", "sum", 0),
        *[("__shfl_xor_sync(0xffffffffu, mine, lanes)", "mine", which) for which in (0, 1)],
        ("q.dC_dp = 0;", "", 0),
        ("if (ends && epochs > 0) order += epoch_stride;", "", 0),
    ],
    "train_block": [
        *[("__syncthreads();", "", which) for which in range(8)],
        *[("__shfl_xor_sync(0xffffffffu, mine, lanes)", "mine", which) for which in (0, 1)],
        ("top = warp_max(top);", "", 0),
        ("exponentials = warp_sum(exponentials);", "", 0),
        ("g[e] = 0;", "", 0),
        ("mine.dC_db = 0;", "", 0),
        ("if (ends && epochs > 0) order += epoch_stride;", "", 0),
    ],
}


@needs_gpp
@pytest.mark.parametrize(
    ("file", "old", "new", "which"),
    [(file, *mutant) for file, mutants in MUTANTS.items() for mutant in mutants],
)
def test_nothing_can_be_removed(file, old, new, which, monkeypatch):
    force(file, monkeypatch)
    case = mixed_case("float64", steps=12, batch_size=7)
    expected = case.by_numpy()
    wrong = 0
    for seed in range(4):
        backend = emulated_backend(launcher=MutantLauncher(seed, old, new, which, "train"))
        try:
            results = zip(case.in_one_launch(backend, finite=False), expected, strict=True)
            wrong += not all(np.allclose(ours, right, rtol=1e-9) for ours, right in results)
        except KernelError:  # a sample that is nowhere
            wrong += 1
    assert wrong, "the result is right in every order of threads without this"


@needs_gpp
@pytest.mark.parametrize(("old", "new"), [("largest(mine)", "mine"), ("total(sum)", "sum")])
def test_clipping_is_of_the_numbers_of_all_threads(old, new, kernel):
    case = clipped_case(Limits(norm=0.05))
    expected = case.in_one_launch()[1]
    mutant = emulated_backend(launcher=MutantLauncher(None, old, new, 0, "train"))
    assert not np.allclose(case.in_one_launch(mutant, finite=False)[1], expected, rtol=1e-12)


# What fits, and what the compilers make of it.


def chosen(sizes, optimizer=None, dtype="float32", batch_size=1, shared=227 << 10, **entries):
    net = net_of(sizes, **entries)
    optimizer = optimizer or bp.SGD()
    entries = net.layer_sizes, net.activations, find_loss("cce"), optimizer
    return choose(*entries, dtype, batch_size, Gpu(shared))


def net_of(sizes, activation="gelu", last="softmax"):
    return bp.MLP(sizes, [activation] * (len(sizes) - 2) + [last], device="cpu")


def test_a_warp_takes_few_samples_and_a_block_takes_many():
    assert chosen((5, 3, 5, 4)) == Kernel("train_warp", 32)
    assert chosen((5, 3, 5, 4), batch_size=256).file == "train_block"
    assert chosen((5, 33, 4)).file == "train_block"
    assert chosen((64, 128, 128, 10), activation="tanh", batch_size=64).tile == 64
    assert chosen((64, 128, 128, 10), activation="gelu", batch_size=64).tile == 32  # keeps z
    assert chosen((64, 128, 128, 10), activation="tanh", batch_size=100).tile == 50
    assert chosen((5, 5, 4), activation="softmax", batch_size=256).file == "train_warp"


def test_large_steps_are_left_to_kernels_that_fill_a_gpu():
    for sizes, batch_size, expected in [
        ((5, 3, 5, 4), 1, True),
        ((5, 3, 5, 4), 10_000, True),
        ((64, 128, 128, 10), 64, True),
        ((64, 128, 128, 10), 256, False),
    ]:
        kernel = chosen(sizes, batch_size=batch_size)
        assert one_launch.worth_it(kernel, sizes, batch_size) == expected
    assert not one_launch.worth_it(Kernel("train_warp", 32), (5, 5, 4), 65)


def test_many_networks_side_by_side_may_each_be_larger(monkeypatch):
    monkeypatch.setitem(CROSSOVERS, "block_work", Crossover(1.7e6, "estimate"))
    sizes, batch_size = (64, 128, 128, 10), 256  # 3.9 times what is worth a launch alone
    kernel = chosen(sizes, batch_size=batch_size)
    for networks, multiprocessors, expected in [
        (3, 100, False),
        (4, 100, True),
        (100, 100, True),
        (4, 1, False),  # they would take turns
        (7, 6, False),  # two turns
        (8, 6, True),
    ]:
        together = one_launch.worth_it(kernel, sizes, batch_size, networks, multiprocessors)
        assert together == expected


def test_why_there_is_no_kernel():
    assert "257 nodes" in chosen((5, 257, 4))
    assert "registers of a block" in chosen((128, 128, 128, 128))
    for shared, fits in ((99, False), (163, True), (227, True)):
        kernel = chosen((64, 128, 128, 10), batch_size=64, shared=shared << 10)
        assert fits or "can share" in kernel
        assert isinstance(kernel, Kernel) == fits
    assert "its registers hold, and its parameters" in chosen((32, 32, 32, 32), shared=8 << 10)
    assert "softmax only" in chosen((5, 33, 4), activation="softmax")
    own = bp.Activation("own", lambda xp, z: z, lambda xp, a: 1 + 0 * a, "a")
    assert "no C++ expression" in chosen((2, 2, 2), activation=own)
    net = net_of((5, 257, 4)).copy(device=emulated_backend())
    with pytest.raises(bp.DomainError, match="257 nodes"):
        OneLaunch(net, find_loss("cce"), bp.SGD(), 1)


SMALL = [
    ((5, 3, 5, 4), "float32", bp.SGD(0.1), 1),
    ((33, 20, 2), "float32", bp.SGD(0.1), 64),
    ((64, 128, 128, 10), "float32", bp.Adam(0.1), 64, "tanh"),
]
LARGEST = [
    ((32, 32, 16), "float32", bp.SGD(0.1), 1),
    ((32, 19, 32), "float32", bp.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1), 1),
    ((32, 6, 31), "float32", bp.AdamW(0.1), 1),
    ((*[4] * 16, 1), "float32", bp.SGD(0.1), 1),
    ((31, 6, 32), "float64", bp.SGD(0.1), 1),
    ((8, 8, 9), "float64", bp.Adam(0.1, weight_decay=0.1), 1),
    ((128, 128, 128), "float32", bp.SGD(0.1), 64),
    ((64, 64, 64, 10), "float64", bp.SGD(0.1, momentum=0.9), 64),
    ((10, 112, 48), "float64", bp.SGD(0.1), 100),
]


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_they_compile_without_spills_or_stack_frames(arch):
    """Some for every architecture, and each of the largest that fit for one of them."""

    def log(sizes, dtype, optimizer, batch_size, activation="gelu"):
        net, loss = net_of(sizes, activation), find_loss("cce")
        kernel = chosen(sizes, optimizer, dtype, batch_size, activation=activation)
        assert kernel.file == ("train_warp" if batch_size == 1 else "train_block")
        entries = net.layer_sizes, net.activations, loss, optimizer, dtype, kernel
        texts = (one_launch.source(*entries, clips=clips) for clips in (False, True))
        return "".join(nvrtc.compile_for(text, arch, kernel.file) for text in texts)

    first = ARCHITECTURES.index(arch)
    programs = SMALL + LARGEST[first :: len(ARCHITECTURES)]
    with ThreadPoolExecutor() as pool:
        logs = list(pool.map(lambda program: log(*program), programs))
    assert all("0 bytes stack frame" in text for text in logs)


# As people ask for it.


@needs_gpp
def test_train_by_name(tmp_path):
    backend, (x, y) = emulated_backend(), np.random.default_rng(0).normal(size=(2, 10, 2))
    options = {"epochs": 6, "batch_size": 4, "optimizer": bp.Adam(0.01), "validation": (x, y)}

    def net():
        return bp.MLP([2, 5, 2], ["tanh", "identity"], device=backend, dtype="float64")

    one, other, resumed = net(), net(), net()
    history = bp.train(one, x, y, path="one launch", **options)
    assert history.path == "one launch"
    np.testing.assert_allclose(
        history.loss, bp.train(other, x, y, path="steps", **options).loss, rtol=1e-12
    )
    for options["epochs"] in (3, 6):
        bp.train(
            *(resumed, x, y),
            **{"path": "one launch", "checkpoint": tmp_path, "resume": True},
            **options,
        )
    np.testing.assert_array_equal(resumed.parameters, one.parameters)


@needs_gpp
@pytest.mark.parametrize("shuffle", [True, False])
def test_train_many_is_train_each(shuffle):
    backend, (x, y) = emulated_backend(), np.random.default_rng(0).normal(size=(2, 10, 2))
    optimizers = [bp.SGD(0.1), bp.SGD(0.02), bp.SGD(1e200)]
    rows = np.random.default_rng(1).integers(0, 10, (3, 8))
    options = {"epochs": 5, "batch_size": 3, "shuffle": shuffle, "path": "one launch"}
    together, alone = (
        [bp.MLP([2, 5, 2], device=backend, dtype="float64", seed=i) for i in range(3)]
        for _ in range(2)
    )
    histories = bp.train_many(together, x, y, optimizers=optimizers, rows=rows, **options)
    assert [history.stopped_by for history in histories] == ["epochs", "epochs", "divergence"]
    for i in range(2):
        own = {"optimizer": optimizers[i], "seed": i}
        expected = bp.train(alone[i], x[rows[i]], y[rows[i]], **own, **options)
        assert histories[i].loss == expected.loss
        assert histories[i].path == "one launch"
        assert histories[i].precision == "float64"
        np.testing.assert_array_equal(together[i].parameters, alone[i].parameters)


@needs_gpp
def test_train_many_takes_one_launch_where_all_together_are_worth_it(monkeypatch):
    monkeypatch.setitem(CROSSOVERS, "warp_alone_batch", Crossover(3, "estimate"))
    monkeypatch.setattr(one_launch, "gpu_of", lambda backend: Gpu(48 << 10, multiprocessors=8))
    backend, (x, y) = emulated_backend(), np.random.default_rng(0).normal(size=(2, 10, 2))

    def paths(widths):
        nets = [bp.MLP([2, width, 2], device=backend) for width in widths]
        return {history.path for history in bp.train_many(nets, x, y, epochs=20)}

    monkeypatch.setitem(CROSSOVERS, "seconds_compiling", Crossover(0, "estimate"))
    assert paths([5]) == {"steps"}
    assert paths([5, 5, 5, 5]) == {"one launch"}
    assert paths([5, 5, 5, 6]) == {"steps"}  # of two kinds: each would have a launch of its own
    chosen = bp.plan(bp.MLP([2, 5, 2], device=backend), samples=10, epochs=20, networks=10)
    assert chosen.why.startswith("of 10 networks, 8 train side by side (an estimate); one warp")


def test_plans_name_it():
    net = bp.MLP([5, 3, 5, 4], device=emulated_backend())
    chosen = bp.plan(net, samples=100, batch_size=1, epochs=1000)
    assert chosen.path == "one launch"
    assert chosen.why.endswith("; one warp computes its products in float32")
    wide = bp.MLP([5, 33, 4], device=net.backend)
    assert "asked for; one block" in bp.plan(wide, samples=9, path="one launch").why
    assert bp.plan(net, samples=100, epochs=10).path == "steps"
    with pytest.raises(bp.DomainError, match="257 nodes"):
        bp.plan(bp.MLP([5, 257], device=net.backend), samples=9, path="one launch")
    with pytest.raises(bp.DomainError, match="is for GPUs"):
        bp.plan(bp.MLP([5, 3], device="cpu"), samples=9, path="one launch")

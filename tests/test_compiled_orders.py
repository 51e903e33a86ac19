"""The compiled loop with orders that are given, those of a stream's windows, and the penalty.

Batches take several tiles.
"""

import threading

import numpy as np
import pytest
from cases import TOLERANCE
from host.needs import needs_compiler

import backprop_gpu as bp
from backprop_gpu import kernels
from backprop_gpu.compiled import CompiledLoop, source
from backprop_gpu.data import StreamedBatches
from backprop_gpu.losses import find_loss
from backprop_gpu.optimizers import numbers_of
from backprop_gpu.shuffle import shuffled
from backprop_gpu.training.batches import ArrayBatches
from backprop_gpu.training.paths import compiled_steps
from backprop_gpu.training.paths.compiled_steps import CompiledSteps
from backprop_gpu.training.paths.single_steps import Steps
from backprop_gpu.training.paths.step import NO_LIMITS, Limits
from backprop_gpu.training.streams import StreamBatches

pytestmark = [
    needs_compiler,
    pytest.mark.usefixtures("compiled_soon"),
]
SIZES = {"plain": (3, 6, 2), "padded": (9, 37, 20, 3)}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """A tile has 6 samples, so that batches take several."""
    read, size = kernels.read, "round_up(numbers / strides(L) + 1, ROWS)"
    assert size in read("forward.hpp")
    monkeypatch.setattr(kernels, "read", lambda name: read(name).replace(size, "ROWS"))
    source._unit.cache_clear()
    yield
    source._unit.cache_clear()


class Training:
    """26 samples in batches of 8, in orders of no seed; the last 2 are fewer than threads."""

    def __init__(self, sizes, optimizer=None, *, dtype="float64", batch_size=8, penalizes=True):
        self.net = bp.MLP(sizes, ["tanh"] * (len(sizes) - 1), device="cpu", dtype=dtype, seed=3)
        self.optimizer = optimizer or bp.Adam(0.01, weight_decay=0.2)
        self.penalizes = penalizes
        random = np.random.default_rng(4)
        x = random.normal(size=(26, sizes[0])).astype(dtype)
        y = random.uniform(size=(26, sizes[-1])).astype(dtype)
        orders = [random.permutation(26) for _ in range(6)]
        self.batches = ArrayBatches(x, y, batch_size, orders.__getitem__, self.net.backend)

    def weighing(self, weights):
        """Have samples count differently."""
        b = self.batches
        y = np.column_stack([b.y, weights]).astype(b.y.dtype)
        self.batches = ArrayBatches(b.x, y, b.batch_size, b._order_of, b.backend)
        return self

    def from_files(self):
        """Stream the samples, in windows of two batches; the second of an epoch has 10 samples."""
        x, y, backend = self.batches.x, self.batches.y, self.net.backend
        columns = x.shape[1], y.shape[1]
        options = {"columns": columns, "seed": 5, "backend": backend, "dtype": x.dtype}
        stream = StreamedBatches(
            *(x, y, 8),
            **options,
            check_targets=find_loss("mse").check_targets,
            window_bytes=2 * 8 * sum(columns) * 4,
        )
        self.batches = StreamBatches(stream, columns, backend, x.dtype)
        return self

    def run(self, steps, *ranges):
        """Return all losses, the parameters and the optimizer's state after some ranges."""
        losses = []
        for part in ranges:
            epochs = np.array(part) / self.batches.per_epoch
            losses.append(steps.run(part, numbers_of(self.optimizer, part, epochs))[0])
        if isinstance(self.batches, StreamBatches):
            self.batches.close()
        return np.concatenate(losses), self.net.parameters.copy(), *steps.state

    def by_numpy(self, *ranges, limits=NO_LIMITS):
        given = self.net, self.batches, find_loss("mse"), self.optimizer
        return self.run(Steps(*given, limits=limits, penalizes=self.penalizes), *ranges)

    def by_loop(self, *ranges, threads=1, **options):
        given = self.net, self.batches, find_loss("mse"), self.optimizer, None, threads
        return self.run(CompiledSteps(*given, penalizes=self.penalizes, **options), *ranges)


def assert_close(ones, others, tolerance):
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_allclose(one, other, tolerance, tolerance * abs(other).max())


def assert_equal(ones, others):
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_steps_are_numpys(dtype, sizes):
    """From the middle of an epoch to the middle of another, by any number of threads."""
    steps = range(2, 21)
    expected = Training(SIZES[sizes], dtype=dtype).by_numpy(steps)
    found = Training(SIZES[sizes], dtype=dtype).by_loop(steps)
    assert_close(found, expected, TOLERANCE[dtype])
    assert_equal(Training(SIZES[sizes], dtype=dtype).by_loop(steps, threads=3), found)


@pytest.mark.parametrize(
    "optimizer", [bp.SGD(0.1, weight_decay=3.0), bp.SGD(0.1, 0.9, True, 0.5)], ids=str
)
@pytest.mark.parametrize("batch_size", [1, 26])
def test_optimizers_and_batches(batch_size, optimizer):
    expected = Training((4, 12, 2), optimizer, batch_size=batch_size).by_numpy(range(6))
    found = Training((4, 12, 2), optimizer, batch_size=batch_size).by_loop(range(6))
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(norm=0.05),
        Limits(0.01),
        Limits(0.01, 0.02),
        Limits(norm=1e9),
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gradients_are_clipped(dtype, sizes, limits):
    def training():
        return Training(SIZES[sizes], bp.SGD(0.5, 0.9), dtype=dtype)

    expected = training().by_numpy(range(9), limits=limits)
    found = training().by_loop(range(9), limits=limits)
    assert_close(found, expected, TOLERANCE[dtype])
    assert_equal(training().by_loop(range(9), threads=3, limits=limits), found)
    free = training().by_loop(range(9))
    changes_nothing = limits == Limits(norm=1e9)
    assert np.array_equal(found[1], free[1]) == changes_nothing


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("sizes", SIZES)
def test_weights_that_are_all_alike_change_no_bit(sizes, threads):
    without = Training(SIZES[sizes]).by_loop(range(9), threads=threads)
    alike = Training(SIZES[sizes]).weighing(np.full(26, 4.0))
    assert_equal(alike.by_loop(range(9), threads=threads, weighted=True), without)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_sample_with_a_weight_counts_like_so_many(sizes, threads):
    weights = np.arange(26) % 4
    weighed = Training(SIZES[sizes], batch_size=26).weighing(weights)
    several = Training(SIZES[sizes], batch_size=26)
    x, y = (np.repeat(array, weights, axis=0) for array in (several.batches.x, several.batches.y))
    several.batches = ArrayBatches(x, y, len(x), lambda epoch: None, several.net.backend)
    found = weighed.by_loop(range(5), threads=threads, weighted=True)
    assert_close(found, several.by_numpy(range(5)), 1e-12)


@pytest.mark.parametrize(("error", "limit"), [(1e-25, 1e-30), (1e19, 1.0)])
def test_the_norm_is_clipped_where_squares_leave_the_range_of_float32(error, limit):
    net = bp.MLP([2, 1], ["identity"], device="cpu", dtype="float32")
    net.parameters[...] = 0
    clipped = {"optimizer": bp.SGD(1.0), "clip_norm": limit, "path": "compiled"}
    bp.train(net, [[3, 4]], [[-error / 2]], loss="sse", **clipped)
    np.testing.assert_allclose(net.parameters / limit, -np.array([3, 4, 1]) / 26**0.5, rtol=1e-5)


@pytest.mark.parametrize("sizes", SIZES)
def test_the_penalty_is_in_the_loss_and_changes_no_step(sizes):
    with_penalty, without = (Training(SIZES[sizes], penalizes=p) for p in (True, False))
    penalty = 0.2 / 2 * sum((W**2).sum() for W in without.net.weights)
    losses, *rest = with_penalty.by_loop(range(9))
    bare, *bare_rest = without.by_loop(range(9))
    assert losses[0] == pytest.approx(bare[0] + penalty, rel=1e-14)
    assert_equal(rest, bare_rest)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_bits_depend_neither_on_the_run_nor_on_its_parts(threads, monkeypatch):
    whole = Training(SIZES["padded"]).by_loop(range(24), threads=threads)
    again = Training(SIZES["padded"]).by_loop(range(24), threads=threads)
    assert_equal(again, whole)
    parts = range(3), range(3, 4), range(4, 24)
    assert_equal(Training(SIZES["padded"]).by_loop(*parts, threads=threads), whole)
    monkeypatch.setattr(compiled_steps, "MOST_FLOPS", 3.5e5)  # six steps in a call
    assert_equal(Training(SIZES["padded"]).by_loop(range(24), threads=threads), whole)


def test_no_step_follows_a_loss_that_is_not_finite(monkeypatch):
    """Not even where that ends a call."""
    monkeypatch.setattr(compiled_steps, "MOST_FLOPS", 1)
    training = Training((3, 6, 2))
    training.batches.x[training.batches.orders(range(1))[0][9]] = np.nan  # in the second batch
    losses, parameters, *_ = training.by_loop(range(8))
    assert np.isfinite(losses).tolist() == [True, False]
    assert np.isfinite(parameters).all()


def test_weights_that_are_too_large_for_the_penalty_end_the_run():
    training = Training((3, 6, 2), bp.SGD(0.1, weight_decay=0.1))
    training.net.weights[0][0, 0] = 1e200
    before = training.net.parameters.copy()
    losses, parameters = training.by_loop(range(4))
    assert losses.tolist() == [np.inf]
    np.testing.assert_array_equal(parameters, before)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_steps_on_a_stream_are_numpys(dtype, sizes, threads):
    steps = range(2, 21)
    expected = Training(SIZES[sizes], dtype=dtype).from_files().by_numpy(steps)
    found = Training(SIZES[sizes], dtype=dtype).from_files().by_loop(steps, threads=threads)
    assert_close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("most_flops", [1e9, 3.5e5, 1])
def test_the_bits_on_a_stream_do_not_depend_on_parts(most_flops, monkeypatch):
    whole = Training(SIZES["padded"]).from_files().by_loop(range(24))
    monkeypatch.setattr(compiled_steps, "MOST_FLOPS", most_flops)
    parts = range(3), range(3, 4), range(4, 24)
    assert_equal(Training(SIZES["padded"]).from_files().by_loop(*parts), whole)


def test_a_window_has_the_batches_of_a_stream():
    """Whatever step is asked for: the next one, one before it, one of another epoch."""
    batches, again = (Training((3, 2)).from_files().batches for _ in range(2))
    for step in (0, 1, 1, 2, 3, 4, 7, 6, 2, 3, 0, 4):
        x, y, order, batch = batches.window(step)
        rows = order[8 * batch : 8 * (batch + 1)]
        assert again.load(step) == len(rows)
        for array, expected in zip((x, y), again.arrays(), strict=True):
            np.testing.assert_array_equal(array[rows], expected[: len(rows)])
    assert batches.load(2) == again.load(2) == 8  # single batches after windows
    for array, expected in zip(batches.arrays(), again.arrays(), strict=True):
        np.testing.assert_array_equal(array, expected)
    batches.close(), again.close()


def test_a_stream_on_which_training_diverges(tmp_path):
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    net, before = bp.MLP([3, 12, 2], device="cpu", seed=0), threading.active_count()
    data = np.load(tmp_path / "x.npy", mmap_mode="r"), x[:, :2]
    with pytest.raises(bp.TrainingDiverged, match=r"epoch 0, in layer \d") as caught:
        bp.train(net, *data, optimizer=bp.SGD(1e30), batch_size=8, path="compiled")
    assert caught.value.history.path == "compiled"
    assert np.isfinite(net.parameters).all()
    assert threading.active_count() == before


class TestOrders:
    """Given to the loop itself."""

    x, y = np.random.default_rng(0).normal(size=(2, 10, 2))

    def run(self, first_step=0, steps=9, **order):
        net, optimizer = bp.MLP([2, 2], ["tanh"], device="cpu", dtype="float64", seed=0), bp.SGD()
        loop = CompiledLoop([2, 2], net.activations, find_loss("mse"), optimizer, net.dtype, 4)
        steps = range(first_step, first_step + steps)
        numbers = numbers_of(optimizer, steps, np.zeros(len(steps)))
        losses = np.empty(len(steps))
        given = {"first_step": first_step, "numbers": numbers, "losses": losses} | order
        loop.run(net.parameters, [], self.x, self.y, **given)
        return losses, net.parameters

    def test_those_of_a_seed_give_its_bits(self):
        orders = [shuffled(10, epoch, 7) for epoch in range(1, 5)]
        assert_equal(self.run(5, orders=orders), self.run(5, seed=7))

    def test_without_any_samples_are_taken_as_they_come(self):
        assert_equal(self.run(), self.run(orders=[np.arange(10)] * 3))

    def test_are_checked(self):
        good = np.arange(10)
        with pytest.raises(bp.ShapeError, match="2 orders; the steps are in 3 epochs"):
            self.run(orders=[good] * 2)
        with pytest.raises(bp.ShapeError, match="shape"):
            self.run(orders=[good, good, good[1:]])
        with pytest.raises(bp.DtypeError, match="int32"):
            self.run(orders=[good, good, good.astype(np.int32)])
        for wrong in (10, -1):
            with pytest.raises(bp.DomainError, match=rf"{wrong}.*expected 0 to 9"):
                self.run(orders=[good, good, np.where(good == 3, wrong, good)])

"""Batches that somebody else makes: lists, generators, functions of the epoch."""

import threading
import traceback

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu import errors
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.data import IteratedBatches

SIZES = (3, 1, 4)
WIDTHS = (2, 1)


def pairs(sizes=SIZES, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.uniform(size=(n, 2)), rng.uniform(size=(n, 1))) for n in sizes]


def batches(given, backend=None, dtype="float32", loss="mse"):
    return IteratedBatches(
        given,
        columns=WIDTHS,
        backend=backend or NumpyBackend(),
        dtype=np.dtype(dtype),
        check_targets=bp.losses.find_loss(loss).check_targets,
    )


def test_batches_come_in_their_order_and_sizes_converted(backend, dtype):
    given = pairs()
    found = list(batches(given, backend, dtype).epoch(0))
    assert len(found) == len(given)
    for pair, pair_given in zip(found, given, strict=True):
        for array, expected in zip(pair, pair_given, strict=True):
            assert array.dtype == dtype
            assert array.flags.c_contiguous
            np.testing.assert_array_equal(backend.to_numpy(array), expected.astype(dtype))


def test_sizes_are_known_once_an_epoch_has_been_gone_through():
    source = batches(pairs())
    assert (source.samples, source.batch_size, source.per_epoch) == (None, None, None)
    next(source.epoch(0))
    assert source.samples is None
    list(source.epoch(1))
    assert (source.samples, source.batch_size, source.per_epoch) == (8, None, 3)


def test_a_list_serves_every_epoch_and_a_function_makes_each():
    source = batches(lambda epoch: (pair for pair in pairs(seed=epoch)))
    for epoch in (0, 1, 1, 5):
        (x, _), *_ = source.epoch(epoch)
        np.testing.assert_array_equal(x, pairs(seed=epoch)[0][0].astype("float32"))
    source = batches(pairs())
    assert len(list(source.epoch(0))) == len(list(source.epoch(1))) == 3


def test_an_epoch_can_begin_at_any_batch():
    source = batches(pairs())
    whole = list(source.epoch(0))
    for start in range(4):
        rest = list(source.epoch(0, start))
        assert len(rest) == 3 - start
        for (x, y), (x_rest, y_rest) in zip(whole[start:], rest, strict=True):
            assert (x == x_rest).all()
            assert (y == y_rest).all()


def test_an_iterator_serves_one_epoch():
    source = batches(iter(pairs()))
    assert source.once
    assert not batches(pairs()).once
    assert len(list(source.epoch(0))) == 3
    with pytest.raises(errors.DomainError, match="epoch 1 can't go through again"):
        source.epoch(1)


def test_an_iterator_is_not_begun_where_training_takes_more_epochs():
    net, source = bp.MLP([2, 1], device="cpu"), iter(pairs())
    before = net.parameters.copy()
    with pytest.raises(errors.DomainError, match="gone through once, and epochs is 2"):
        bp.train(net, source, epochs=2)
    np.testing.assert_array_equal(net.parameters, before)
    assert len(bp.train(net, source, epochs=1).loss) == 1
    assert next(source, None) is None


def test_a_generator_may_write_every_batch_to_the_same_memory():
    def reusing():
        x, y = np.empty((4, 2), "float32"), np.empty((4, 1), "float32")
        for i in range(50):
            x[...], y[...] = i, -i
            yield x, y

    for i, (x, y) in enumerate(batches(reusing()).epoch(0)):
        assert (x == i).all()
        assert (y == -i).all()


def test_the_generator_runs_in_a_thread_that_ends_when_the_epoch_is_left():
    names = []

    def endless():
        while True:
            names.append(threading.current_thread().name)
            yield pairs()[0]

    epoch = batches(endless()).epoch(0)
    next(epoch)
    epoch.close()
    assert set(names) == {"backprop_gpu-data"}
    assert "backprop_gpu-data" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("pair", "error", "message"),
    [
        ((np.ones((3, 5)), np.ones((3, 1))), errors.ShapeError, r"x of batch 3 has shape \(3, 5\)"),
        ((np.ones((3, 2)), np.ones((3, 2))), errors.ShapeError, r"y of batch 3 has shape \(3, 2\)"),
        ((np.ones((3, 2)), np.ones((2, 1))), errors.ShapeError, "x of batch 3 has 3 rows and y"),
        ((np.ones((0, 2)), np.ones((0, 1))), errors.ShapeError, "x of batch 3 .* no samples"),
        ((np.full((1, 2), np.nan), np.ones((1, 1))), errors.NonFiniteError, "x of batch 3"),
        ((np.ones((1, 2)), [["a"]]), errors.DtypeError, "y of batch 3 has dtype <U1"),
        ((np.ones((1, 2)), ["1"]), errors.DtypeError, r"numpy.asarray\(y, 'float32'\)"),
        ((np.ones((1, 2)), np.ones(3)), errors.ShapeError, r"; write y\[:, None\] for one column"),
        ((np.ones((1, 2)), np.full((1, 1), 7)), errors.DomainError, "y of batch 3 .* from 7 to 7"),
        (np.ones((2, 2)), errors.DtypeError, "without y, x has to be an iterable of batches"),
        (None, errors.DtypeError, "batch 3 is of type NoneType; without y"),
    ],
)
def test_what_is_wrong_with_a_batch_names_it(pair, error, message):
    source = batches([*pairs(), pair], loss="binary_cross_entropy")
    epoch = source.epoch(4)
    for _ in range(3):
        next(epoch)
    with pytest.raises(error, match=message) as caught:
        next(epoch)
    assert caught.value.__notes__ == ["Before it came 3 batches of epoch 4."]


def test_what_the_generator_raises_arrives_with_its_traceback():
    def failing():
        yield pairs()[0]
        raise ConnectionError("the server is gone")

    epoch = batches(failing()).epoch(0)
    next(epoch)
    with pytest.raises(ConnectionError, match="the server is gone") as caught:
        next(epoch)
    assert "failing" in [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert caught.value.__notes__ == ["Before it came 1 batch of epoch 0."]


def test_no_batches_and_no_iterable_are_refused():
    with pytest.raises(errors.ShapeError, match="epoch 2 has no batches"):
        list(batches([]).epoch(2))
    with pytest.raises(errors.DtypeError, match="expected pairs"):
        batches(7)
    with pytest.raises(errors.DtypeError, match="function of the epoch returned None; expected"):
        list(batches(lambda epoch: None).epoch(0))

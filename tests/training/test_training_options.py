"""Training with clipping, validation, callbacks and a progress bar."""

import math
import sys
from types import ModuleType

import numpy as np
import pytest
from small_run import close, data, numbers

import backprop_gpu as bp

# ---- clipping ------------------------------------------------------------------------------------


def clipped_step(net, **options):
    """What a step of size 1 takes from the parameters, and the gradient before clipping."""
    x, y = data()
    gradient = net.backend.to_numpy(net.backward(net.forward(x), y, "sse").flat)
    before = numbers(net)
    bp.train(net, x, y, loss="sse", optimizer=bp.SGD(1.0), **options)
    return before - numbers(net), gradient


@pytest.mark.parametrize("limit", [1e-3, 0.1, 1e9])
def test_clip_norm(double, limit):
    step, gradient = clipped_step(double, clip_norm=limit)
    norm = np.linalg.norm(gradient)
    expected = gradient * min(1, limit / norm)
    np.testing.assert_allclose(step, expected, rtol=1e-9, atol=1e-15)
    assert np.linalg.norm(step) == pytest.approx(min(limit, norm), rel=1e-9)


@pytest.mark.parametrize("limit", [1e-3, 0.1, 1e9, np.float64(0.2), 1])
def test_clip_value(double, limit):
    step, gradient = clipped_step(double, clip_value=limit)
    np.testing.assert_allclose(step, np.clip(gradient, -limit, limit), rtol=1e-9, atol=1e-15)


def test_values_are_clipped_before_the_norm(double):
    step, gradient = clipped_step(double, clip_value=0.5, clip_norm=0.25)
    clipped = np.clip(gradient, -0.5, 0.5)
    expected = clipped * min(1, 0.25 / np.linalg.norm(clipped))
    np.testing.assert_allclose(step, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("error", "limit"), [(1e-25, 1e-30), (1e19, 1.0)])
def test_clip_norm_where_squares_leave_the_range_of_float32(backend, error, limit):
    net = bp.MLP([2, 1], ["identity"], device=backend, dtype="float32")
    net.set_parameters([[[0.0, 0.0]]], [[0.0]])
    bp.train(net, [[3, 4]], [[-error / 2]], loss="sse", optimizer=bp.SGD(1.0), clip_norm=limit)
    gradient = np.array([3, 4, 1]) / math.sqrt(26)
    np.testing.assert_allclose(numbers(net) / limit, -gradient, rtol=1e-5)


@pytest.mark.parametrize("clip", ["clip_norm", "clip_value"])
def test_a_gradient_of_zero_is_clipped_to_zero(net, clip):
    x, _ = data()
    before = numbers(net)
    bp.train(net, x, net.backend.to_numpy(net.forward(x).output), epochs=3, **{clip: 1.0})
    close(net, before)


# ---- validation, callbacks, progress -------------------------------------------------------------


def test_validation_loss_is_taken_after_every_epoch_and_changes_nothing(net):
    x, y = data()
    held_out = data(4, seed=1)
    twin, losses = net.copy(), []
    for _ in range(5):
        bp.train(twin, x, y, optimizer=bp.SGD(0.1))
        losses.append(twin.loss(*held_out))
    history = bp.train(net, x, y, optimizer=bp.SGD(0.1), epochs=5, validation=held_out)
    assert history.validation_loss == losses
    np.testing.assert_array_equal(numbers(net), numbers(twin))


@pytest.mark.parametrize("validated", [False, True])
def test_a_callback_is_told_what_happened(net, validated):
    x, y = data()
    validation = data(4, seed=1) if validated else None
    told, losses_now = [], []

    def callback(epoch):
        told.append(epoch)
        losses_now.append(epoch.net.loss(x, y))

    history = bp.train(
        net,
        x,
        y,
        optimizer=bp.SGD(bp.StepDecay(0.1, 1)),
        epochs=4,
        validation=validation,
        callbacks=[callback],
    )
    assert [epoch.number for epoch in told] == [0, 1, 2, 3]
    assert [epoch.loss for epoch in told] == history.loss
    assert [epoch.learning_rate for epoch in told] == history.learning_rate
    assert [epoch.validation_loss for epoch in told] == (history.validation_loss or [None] * 4)
    assert all(epoch.net is net for epoch in told)
    assert losses_now[:-1] == pytest.approx(history.loss[1:], rel=1e-6)


def test_a_callback_stops_the_training_and_the_others_still_hear_of_it(net):
    told = []
    callbacks = [lambda e: e.number == 2, lambda e: told.append(e.number)]
    history = bp.train(net, *data(), epochs=10, callbacks=callbacks)
    assert told == [0, 1, 2]
    assert len(history.loss) == 3
    assert history.stopped_by == "callback"


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_exception_of_a_callback_gets_out_and_the_network_stays_usable(double, kind):
    x, y = data()
    twin = double.copy()
    bp.train(twin, x, y, optimizer=bp.SGD(0.1), epochs=3)

    def callback(epoch):
        if epoch.number == 2:
            raise kind("out")

    with pytest.raises(kind, match="out"):
        bp.train(double, x, y, optimizer=bp.SGD(0.1), epochs=10, callbacks=[callback])
    np.testing.assert_array_equal(numbers(double), numbers(twin))
    assert bp.train(double, x, y).loss[0] == twin.loss(x, y)


@pytest.mark.parametrize(
    ("kind", "stopped_by"), [(KeyboardInterrupt, "interrupt"), (RuntimeError, "error")]
)
@pytest.mark.parametrize("who", ["callback", "progress"])
def test_what_is_raised_says_what_is_done(net, kind, stopped_by, who):
    def callback(epoch):
        if who == "callback" and epoch.number == 2:
            raise kind

    def progress(run):
        if who == "progress" and run.epochs_passed == 3:
            raise kind

    with pytest.raises(kind) as caught:
        bp.train(net, *data(), epochs=10, callbacks=[callback], progress=progress)
    history = caught.value.history
    assert len(history.loss) == len(history.learning_rate) == 3
    assert history.stopped_by == stopped_by
    assert history.seconds > 0
    (note,) = caught.value.__notes__
    assert "3 of 10 epochs are done" in note
    assert "holds the parameters of the steps made" in note


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_an_epoch_that_is_interrupted_is_not_in_the_history(net, kind):
    x, y = data()

    def batches(epoch):
        yield x, y
        if epoch == 1:
            raise kind
        yield x, y

    with pytest.raises(kind) as caught:
        bp.train(net, batches, epochs=3)
    assert len(caught.value.history.loss) == len(caught.value.history.learning_rate) == 1


def test_what_is_raised_before_the_first_step_has_no_history(net):
    def batches(epoch):
        raise RuntimeError("no batches")

    with pytest.raises(RuntimeError, match="no batches") as caught:
        bp.train(net, batches, epochs=3)
    assert not hasattr(caught.value, "history")


def test_a_training_in_a_callback_keeps_the_history_of_what_it_raised(net):
    other = net.copy()

    def give_up(epoch):
        if epoch.number == 1:
            raise RuntimeError("that is enough")

    def callback(epoch):
        bp.train(other, *data(), epochs=5, callbacks=[give_up])

    with pytest.raises(RuntimeError, match="that is enough") as caught:
        bp.train(net, *data(), epochs=3, callbacks=[callback])
    assert len(caught.value.history.loss) == 2
    (note,) = caught.value.__notes__
    assert "2 of 5 epochs" in note


@pytest.mark.parametrize("watched", [False, True])
def test_progress_bar(net, capsys, monkeypatch, watched):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    callbacks = [lambda epoch: None] if watched else []
    bp.train(net, *data(), epochs=7, progress=True, callbacks=callbacks)
    out, err = capsys.readouterr()
    assert out == ""
    assert "7/7" in err
    assert "epoch" in err
    assert "loss " in err
    bp.train(net, *data(), epochs=7, callbacks=callbacks)
    assert capsys.readouterr() == ("", "")


def test_progress_is_told_in_parts_of_long_epochs(net, monkeypatch):
    monkeypatch.setattr("backprop_gpu.training.run.CHUNK_SECONDS", 0)  # every step takes longer
    told = []
    bp.train(
        net,
        *data(n=7),
        epochs=2,
        batch_size=3,
        progress=lambda run: told.append((run.epochs_passed, run.samples)),
    )
    assert told == [(0.33, 3), (0.67, 6), (1, 7), (1.33, 10), (1.67, 13), (2, 14)]


def test_progress_bar_in_a_notebook_whose_stderr_is_no_terminal(net, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    bp.train(net, *data(), epochs=7, progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    bp.train(net, *data(), epochs=7, progress=True)
    assert "7/7" in capsys.readouterr().err


def test_progress_bar_without_tqdm(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    before = numbers(net)
    with pytest.raises(bp.MissingExtraError, match=r'pip install "backprop-gpu\[progress\]"'):
        bp.train(net, *data(), progress=True)
    assert numbers(net).tobytes() == before.tobytes()

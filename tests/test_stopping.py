"""Early stopping, on losses that are read from a script."""

import math

import numpy as np
import pytest

import backprop_gpu as bp

NAN = math.nan


def scripted(script, *, watch="validation", callbacks=(), **rule):
    """Train on a script of losses, one an epoch; b is -k when k epochs are over."""
    lines = iter(script)

    def value(xp, a, y):
        is_read = watch == "training" or float(y[0, 0]) == 1
        return xp.full(len(a), next(lines) if is_read else 0.5, a.dtype)

    loss = bp.Loss("scripted", value, gradient=lambda xp, a, y: xp.ones_like(a))
    net = bp.MLP([1, 1], ["identity"], device="cpu", dtype="float64")
    net.set_parameters([[[0.0]]], [[0.0]])
    history = bp.train(
        net,
        [[0.0]],
        [[0.0]],
        loss=loss,
        optimizer=bp.SGD(1.0),
        epochs=len(script),
        validation=([[0.0]], [[1.0]]) if watch == "validation" else None,
        early_stopping=bp.EarlyStopping(**rule),
        callbacks=callbacks,
    )
    return history, -net.biases[0].item()


@pytest.mark.parametrize("watch", ["validation", "training"])
@pytest.mark.parametrize(
    ("script", "rule", "epochs", "best"),
    [
        ([3, 2, 1], {"patience": 1}, 3, 2),
        ([3, 2, 2.5, 1, 0], {"patience": 1}, 3, 1),
        ([3, 2, 2.5, 1, 0], {"patience": 2}, 5, 4),
        ([3, 2, 9, 8, 1, 9, 9, 9, 0], {"patience": 3}, 8, 4),
        ([2, 2, 2, 2], {"patience": 2}, 3, 0),
        ([1, 2, 3, 4], {"patience": 3}, 4, 0),
        ([1, 2, 3], {"patience": 3}, 3, 0),
        ([1] + [2] * 20, {}, 11, 0),
        ([3, 2.75, 2.5, 2.25], {"patience": 1, "min_delta": 0.5}, 2, 0),
        ([3, 2.75, 2.25, 2.125], {"patience": 2, "min_delta": 0.5}, 4, 2),
        ([3, 2.5, 2.5], {"patience": 2, "min_delta": 0.5}, 3, 0),
        ([-1, -2, -1], {"patience": 1}, 3, 1),
    ],
)
def test_rule(script, rule, epochs, best, watch):
    history, _ = scripted(script, watch=watch, **rule)
    assert len(history.loss) == epochs
    assert history.best_epoch == best
    last_is_waited_for = epochs - 1 - best >= rule.get("patience", 10)
    assert history.stopped_by == ("early stopping" if last_is_waited_for else "epochs")
    read = history.validation_loss if watch == "validation" else history.loss
    assert read == script[:epochs]


@pytest.mark.parametrize("patience", [1, 2, 100])
def test_the_best_epochs_parameters_come_back(patience):
    script = [5, 4, 3, 6, 7, 8]
    history, epochs_in_b = scripted(script, patience=patience)
    assert history.best_epoch == 2
    assert epochs_in_b == 3  # those at the end of the best epoch, which have its validation loss
    history, epochs_in_b = scripted(script, patience=patience, restore_best=False)
    assert epochs_in_b == len(history.loss)


def test_without_validation_data_the_best_parameters_are_those_that_had_the_best_loss():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    net = bp.MLP([3, 4, 2], ["tanh", "identity"], device="cpu", dtype="float64")
    optimizer = bp.SGD(lambda epochs: 0.1 if epochs < 5 else 5.0)  # from then on it gets worse
    rule = bp.EarlyStopping(3)
    history = bp.train(net, x, y, optimizer=optimizer, epochs=50, early_stopping=rule)
    assert net.loss(x, y) == pytest.approx(min(history.loss), rel=1e-12)


def test_a_validation_loss_that_is_not_finite_is_never_the_best():
    history, epochs_in_b = scripted([2, NAN, math.inf, 1, NAN, NAN], patience=2)
    assert len(history.loss) == 3
    assert history.best_epoch == 0
    assert epochs_in_b == 1


def test_where_no_validation_loss_is_finite_the_patience_begins_with_the_first():
    history, epochs_in_b = scripted([NAN, math.inf, NAN, NAN, NAN], patience=2)
    assert history.stopped_by == "early stopping"
    assert (len(history.loss), history.best_epoch) == (3, 0)
    assert epochs_in_b == 3  # no parameters are better than these


def test_the_epoch_in_which_a_callback_stops_counts():
    history, epochs_in_b = scripted([3, 2, 1, 0], callbacks=[lambda epoch: epoch.number == 2])
    assert history.stopped_by == "callback"
    assert history.best_epoch == 2
    assert epochs_in_b == 3


def test_a_real_run_ends_at_its_lowest_validation_loss():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 4)), rng.normal(size=(12, 1))  # noise: what is learnt is wrong
    held_out = rng.normal(size=(40, 4)), rng.normal(size=(40, 1))
    net = bp.MLP([4, 30, 1], ["tanh", "identity"], device="cpu", dtype="float64", seed=1)
    history = bp.train(
        net,
        x,
        y,
        optimizer=bp.Adam(0.01),
        epochs=500,
        batch_size=5,
        validation=held_out,
        early_stopping=bp.EarlyStopping(20),
    )
    assert history.stopped_by == "early stopping"
    assert len(history.loss) == history.best_epoch + 21
    assert history.best_epoch == np.argmin(history.validation_loss)
    assert net.loss(*held_out) == min(history.validation_loss)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("patience", value) for value in (0, -1, 1.5, math.nan, "3", None, True)),
        *(("min_delta", value) for value in (-0.1, math.nan, math.inf, "0.1", None, [0])),
    ],
)
def test_bad_argument(argument, value):
    with pytest.raises((ValueError, TypeError), match=rf"{argument} is .*; expected") as error:
        bp.EarlyStopping(**{argument: value})
    assert repr(value) in str(error.value)

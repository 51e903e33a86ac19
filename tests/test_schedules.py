"""Schedules: the learning rate at points that can be worked out by hand."""

import math

import pytest

import backprop_gpu as bp

STEP = bp.StepDecay(0.1, every=10, factor=0.5)
EXPONENTIAL = bp.ExponentialDecay(0.1, factor=0.25)
INVERSE = bp.InverseTimeDecay(0.1, rate=0.5)
COSINE = bp.CosineDecay(0.1, epochs=10, final=0.02)
WARM = bp.WarmUp(STEP, epochs=4)
SCHEDULES = {type(s).__name__: s for s in (STEP, EXPONENTIAL, INVERSE, COSINE, WARM)}


@pytest.mark.parametrize(
    ("schedule", "epochs", "rate"),
    [
        (STEP, 0, 0.1),
        (STEP, 9.99, 0.1),
        (STEP, 10, 0.05),
        (STEP, 35, 0.0125),
        (EXPONENTIAL, 0, 0.1),
        (EXPONENTIAL, 0.5, 0.05),
        (EXPONENTIAL, 2, 0.00625),
        (INVERSE, 0, 0.1),
        (INVERSE, 2, 0.05),
        (INVERSE, 6, 0.025),
        (COSINE, 0, 0.1),
        (COSINE, 10 / 3, 0.08),
        (COSINE, 5, 0.06),
        (COSINE, 10, 0.02),
        (COSINE, 1000, 0.02),
        (bp.StepDecay(0.1, 10), 10, 0.05),
        (bp.ExponentialDecay(0.1), 1, 0.099),
        (bp.InverseTimeDecay(0.1), 100, 0.05),
        (bp.CosineDecay(0.1, 10), 10, 0.0),
        (bp.CosineDecay(0.1, 10, final=0.1), 5, 0.1),
        (WARM, 0, 0.0),
        (WARM, 1, 0.025),
        (WARM, 3.5, 0.0875),
        (WARM, 4, 0.1),
        (WARM, 13.9, 0.1),
        (WARM, 14, 0.05),
        (bp.WarmUp(lambda epochs: 0.3, 2), 1, 0.15),
        (bp.WarmUp(0.3, 2), 1, 0.15),
        (bp.WarmUp(0.3, 2), 7, 0.3),
        (bp.WarmUp(EXPONENTIAL, 2), 1, 0.05),
    ],
)
def test_rate(schedule, epochs, rate):
    assert schedule(epochs) == pytest.approx(rate, rel=1e-12, abs=1e-17)


@pytest.mark.parametrize("name", SCHEDULES)
def test_is_a_finite_float_that_never_exceeds_the_first_rate(name):
    rates = [SCHEDULES[name](k / 7) for k in range(7 * 50)]
    assert all(isinstance(rate, float) and 0 <= rate <= 0.1 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.parametrize("name", SCHEDULES)
def test_is_a_value(name):
    schedule = SCHEDULES[name]
    assert schedule == type(schedule)(**vars(schedule))
    assert hash(schedule) == hash(type(schedule)(**vars(schedule)))


BAD_NUMBERS = [0, -1, math.nan, math.inf, "0.1", None, True, [1]]


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=repr)
@pytest.mark.parametrize(
    ("kind", "good", "argument"),
    [
        (kind, good, argument)
        for kind, good in (
            (bp.StepDecay, {"learning_rate": 0.1, "every": 10, "factor": 0.5}),
            (bp.ExponentialDecay, {"learning_rate": 0.1, "factor": 0.5}),
            (bp.InverseTimeDecay, {"learning_rate": 0.1, "rate": 0.5}),
            (bp.CosineDecay, {"learning_rate": 0.1, "epochs": 10}),
            (bp.WarmUp, {"schedule": STEP, "epochs": 10}),
        )
        for argument in good
    ],
)
def test_bad_argument(kind, good, argument, bad):
    with pytest.raises((ValueError, TypeError), match=f"{argument} is .*; expected") as error:
        kind(**good | {argument: bad})
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize("final", [-0.01, 0.11, math.nan, math.inf, "0", None], ids=repr)
def test_bad_final_rate(final):
    with pytest.raises((ValueError, TypeError), match=r"final is .*; expected") as error:
        bp.CosineDecay(0.1, 10, final)
    assert repr(final) in str(error.value)

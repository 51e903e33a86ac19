"""Learning-rate schedules: the learning rate as a function of the epochs that have passed.

A schedule is any callable from a number of epochs (a float: half-way through the first epoch it
is 0.5) to a learning rate. It is asked before every update. Where nobody knows how many batches an
epoch has, it has to be constant within each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

from backprop_gpu.errors import (
    DomainError,
    brief,
    check_not_negative,
    check_number,
    check_positive,
)

Schedule: TypeAlias = Callable[[float], float]


@dataclass(frozen=True)
class StepDecay:
    """Multiply the learning rate by `factor` after every `every` epochs."""

    learning_rate: float
    every: float
    factor: float = 0.5

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_positive("every", self.every)
        check_positive("factor", self.factor)

    def __call__(self, epochs: float) -> float:
        return self.learning_rate * self.factor ** math.floor(epochs / self.every)


@dataclass(frozen=True)
class ExponentialDecay:
    """Multiply the learning rate by `factor` in the course of every epoch."""

    learning_rate: float
    factor: float = 0.99

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_positive("factor", self.factor)

    def __call__(self, epochs: float) -> float:
        return self.learning_rate * math.pow(self.factor, epochs)


@dataclass(frozen=True)
class InverseTimeDecay:
    """learning_rate / (1 + rate * epochs)."""

    learning_rate: float
    rate: float = 0.01

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_positive("rate", self.rate)

    def __call__(self, epochs: float) -> float:
        return self.learning_rate / (1 + self.rate * epochs)


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from `learning_rate` down to `final`, over `epochs` epochs, then constant."""

    learning_rate: float
    epochs: float
    final: float = 0.0

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_positive("epochs", self.epochs)
        if check_not_negative("final", self.final) > self.learning_rate:
            raise DomainError(f"final is {self.final!r}; expected 0 to {self.learning_rate!r}")

    def __call__(self, epochs: float) -> float:
        passed = min(epochs / self.epochs, 1.0)
        return self.final + (self.learning_rate - self.final) * (1 + math.cos(math.pi * passed)) / 2


@dataclass(frozen=True)
class WarmUp:
    """Rise linearly from 0 for `epochs` epochs, then follow `schedule` from its beginning.

    A number is a schedule that stays there.
    """

    schedule: float | Schedule
    epochs: float

    def __post_init__(self) -> None:
        check_positive("epochs", self.epochs)
        if not callable(self.schedule):
            expected = "a schedule to follow, or a finite number above 0"
            check_number("schedule", self.schedule, expected, lambda rate: rate > 0)

    def __call__(self, epochs: float) -> float:
        rate = rate_at(self.schedule, max(epochs - self.epochs, 0.0))
        return rate * epochs / self.epochs if epochs < self.epochs else rate


def rate_at(schedule: float | Schedule, epochs: float) -> float:
    """Return a learning rate; raise DomainError if a schedule gives none."""
    rate = schedule(epochs) if callable(schedule) else schedule
    if not isinstance(rate, Real) or not math.isfinite(rate) or rate < 0:
        raise DomainError(
            f"the schedule {brief(schedule)} gave the learning rate {brief(rate)} at {epochs:g} "
            "epochs; expected 0 or a finite number above it"
        )
    return float(rate)

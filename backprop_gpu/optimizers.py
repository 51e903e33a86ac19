"""Optimizers: how a gradient changes the parameters.

One entry carries the NumPy update and the same update as CUDA C++ for one parameter. Parameters
are one flat array, all weights first, so one call, or one kernel launch, updates a network.
Weight decay is the penalty (weight_decay / 2) * sum W^2 of every weight; biases are never decayed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Protocol

from backprop_gpu.arrays import Array, ArrayModule
from backprop_gpu.errors import (
    DomainError,
    check_not_negative,
    check_number,
    check_positive,
)
from backprop_gpu.schedules import Schedule


class Optimizer(Protocol):
    """What `train` asks of an optimizer."""

    @property
    def learning_rate(self) -> float | Schedule:
        """A number, or a function from epochs passed to one."""

    @property
    def slots(self) -> int:
        """How many arrays of state, as long as the parameters and zero at first, it needs."""

    @property
    def cuda(self) -> str | None:
        """Statements that update one parameter, `p`, given its gradient, `g`.

        ``s0`` and ``s1`` are the parameter's state, ``learning_rate``, ``decay``, ``c0`` and
        ``c1`` (from `corrections`) numbers of type ``real``.
        """

    @property
    def weight_decay(self) -> float:
        """The penalty's factor."""

    def corrections(self, step: int) -> tuple[float, float]:
        """Return the numbers that depend on the step, which is counted from 1."""

    def update(
        self,
        xp: ArrayModule,
        p: Array,
        g: Array,
        state: Sequence[Array],
        learning_rate: float,
        step: int,
        decayed: int,
    ) -> None:
        """Update p in place; its first `decayed` entries are weights. `g` may be overwritten."""


@dataclass(frozen=True)
class SGD:
    """Gradient descent: W <- W - learning_rate * dC/dW.

    Parameters
    ----------
    learning_rate : float or schedule
        The step; see `backprop_gpu.schedules`.
    momentum : float, 0 <= momentum < 1
        With momentum, v <- momentum * v - learning_rate * dC/dW, and W <- W + v.
    nesterov : bool
        Look ahead: W <- W + momentum * v - learning_rate * dC/dW, with the new v.
    weight_decay : float
        Adds weight_decay * W to the gradient of every weight.
    """

    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(self)
        _check_fractions(self, "momentum")
        if self.nesterov and self.momentum == 0:
            raise DomainError("nesterov=True looks ahead along the momentum, and momentum is 0")

    @property
    def slots(self) -> int:
        return 1 if self.momentum else 0

    @property
    def cuda(self) -> str:
        mu = f"real({self.momentum!r})"
        if not self.momentum:
            return "p -= learning_rate * (g + decay * p);"
        move = f"{mu} * s0 - learning_rate * g" if self.nesterov else "s0"
        return f"g += decay * p; s0 = {mu} * s0 - learning_rate * g; p += {move};"

    def corrections(self, step: int) -> tuple[float, float]:
        return 0.0, 0.0

    def update(
        self,
        xp: ArrayModule,
        p: Array,
        g: Array,
        state: Sequence[Array],
        learning_rate: float,
        step: int,
        decayed: int,
    ) -> None:
        if self.weight_decay and decayed:
            g[:decayed] += self.weight_decay * p[:decayed]
        g *= learning_rate
        if not self.momentum:
            p -= g
            return
        (v,) = state
        v *= self.momentum
        v -= g
        p += v
        if self.nesterov:  # p + (momentum v - g), of which v has been added
            p += (self.momentum - 1) * v - g


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015, algorithm 1).

    m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;
    p <- p - learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    Parameters
    ----------
    learning_rate : float or schedule
    beta1, beta2 : float
    epsilon : float
    weight_decay : float
        Adds weight_decay * W to the gradient of every weight.
    """

    learning_rate: float | Schedule = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    slots: ClassVar[int] = 2
    decoupled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_rates(self)
        _check_fractions(self, "beta1", "beta2")
        object.__setattr__(self, "epsilon", check_positive("epsilon", self.epsilon))

    @property
    def cuda(self) -> str:
        decay = "p -= learning_rate * decay * p;" if self.decoupled else "g += decay * p;"
        return (
            f"{decay} s0 = real({self.beta1!r}) * s0 + real({1 - self.beta1!r}) * g;"
            f" s1 = real({self.beta2!r}) * s1 + real({1 - self.beta2!r}) * g * g;"
            f" p -= learning_rate * (s0 / c0) / (sqrt(s1 / c1) + real({self.epsilon!r}));"
        )

    def corrections(self, step: int) -> tuple[float, float]:
        return 1 - self.beta1**step, 1 - self.beta2**step

    def update(
        self,
        xp: ArrayModule,
        p: Array,
        g: Array,
        state: Sequence[Array],
        learning_rate: float,
        step: int,
        decayed: int,
    ) -> None:
        if self.weight_decay and decayed:
            if self.decoupled:
                p[:decayed] -= (learning_rate * self.weight_decay) * p[:decayed]
            else:
                g[:decayed] += self.weight_decay * p[:decayed]
        m, v = state
        c0, c1 = self.corrections(step)
        m *= self.beta1
        m += (1 - self.beta1) * g
        v *= self.beta2
        g *= g
        v += (1 - self.beta2) * g
        denominator = v / c1
        xp.sqrt(denominator, out=denominator)
        denominator += self.epsilon
        p -= (learning_rate / c0) * m / denominator


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    Every weight shrinks by learning_rate * weight_decay * W, apart from Adam's own step.
    """

    weight_decay: float = 0.01
    decoupled: ClassVar[bool] = True


def learning_rate_at(optimizer: Optimizer, epochs: float) -> float:
    """Return the learning rate after so many epochs, which a schedule may name in fractions."""
    rate = optimizer.learning_rate
    value = rate(epochs) if callable(rate) else rate
    if not isinstance(value, Real) or not math.isfinite(value) or value < 0:
        raise DomainError(f"the schedule {rate!r} gave the learning rate {value!r} at {epochs:g}")
    return float(value)


def _check_rates(optimizer: SGD | Adam) -> None:
    rate = optimizer.learning_rate
    if isinstance(rate, type):
        raise DomainError(f"learning_rate is the class {rate.__name__}; expected an object of it")
    if not callable(rate):
        object.__setattr__(optimizer, "learning_rate", check_positive("learning_rate", rate))
    decay = check_not_negative("weight_decay", optimizer.weight_decay)
    object.__setattr__(optimizer, "weight_decay", decay)


def _check_fractions(optimizer: SGD | Adam, *names: str) -> None:
    for name in names:
        expected = "a number from 0 to below 1"
        value = check_number(name, getattr(optimizer, name), expected)
        if not 0 <= value < 1:
            raise DomainError(f"{name} is {value!r}; expected {expected}")
        object.__setattr__(optimizer, name, value)  # a plain float, which CUDA can read, too

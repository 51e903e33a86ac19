"""Optimizers: how a gradient changes the parameters.

An optimizer has its update twice: for arrays, and as CUDA C++ for one parameter. The parameters are
one flat array, weights first, so one call, or one kernel launch, updates the whole network. Weight
decay adds the penalty (weight_decay / 2) * sum W^2 to the loss; biases are never decayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array, ArrayModule
from backprop_gpu.errors import (
    DomainError,
    DtypeError,
    brief,
    check_count,
    check_entry,
    check_not_negative,
    check_number,
    check_positive,
)
from backprop_gpu.schedules import Schedule, rate_at


class Optimizer(Protocol):
    """What `train` asks of an optimizer: your own is an object that has all of this."""

    @property
    def learning_rate(self) -> float | Schedule:
        """A number, or a function that returns one for the number of epochs passed."""

    @property
    def slots(self) -> int:
        """How many arrays of state it needs, each as long as the parameters, and zero at first."""

    @property
    def cuda(self) -> str | None:
        """Statements that update one parameter ``p`` from its gradient ``g``.

        ``s0`` and ``s1`` are its state; ``learning_rate``, ``decay``, and ``c0`` and ``c1`` from
        `corrections`, are numbers of type ``real``.
        """

    @property
    def weight_decay(self) -> float:
        """The factor of the penalty; 0 for none."""

    def corrections(self, step: Any) -> tuple[Any, Any]:
        """Return c0 and c1 for an array of steps, counted from 1."""

    def update(
        self,
        xp: ArrayModule,
        p: Array,
        g: Array,
        state: Sequence[Array],
        numbers: Sequence[Any],
        decayed: int,
    ) -> None:
        """Update p in place; its first `decayed` entries are weights. `g` may be overwritten.

        `numbers` are the learning rate, the weight decay and the two corrections, each a number
        or an array of shape (). An optimizer may have two more attributes. If ``in_place`` is
        True, update only calls array functions with ``out=``, and the NumPy backend records and
        repeats them. If ``plain`` is True, update is plain gradient descent, and a matrix product
        may do it instead.
        """


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

    in_place: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_rates(self)
        _check_fractions(self, "momentum")
        if self.nesterov and self.momentum == 0:
            raise DomainError("nesterov=True looks ahead along the momentum, and momentum is 0")

    @property
    def slots(self) -> int:
        return 1 if self.momentum else 0

    @property
    def plain(self) -> bool:
        return not self.momentum

    @property
    def cuda(self) -> str:
        mu = f"real({self.momentum!r})"
        if not self.momentum:
            return "p -= learning_rate * (g + decay * p);"
        move = f"{mu} * s0 - learning_rate * g" if self.nesterov else "s0"
        return f"g += decay * p; s0 = {mu} * s0 - learning_rate * g; p += {move};"

    def corrections(self, step: Any) -> tuple[Any, Any]:
        return 0.0, 0.0

    def update(
        self,
        xp: ArrayModule,
        p: Array,
        g: Array,
        state: Sequence[Array],
        numbers: Sequence[Any],
        decayed: int,
    ) -> None:
        learning_rate, decay, *_ = numbers
        if self.weight_decay and decayed:
            _add_product(xp, g[:decayed], p[:decayed], decay)
        xp.multiply(g, learning_rate, out=g)
        if not self.momentum:
            xp.subtract(p, g, out=p)
            return
        (v,) = state
        xp.multiply(v, self.momentum, out=v)
        xp.subtract(v, g, out=v)
        if not self.nesterov:
            xp.add(p, v, out=p)
            return
        xp.subtract(p, g, out=p)
        _add_product(xp, p, v, self.momentum)


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
    in_place: ClassVar[bool] = True
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
            f" p -= learning_rate * c0 * s0 / (sqrt(c1 * s1) + real({self.epsilon!r}));"
        )

    def corrections(self, step: Any) -> tuple[Any, Any]:
        """Return the factors of m and v: 1 / (1 - beta1^t) and 1 / (1 - beta2^t)."""
        # Not divisors: compiled steps that divide every m and v took 5% longer (two cores of a
        # fourth-generation EPYC, 23 November 2026).
        return 1 / (1 - self.beta1**step), 1 / (1 - self.beta2**step)

    def update(
        self,
        xp: ArrayModule,
        p: Array,
        g: Array,
        state: Sequence[Array],
        numbers: Sequence[Any],
        decayed: int,
    ) -> None:
        learning_rate, decay, c0, c1 = numbers
        m, v = state
        scratch = xp.empty_like(p)
        if self.weight_decay and decayed and self.decoupled:
            xp.multiply(p[:decayed], learning_rate, out=scratch[:decayed])
            xp.multiply(scratch[:decayed], decay, out=scratch[:decayed])
            xp.subtract(p[:decayed], scratch[:decayed], out=p[:decayed])
        elif self.weight_decay and decayed:
            _add_product(xp, g[:decayed], p[:decayed], decay)
        xp.multiply(m, self.beta1, out=m)
        xp.multiply(g, 1 - self.beta1, out=scratch)
        xp.add(m, scratch, out=m)
        xp.multiply(v, self.beta2, out=v)
        xp.multiply(g, g, out=g)
        xp.multiply(g, 1 - self.beta2, out=g)
        xp.add(v, g, out=v)

        xp.multiply(v, c1, out=g)
        xp.sqrt(g, out=g)
        xp.add(g, self.epsilon, out=g)
        xp.multiply(m, c0, out=scratch)
        xp.multiply(scratch, learning_rate, out=scratch)
        xp.divide(scratch, g, out=scratch)
        xp.subtract(p, scratch, out=p)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

    Every weight shrinks by learning_rate * weight_decay * W, apart from Adam's own step.
    """

    weight_decay: float = 0.01
    decoupled: ClassVar[bool] = True


ABOUT_UPDATE = {"cuda": None, "in_place": False, "plain": False}
"""What an optimizer tells about its update, and what tells nothing."""


def check_optimizer(name: str, optimizer: object) -> None:
    """Raise DomainError, or DtypeError, unless `optimizer` is one."""
    if isinstance(optimizer, type) and hasattr(optimizer, "update"):
        called = f"{optimizer.__name__}()"
        raise DomainError(f"{name} is the class {optimizer.__name__}; call it, {called}")
    parts = [part for part in vars(Optimizer) if not part.startswith("_")]
    missing = [part for part in parts if _lacks(optimizer, part)]
    if missing:
        lacks = "" if missing == parts else f", which has no {' and no '.join(missing)}"
        raise DomainError(
            f"{name} is {brief(optimizer)}{lacks}; expected one like SGD(learning_rate=0.01), or "
            "your own, with all that help(backprop_gpu.Optimizer) names"
        )
    if is_own(optimizer):  # the library's check themselves
        _check_own(name, cast(Optimizer, optimizer))
    if stale := _about_replaced_update(optimizer):
        kind = type(optimizer).__name__
        remedy = ", ".join(f"{about} = {ABOUT_UPDATE[about]}" for about in stale)
        raise DomainError(
            f"{name} is {brief(optimizer)}, which has an update of its own and inherits "
            f"{', '.join(stale)}: that is about the update it replaces; give the class {kind} its "
            f"own, or {remedy}"
        )


def _lacks(optimizer: object, part: str) -> bool:
    stub = getattr(Optimizer, part)  # what a class that inherits from the protocol has of it
    return not hasattr(optimizer, part) or getattr(type(optimizer), part, None) is stub


def _check_own(name: str, optimizer: Optimizer) -> None:
    if not callable(optimizer.learning_rate):
        check_not_negative(f"{name}.learning_rate", optimizer.learning_rate)
    check_not_negative(f"{name}.weight_decay", optimizer.weight_decay)
    check_count(f"{name}.slots", optimizer.slots, least=0)
    if not isinstance(optimizer.cuda, str | None):
        raise DtypeError(f"{name}.cuda is {brief(optimizer.cuda)}; expected statements, or None")
    kind, given = type(optimizer).__name__, ("xp", "p", "g", "state", "numbers", "decayed")
    check_entry("optimizer", kind, [optimizer.corrections], ["step"])
    check_entry("optimizer", kind, [optimizer.update], given)


def own_update(optimizer: Optimizer, xp: ArrayModule, p: Array, *args: Any) -> None:
    """Call an optimizer's update; raise DtypeError if it returns what it should have written.

    Calls of array functions with ``out=p`` return p itself, so that is as good as nothing.
    """
    update: Any = optimizer.update
    result = update(xp, p, *args)
    if result is not None and result is not p:
        raise DtypeError(
            f"the update of {type(optimizer).__name__} returned {type(result).__name__}, which "
            "nobody takes; have it change p and the state in place, as p -= ... and "
            "p[...] = ... do, and return nothing"
        )


def learning_rate_at(optimizer: Optimizer, epochs: float) -> float:
    """Return the learning rate after so many epochs, which may be a fraction."""
    return rate_at(optimizer.learning_rate, epochs)


def is_own(optimizer: object) -> bool:
    """Return whether this is none of the library's."""
    return type(optimizer) not in (SGD, Adam, AdamW)


def is_plain(optimizer: Optimizer) -> bool:
    """Return whether an optimizer does nothing but W <- W - learning_rate (dC/dW + decay W)."""
    return bool(getattr(optimizer, "plain", False))


def numbers_of(
    optimizer: Optimizer, steps: range, epochs: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the numbers that an optimizer needs in each of some steps.

    Parameters
    ----------
    optimizer : Optimizer
    steps : range
        Counted from 0.
    epochs : ndarray, shape (steps,)
        How many epochs have passed before each of them.

    Returns
    -------
    ndarray, shape (steps, 4)
        Learning rate, weight decay, and the two corrections. Plain gradient descent has no
        corrections; there they are the factors of the gradient and of W: -learning_rate and
        1 - learning_rate * weight_decay.
    """
    numbers = np.empty((len(steps), 4))
    if callable(optimizer.learning_rate):
        numbers[:, 0] = [learning_rate_at(optimizer, passed) for passed in epochs.tolist()]
    else:
        numbers[:, 0] = learning_rate_at(optimizer, 0)
    numbers[:, 1] = optimizer.weight_decay
    numbers[:, 2], numbers[:, 3] = optimizer.corrections(np.arange(steps.start, steps.stop) + 1)
    write_factors(optimizer, numbers)
    return numbers


def write_factors(optimizer: Optimizer, numbers: NDArray[np.float64]) -> None:
    """Write the factors of an optimizer that is plain gradient descent; see `numbers_of`."""
    if is_plain(optimizer):
        numbers[:, 2], numbers[:, 3] = -numbers[:, 0], 1 - numbers[:, 0] * numbers[:, 1]


def _about_replaced_update(optimizer: object) -> list[str]:
    """Return what an optimizer tells about the update of a class that it overrides."""
    said = set(getattr(optimizer, "__dict__", ()))
    for kind in type(optimizer).__mro__:
        said |= set(vars(kind))
        if "update" in vars(kind):
            return [
                name for name in ABOUT_UPDATE if getattr(optimizer, name, 0) and name not in said
            ]
    return []


def _add_product(xp: ArrayModule, total: Array, array: Array, factor: Any) -> None:
    """Total += factor * array."""
    product = xp.empty_like(total)
    xp.multiply(array, factor, out=product)
    xp.add(total, product, out=total)


def _check_rates(optimizer: SGD | Adam) -> None:
    rate = optimizer.learning_rate
    if isinstance(rate, type):
        raise DomainError(f"learning_rate is the class {rate.__name__}; expected an object of it")
    if not callable(rate):
        object.__setattr__(optimizer, "learning_rate", check_positive("learning_rate", rate))
    decay = check_not_negative("weight_decay", optimizer.weight_decay)
    object.__setattr__(optimizer, "weight_decay", decay)


def _check_fractions(optimizer: SGD | Adam, *names: str) -> None:
    expected = "a number from 0 to below 1"
    for name in names:
        value = check_number(
            name, getattr(optimizer, name), expected, lambda number: 0 <= number < 1
        )
        object.__setattr__(optimizer, name, value)  # a plain float, whose repr is valid CUDA

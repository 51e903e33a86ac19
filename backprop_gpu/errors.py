"""What can go wrong, each with its own name.

Every exception here is a `ValueError` or a `TypeError`: code that catches those catches these. But
for `OutOfMemoryError`, which is a `MemoryError`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from inspect import signature
from math import isfinite
from numbers import Integral, Real
from typing import Any


class ShapeError(ValueError):
    """An array has the wrong shape, or two arrays do not fit together."""


class DtypeError(TypeError):
    """Values of a kind that the library does not compute with: objects, text, complex numbers."""


class DomainError(ValueError):
    """Values that a loss or an option is not defined for."""


class NonFiniteError(ValueError):
    """NaN or infinity in data that was handed in."""


# What other libraries call things: only to suggest the name that is used here.
ELSEWHERE = {
    "linear": "identity",
    "logistic": "sigmoid",
    "swish": "silu",
    "mean_squared_error": "mse",
    "sum_of_squares": "sse",
    "log_loss": "binary_cross_entropy",
    "cross_entropy": "categorical_cross_entropy",
    "xavier_uniform": "glorot_uniform",
    "xavier_normal": "glorot_normal",
    "kaiming_uniform": "he_uniform",
    "kaiming_normal": "he_normal",
}


def brief(value: object) -> str:
    """Return what a message calls a value: its repr in one line, cut where it is long."""
    text = " ".join(line.strip() for line in repr(value).splitlines())
    return text if len(text) <= 80 else f"{text[:77]}..."


def count_of(count: int, one: str, many: str = "") -> str:
    """Return a count with what is counted: "1 step", "2,000 steps"."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def first_line(error: BaseException) -> str:
    """Return what an error of another library is and says, cut to a line."""
    name, lines = type(error).__name__, str(error).strip().splitlines()
    return f"{name}: {lines[0][:200]}" if lines else name


class UnknownNameError(ValueError):
    """A name that is in no table."""

    def __init__(self, kind: str, name: object, known: Iterable[str], remedy: str = "") -> None:
        self.arguments = (kind, name, tuple(sorted(known)), remedy)
        ours = {ours: ours for ours in self.arguments[2]}
        ours = {theirs: name for theirs, name in ELSEWHERE.items() if name in ours} | ours
        written = str(getattr(name, "__name__", name)).lower().replace(" ", "_")
        near = dict.fromkeys(ours[n] for n in get_close_matches(written, ours, n=3, cutoff=0.5))
        hint = f"did you mean {' or '.join(map(repr, near))}? There are" if near else "there are"
        everything = ", ".join(map(repr, self.arguments[2]))
        super().__init__(f"unknown {kind} {brief(name)}; {hint}: {everything}{remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.arguments


class DeviceError(RuntimeError, ValueError):
    """The device that was asked for cannot be used here."""


class OutOfMemoryError(MemoryError):
    """A GPU has too little memory for what was asked for."""


class FileFormatError(ValueError):
    """A file is missing, torn, or not what it should be."""


class MissingExtraError(ImportError, ValueError):
    """An optional dependency is needed and is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.arguments = (package, extra, purpose)
        super().__init__(
            f"{purpose} needs {package}, which is not installed: "
            f'pip install "backprop-gpu[{extra}]"'
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.arguments


class GradientError(ValueError):
    """A gradient differs from its finite difference, or from the terms that make it up."""


def check_entry(
    kind: str, name: object, functions: Iterable[object], arguments: Sequence[str]
) -> None:
    """Raise unless an entry of a table has a name, and functions of these arguments."""
    if not isinstance(name, str) or not name:
        raise DtypeError(f"the name of this {kind} is {name!r}; expected a text")
    for function in functions:
        if not callable(function):
            raise DtypeError(f"the {kind} {name!r} has {function!r} where a function is expected")
        with suppress(ValueError):  # functions written in C may have no signature
            try:
                signature(function).bind(*arguments)
            except TypeError as error:
                raise DtypeError(
                    f"the {kind} {name!r} has a function that can't be called with "
                    f"({', '.join(arguments)}): {error}"
                ) from error


def check_name(
    kind: str, name: str, taken: Container[str], built_in: Container[str], *, replace: bool
) -> None:
    """Raise DomainError unless an entry of a table may be registered by this name."""
    if name in built_in:
        raise DomainError(f"{kind} named {name!r} is built in; choose another name")
    if name in taken and not replace:
        raise DomainError(
            f"{kind} named {name!r} exists; choose another name, or give replace=True to have this "
            "one in its place"
        )


def check_count(name: str, count: object, least: int = 1) -> int:
    """Return `count` as an int; raise DomainError unless it is whole and at least `least`."""
    if not isinstance(count, Integral) or isinstance(count, bool) or count < least:
        raise DomainError(f"{name} is {brief(count)}; expected a whole number, {least} or above")
    return int(count)


def check_number(
    name: str, value: object, expected: str, fits: Callable[[float], bool] = isfinite
) -> float:
    """Return `value` as a float if it is finite and fits; else raise, saying what is expected."""
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):
            number = float(value)
            if isfinite(number) and fits(number):
                return number
    raise DomainError(f"{name} is {brief(value)}; expected {expected}")


def check_positive(name: str, value: object) -> float:
    """Return `value` as a float; raise DomainError unless it is finite and above 0."""
    return check_number(name, value, "a finite number above 0", lambda number: number > 0)


def check_not_negative(name: str, value: object) -> float:
    """Return `value` as a float; raise DomainError unless it is finite and 0 or above."""
    return check_number(name, value, "0 or a finite number above it", lambda number: number >= 0)

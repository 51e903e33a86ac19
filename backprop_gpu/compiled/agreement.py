"""Whether the C++ of one's own entries computes what their functions do: people write both.

Nothing else would tell. Which of the two trains a network depends on the path, and on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import Activation, find_activation
from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend, NumpyBackend
from backprop_gpu.compiled.fused import FusedOperations
from backprop_gpu.errors import DomainError
from backprop_gpu.expressions import has_update, of_output
from backprop_gpu.losses import Loss
from backprop_gpu.optimizers import Optimizer, is_own, numbers_of

# Inputs, and targets that most losses take. Kinks are at rounder numbers.
Z = np.array([*np.linspace(-3.7, 4.1, 12), -11.1357, -7.2467, 7.7531, 12.8642])
Y = np.linspace(0.04, 0.93, 16)

IDENTITY = find_activation("identity")

TOLERANCE, LEAST = 1e-4, 1e-4  # relative; and what float32 may leave of a difference

Floats = NDArray[np.floating[Any]]


def check_agreement(
    activations: Sequence[Activation],
    outputs: int,
    loss: Loss | None,
    optimizer: Optimizer | None,
    dtype: np.dtype[Any],
    gpu: Any = None,
) -> None:
    """Raise DomainError where an expression of one's own differs from the function.

    Entries of the library's tables are left out: tests compare those. So is a function that raises:
    it may not be defined for the numbers that it is tried with.

    Parameters
    ----------
    activations : sequence of Activation
        One for every layer but the input.
    outputs : int
        The nodes of the last layer.
    loss : Loss or None
    optimizer : Optimizer or None
    dtype : dtype
    gpu : Backend, optional
        Whose kernels to compare. Default: what is compiled for the CPU.

    Raises
    ------
    DomainError
        With a number for which they differ.
    CompileError
    """
    last = activations[-1]
    for g in activations:
        if not g.is_built_in:
            _once(g, (dtype, gpu is None), partial(_check_activation, g, dtype, gpu))
    if loss is not None and not loss.is_built_in:
        key = dtype, gpu is None, str(last), outputs
        _once(loss, key, partial(_check_loss, loss, last, outputs, dtype, gpu))
    if optimizer is not None and is_own(optimizer) and has_update(optimizer):
        _once(optimizer, (dtype, gpu is None), partial(_check_update, optimizer, dtype, gpu))


def _once(entry: object, key: tuple[object, ...], check: Callable[[], None]) -> None:
    """Check an entry, which remembers that it has passed."""
    passed: list[object] = getattr(entry, "__dict__", {}).setdefault("_agrees", [])
    if key not in passed:
        with suppress(_UndefinedError):
            check()
        passed.append(key)


class _UndefinedError(Exception):
    """A function of one's own raised: it may not be defined for the numbers it was tried with."""


@contextmanager
def _may_be_undefined() -> Iterator[None]:
    with np.errstate(all="ignore"):
        try:
            yield
        except DomainError:
            raise
        except Exception as error:
            raise _UndefinedError from error


def _check_activation(g: Activation, dtype: np.dtype[Any], gpu: Backend | None) -> None:
    if g.cuda is None or g.jacobian_product is not None:
        return
    near = np.abs(Z[:, None] - np.array(g.kinks or [np.inf])).min(axis=1) < 1e-3
    z = np.where(near, Z + 0.01, Z).astype(dtype).reshape(8, 2)
    a, delta = np.empty_like(z), np.empty_like(z)
    of_z, ones, name = g.derivative_from == "z", np.ones_like(z), f"the activation {g.name!r}"
    with _may_be_undefined():
        g.apply(np, z, a)
        g.delta(np, ones, z if of_z else a, delta)
    # Predictions need no derivative, and libraries have both.
    whole = g if g.cuda_derivative is not None else replace(g, cuda_derivative="real(0)")

    def work(backend: Backend, z: Array, t: Array, b: Array, dC_da: Array, sums: Array) -> None:
        backend.delta(dC_da, whole, t, dC_da, sums)
        backend.bias_activation(z, b, whole, z)

    arrays = z, z if of_z else a, np.zeros(2, dtype), ones, np.zeros(2, dtype)
    found, _, _, slope, _ = _computed(work, arrays, gpu, whole)
    _compare(name, ("cuda", "function"), {"z": z}, found, a)
    if g.cuda_derivative is not None:
        at = {"z": z} if of_z else {"a": a}
        _compare(name, ("cuda_derivative", "derivative"), at, slope, delta)


def _check_loss(
    loss: Loss, g: Activation, outputs: int, dtype: np.dtype[Any], gpu: Backend | None
) -> None:
    if of_output(loss, g)[0] is None:
        return
    z, y = (np.resize(numbers, (16, outputs)).astype(dtype) for numbers in (Z, Y))
    if loss.targets == "distribution":
        y /= y.sum(axis=1, keepdims=True)
    a, name = np.empty_like(z), f"the loss {loss.name!r}"
    parts, last = ("cuda", "value"), IDENTITY  # whose delta is dC/da
    if loss.is_canonical_for(g):
        parts, last = ("cuda_canonical", "canonical_value" if loss.canonical_value else "value"), g

    def work(backend: Backend, z: Array, a: Array, y: Array, C: Array, delta: Array) -> None:
        backend.output_delta(loss, last, z, a, y, C, delta, delta)

    for row in range(len(z)):
        z_i, a_i, y_i = (t[row : row + 1] for t in (z, a, y))
        arrays = z_i, a_i, y_i, np.zeros(1, dtype), np.zeros_like(a_i)
        with _may_be_undefined():
            g.apply(np, z_i, a_i)
            *_, C_expected, expected = _computed(work, arrays, NumpyBackend())
        *_, C, delta = _computed(work, arrays, gpu, last, loss)
        at = {"a": a_i, "y": y_i}
        _compare(name, parts, at, C, C_expected)
        _compare(name, ("cuda_gradient", "gradient"), at, delta, expected)


def _check_update(optimizer: Optimizer, dtype: np.dtype[Any], gpu: Backend | None) -> None:
    p, g, name = Z, Z[::-1] / 4, f"the optimizer {type(optimizer).__name__}"
    numbers = numbers_of(optimizer, range(1, 2), np.array([0.5]))
    state = [np.zeros_like(p) for _ in range(optimizer.slots)]
    arrays = [t.astype(dtype) for t in (p, g, g, numbers[0], *state)]

    def work(
        backend: Backend, p: Array, g: Array, same: Array, numbers: Array, *state: Array
    ) -> None:
        for gradient in (g, same):  # which may be overwritten; the state is 0 at first
            backend.update(optimizer, p, gradient, state, numbers, len(p) // 2)

    found, expected = (
        _computed(work, arrays, backend, optimizer=optimizer) for backend in (gpu, NumpyBackend())
    )
    at = {"p": arrays[0], "g": arrays[1]}
    for ours, theirs in zip((found[0], *found[4:]), (expected[0], *expected[4:]), strict=True):
        _compare(name, ("cuda", "update"), at, ours, theirs)


def _computed(
    work: Callable[..., None],
    arrays: Sequence[Floats],
    backend: Backend | None,
    g: Activation = IDENTITY,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
) -> list[Floats]:
    """Return copies of arrays after work on them, by a backend or by what is compiled."""
    where = backend or NumpyBackend()
    on_device = [where.asarray(array.copy(), array.dtype) for array in arrays]
    with where.computing():
        if backend is None:
            fused = FusedOperations([g], loss, optimizer, arrays[0].dtype)
            fused.record(where, lambda recording: work(recording, *on_device))()
        else:
            work(where, *on_device)
    return [where.to_numpy(array) for array in on_device]


def _compare(
    name: str, parts: tuple[str, str], at: dict[str, Floats], found: Floats, expected: Floats
) -> None:
    """Raise DomainError if numbers differ; what the function is not defined for is left out."""
    off = np.isfinite(expected) & ~np.isclose(found, expected, TOLERANCE, LEAST)
    if not off.any():
        return
    i = int(off.argmax())
    numbers = {of: t.ravel()[i] if t.size > 2 else t.ravel() for of, t in at.items()}
    where = " and ".join(
        f"{of} = {np.round(t.astype(np.float64), 4).tolist()}" for of, t in numbers.items()
    )
    raise DomainError(
        f"{name} has a {parts[0]} that is not its {parts[1]}: for {where} it gives "
        f"{found.ravel()[i]:.6g} in C++, and {parts[1]} gives {expected.ravel()[i]:.6g}; make them "
        "the same"
    )

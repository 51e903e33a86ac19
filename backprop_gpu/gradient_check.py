"""Gradient checks: every term of backpropagation against finite differences in float64.

The reference is computed here, by a forward pass of its own, and knows nothing of `backward`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array, to_cpu
from backprop_gpu.checks import check_data, check_loss
from backprop_gpu.errors import GradientError, check_count, check_positive
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP, check_network
from backprop_gpu.network import Layer
from backprop_gpu.optimizers import SGD, numbers_of
from backprop_gpu.text_table import aligned

Matrix = NDArray[np.float64]

# Fourth-order central differences. Longer steps suffer from curvature, shorter ones from rounding;
# steps that would carry some z over a kink are left out.
STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TOLERANCE = {"float32": 2e-3, "float64": 1e-6}


@dataclass(frozen=True)
class CheckedTerm:
    """One array of gradients.

    Attributes
    ----------
    layer : int
        1 to L; 0 for dC/dx.
    term : {"dC/dW", "dC/db", "delta", "dC/da"}
    checked, skipped : int
        Derivatives that were compared, and those too near a kink to have one.
    largest_error : float
        The largest difference, relative to the entry plus the array's largest entry.
    """

    layer: int
    term: str
    checked: int
    skipped: int
    largest_error: float


@dataclass(frozen=True)
class GradientReport:
    """What a gradient check looked at; printed as a table."""

    terms: tuple[CheckedTerm, ...]

    @property
    def largest_error(self) -> float:
        """The largest relative error of all."""
        return max(term.largest_error for term in self.terms)

    def __repr__(self) -> str:
        rows = [
            (str(t.layer), t.term, str(t.checked), str(t.skipped), f"{t.largest_error:.1e}")
            for t in self.terms
        ]
        return aligned(rows, ["layer", "term", "checked", "skipped", "largest error"])


def check_gradients(
    net: MLP,
    x: Any,
    y: Any,
    loss: str | Loss = "mse",
    *,
    weight_decay: float = 0.0,
    tolerance: float | None = None,
    max_entries: int = 200,
    directions: int = 4,
    seed: int = 0,
) -> GradientReport:
    """Compare every gradient of `backward` with finite differences of the loss in float64.

    Checks dC/dW, dC/db, every delta, every dC/da and dC/dx, entry by entry; of an array with more
    than `max_entries` entries that many, drawn at random. Every array is checked along random
    directions as well, which no wrong entry survives. A derivative is skipped where no step is
    small enough to keep every z on its side of the activation's kinks.

    Parameters
    ----------
    net : MLP
        On any device, in any dtype; its parameters are not changed.
    x, y : array_like
        Some samples show what is wrong; thousands take a minute and more.
    loss : str or Loss
    weight_decay : float
        Check what SGD with this weight decay applies: the gradient of C + weight_decay/2 sum W^2.
    tolerance : float, optional
        The relative error allowed. Default: 1e-6 for a float64 network, 2e-3 for float32.
    max_entries, directions : int
    seed : int
        Draws the entries and directions.

    Returns
    -------
    GradientReport

    Raises
    ------
    GradientError
        Naming layer, term and entry, with both numbers.

    Examples
    --------
    >>> import backprop_gpu as bp
    >>> report = bp.check_gradients(*bp.textbook(device="cpu"))
    >>> report.largest_error < 1e-8
    True
    """
    check_network(net)
    check_count("max_entries", max_entries)
    check_count("directions", directions, least=0)
    limit = TOLERANCE[net.dtype.name] if tolerance is None else tolerance
    limit = check_positive("tolerance", limit)
    entry = check_loss(net, loss)
    analytic = _analytic(net, x, y, entry, weight_decay)
    twin = net.copy(device="cpu", dtype="float64")
    data = check_data(twin, to_cpu(x), to_cpu(y), entry)
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        reference = _Reference(twin, *data, entry, weight_decay)
        return GradientReport(
            tuple(
                _check_term(layer, term, gradient, reference, limit, max_entries, directions, rng)
                for layer, term, gradient in analytic
            )
        )


def _analytic(
    net: MLP, x: Any, y: Any, loss: Loss, weight_decay: float
) -> list[tuple[int, str, Matrix]]:
    """Return what `backward` gives, as (layer, term, gradient)."""
    grads = net.backward(net.forward(x), y, loss)
    if weight_decay:  # what one SGD step with learning rate 1 subtracts
        after = net.parameters.copy()
        with net.backend.computing():
            optimizer = SGD(learning_rate=1.0, weight_decay=weight_decay)
            (first,) = numbers_of(optimizer, range(1), np.zeros(1))
            numbers = net.backend.asarray(first, net.dtype)
            net.backend.update(optimizer, after, grads.flat.copy(), (), numbers, net.weight_count)
            grads.flat[...] = net.parameters - after

    def exact(array: Array) -> Matrix:
        return net.backend.to_numpy(array).astype(np.float64)

    terms = []
    for l in range(len(net.layers), 0, -1):
        terms += [
            (l, "dC/da", exact(grads.activations[l])),
            (l, "delta", exact(grads.deltas[l - 1])),
            (l, "dC/db", exact(grads.biases[l - 1])),
            (l, "dC/dW", exact(grads.weights[l - 1])),
        ]
    return [*terms, (0, "dC/da", exact(grads.activations[0]))]


class _Reference:
    """The loss as a function of a change to one array, in float64 NumPy."""

    def __init__(self, net: MLP, x: Matrix, y: Matrix, loss: Loss, weight_decay: float) -> None:
        self.layers: Sequence[Layer] = net.layers
        self.y, self.loss, self.weight_decay = y, loss, weight_decay
        self.a, self.z = [x], []
        for W, b, g in self.layers:
            self.z.append(self.a[-1] @ W.T + b)
            self.a.append(g.function(np, self.z[-1]))

    def __call__(
        self, layer: int, term: str, rows: Array, change: Matrix
    ) -> tuple[float, list[Any]]:
        """Return C after a change, and on which side of its kinks every z is.

        The change is to some rows of an array: nodes in dC/dW and dC/db, else samples. Of C there
        is only what they have a part in.
        """
        samples: Any = rows if term in ("delta", "dC/da") else slice(None)
        C, z, sides = 0.0, None, []
        if term == "dC/da":
            a = self.a[layer][samples] + change
        else:
            W, _, g = self.layers[layer - 1]
            z = self.z[layer - 1][samples].copy()
            if term == "dC/dW":
                z[:, rows] += self.a[layer - 1] @ change.T
                if self.weight_decay:
                    C = self.weight_decay / 2 * float(((W[rows] + change) ** 2).sum())
            elif term == "dC/db":
                z[:, rows] += change
            else:
                z += change
            a = g.function(np, z)
            sides.append(_sides(z, self.layers[layer - 1]))
        for layer_after in self.layers[layer:]:
            W, b, g = layer_after
            z = a @ W.T + b
            a = g.function(np, z)
            sides.append(_sides(z, layer_after))
        y = self.y[samples]
        canonical = z is not None and self.loss.is_canonical_for(self.layers[-1].g)
        if canonical and self.loss.canonical_value is not None:
            C_i = self.loss.canonical_value(np, z, y)
        else:
            C_i = self.loss.value(np, a, y)
        return C + float(C_i.sum()) / len(self.y), sides

    def derivative(
        self, layer: int, term: str, direction: Matrix, enough: float
    ) -> tuple[float, float]:
        """Return dC along a direction, and how uncertain it is: infinitely where kinks are near.

        Steps are tried from the longest to the shortest, until the uncertainty is `enough`.
        """
        best, uncertainty = 0.0, np.inf
        longer: tuple[float, float] | None = None
        rows = direction.reshape(len(direction), -1).any(axis=1)
        change = direction[rows]
        for step in STEPS:
            C, sides = zip(
                *(self(layer, term, rows, k * step * change) for k in (-2, -1, 1, 2)), strict=True
            )
            if not np.isfinite(C).all() or not all(_same(side, sides[0]) for side in sides[1:]):
                continue
            estimate = (8 * (C[2] - C[1]) - (C[3] - C[0])) / (12 * step)
            # Of a square e^2, rounding leaves e * eps in doubt, not e^2 * eps.
            largest = max(map(abs, C))
            rounding = 4e-14 * (largest + math.sqrt(largest)) / step
            # What the next shorter step makes of it is how far curvature misled the longer one.
            candidates = [(estimate, rounding)] if step == STEPS[-1] else []
            if longer is not None:
                candidates.append((longer[0], longer[1] + abs(longer[0] - estimate)))
            for value, doubt in candidates:
                if doubt < uncertainty:
                    best, uncertainty = value, doubt
            if uncertainty <= enough:
                break
            longer = estimate, rounding
        return best, uncertainty


def _check_term(
    layer: int,
    term: str,
    gradient: Matrix,
    reference: _Reference,
    limit: float,
    max_entries: int,
    directions: int,
    rng: np.random.Generator,
) -> CheckedTerm:
    finite = np.abs(gradient[np.isfinite(gradient)])
    largest = float(finite.max()) if finite.size else 0.0
    checked, skipped, worst = 0, 0, 0.0
    for where, direction in _directions(gradient.shape, max_entries, directions, rng):
        given = float((gradient * direction)[direction != 0].sum())
        scale = largest + (abs(given) if np.isfinite(given) else 0.0)
        expected, uncertainty = reference.derivative(layer, term, direction, limit * scale / 100)
        if uncertainty == np.inf:
            skipped += 1
            continue
        checked += 1
        scale = largest + abs(expected)
        error = abs(given - expected)
        if not error <= limit * scale + 4 * uncertainty:
            raise GradientError(
                f"{term} of layer {layer} is off {where}: backward gives {given:.12g}, finite "
                f"differences give {expected:.12g} (allowed is a relative error of {limit:.0e})"
            )
        worst = max(worst, error / scale if scale else 0.0)
    return CheckedTerm(layer, term, checked, skipped, worst)


def _directions(
    shape: tuple[int, ...], max_entries: int, directions: int, rng: np.random.Generator
) -> Iterator[tuple[str, Matrix]]:
    """Yield single entries, then random directions, each with words for where it points."""
    size = int(np.prod(shape))
    entries = range(size) if size <= max_entries else rng.choice(size, max_entries, replace=False)
    for i in entries:
        direction = np.zeros(size)
        direction[i] = 1
        index = tuple(int(k) for k in np.unravel_index(int(i), shape))
        yield f"at entry {index}", direction.reshape(shape)
    for _ in range(directions):
        direction = rng.standard_normal(shape)
        yield "along a random direction", direction / np.linalg.norm(direction)


def _sides(z: Matrix, layer: Layer) -> list[NDArray[np.bool_]]:
    return [side for kink in layer.g.kinks for side in (z > kink, z < kink)]


def _same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(
        np.array_equal(a, b)
        for layer_a, layer_b in zip(one, other, strict=True)
        for a, b in zip(layer_a, layer_b, strict=True)
    )

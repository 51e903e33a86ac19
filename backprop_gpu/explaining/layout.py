"""Which nodes a picture of a network shows, and how it writes their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array
from backprop_gpu.mlp import MLP

Values = NDArray[np.float64]
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def shown_nodes(nodes: int, most: int) -> list[int]:
    """Return the nodes of a layer that are shown: all, or the first ones and the last.

    With the ellipsis in between they take `most` places at the most.

    Examples
    --------
    >>> shown_nodes(4, 10)
    [0, 1, 2, 3]
    >>> shown_nodes(128, 6)
    [0, 1, 2, 3, 127]
    """
    return list(range(nodes)) if nodes <= most else [*range(most - 2), nodes - 1]


def places(nodes: int, shown: Sequence[int]) -> list[float]:
    """Return where shown nodes stand, centred on 0, one unit apart; a gap is one unit wide."""
    gap = len(shown) < nodes
    spots = [float(i) for i in range(len(shown))]
    if gap:
        spots[-1] += 1
    return [spot - spots[-1] / 2 for spot in spots]


def entries(net: MLP, array: Array, *indices: Sequence[int]) -> Values:
    """Bring the entries of an array at rows (and columns) to the CPU, in float64."""
    with net.backend.computing():
        for axis, index in enumerate(indices):
            array = net.backend.xp.take(array, net.backend.xp.asarray(list(index)), axis=axis)
        values: Any = net.backend.to_numpy(array)
    return np.asarray(values, np.float64)


def largest(values: Values) -> float:
    """Return the largest finite size among some values; 1 if there is none above 0."""
    sizes = np.abs(values[np.isfinite(values)])
    return float(sizes.max()) if sizes.size and sizes.max() > 0 else 1.0


def strength(value: float, most: float) -> float:
    """Return a value as a share of the largest: -1 to 1."""
    return 0.0 if math.isnan(value) else max(-1.0, min(1.0, value / most))


def written(value: float, digits: int = 7) -> str:
    """Return a number for reading: a minus sign, and a power of ten where it is far from 1.

    Examples
    --------
    >>> written(-0.25), written(1.5e-07)
    ('−0.25', '1.5×10⁻⁷')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    mantissa, _, exponent = f"{value + 0.0:.{digits}g}".partition("e")  # no -0
    mantissa = mantissa.replace("-", "−")
    return f"{mantissa}×10{str(int(exponent)).translate(SUPERSCRIPT)}" if exponent else mantissa


def short(value: float) -> str:
    """Return a number in so few characters that a node has room for it.

    Examples
    --------
    >>> short(0.83237), short(-12.345), short(0.000123), short(0)
    ('0.832', '−12.3', '1e−4', '0')
    """
    if not math.isfinite(value):
        return written(value)
    size = abs(value)
    if value == int(value) and size < 1000:
        text = str(int(value))
    elif 0.001 <= size < 999.5:
        text = f"{value:.{3 if size < 9.995 else 1}f}"
    else:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")

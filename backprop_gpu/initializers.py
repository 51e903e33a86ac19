"""Initial weights: a variance from the layer's fans, a shape of distribution, a seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.errors import UnknownNameError

VARIANCES: dict[str, Callable[[int, int], float]] = {
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),  # Glorot and Bengio, 2010
    "he": lambda fan_in, fan_out: 2 / fan_in,  # He et al., 2015
    "lecun": lambda fan_in, fan_out: 1 / fan_in,  # LeCun et al., 1998
}

INITIALIZERS = tuple(f"{name}_{shape}" for name in VARIANCES for shape in ("uniform", "normal"))
"""Every initializer that can be named."""


def initial_weights(
    name: str, nodes: int, inputs: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw W, shape (nodes, inputs), with mean 0 and the variance of the named initializer.

    Raises
    ------
    UnknownNameError
        If no initializer has this name.
    """
    if name not in INITIALIZERS:
        raise UnknownNameError("initializer", name, INITIALIZERS)
    rule, shape = name.split("_")
    variance = VARIANCES[rule](inputs, nodes)
    if shape == "normal":
        return rng.normal(0.0, math.sqrt(variance), (nodes, inputs))
    limit = math.sqrt(3 * variance)
    return rng.uniform(-limit, limit, (nodes, inputs))

"""Work that is written down once and repeated: call by call, or as a CUDA graph of these calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backprop_gpu.arrays import Array

Call = Callable[[], None]

Capture = Callable[[Sequence[Call]], Call]
"""Makes a graph of what calls ask of the device; what it returns launches the graph."""


@dataclass
class Recording:
    """What some work asks of the device.

    Attributes
    ----------
    calls : list of callable
    obstacle : str or None
        What keeps the calls from being captured, if anything does.
    scratch : dict
        The arrays that calls need for themselves. The device does one call after the other, so
        that calls share them.
    """

    calls: list[Call] = field(default_factory=list)
    obstacle: str | None = None
    scratch: dict[tuple[Any, ...], Array] = field(default_factory=dict)

    def array(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], empty: Callable[..., Array]
    ) -> Array:
        """Return the scratch array of this name, shape and dtype; allocate it at first."""
        key = name, shape, dtype
        if key not in self.scratch:
            self.scratch[key] = empty(shape, dtype)
        return self.scratch[key]


class Replay:
    """Repeats a recording.

    The first time call by call, which compiles kernels and lets libraries allocate what they
    need; then as a graph, if the calls can be captured.

    Attributes
    ----------
    obstacle : str or None
        What keeps them from being captured, if anything does.
    """

    def __init__(self, recording: Recording, capture: Capture | None) -> None:
        self._calls = recording.calls  # they keep the arrays alive that a graph has addresses of
        self.obstacle = recording.obstacle
        if capture is None:
            self.obstacle = "this backend makes no CUDA graphs"
        self._capture = None if self.obstacle else capture
        self._warm = False
        self._launch: Call | None = None

    def __call__(self) -> None:
        if self._warm and self._capture is not None:
            self._launch, self._capture = self._captured(self._capture), None
        if self._launch is not None:
            self._launch()
            return
        for call in self._calls:
            call()
        self._warm = True

    def _captured(self, capture: Capture) -> Call | None:
        try:
            return capture(self._calls)
        except Exception as error:  # whatever it is, the calls can be made one by one
            self.obstacle = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"no CUDA graph could be made ({self.obstacle}); kernels are "
                "launched one by one, with the same result",
                RuntimeWarning,
                stacklevel=3,
            )
            return None

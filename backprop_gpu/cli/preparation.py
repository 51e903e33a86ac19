"""What stands between a data file and a network, and is kept with the network in its file.

Which columns are the inputs, how inputs are scaled, and which label an output stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import one_hot
from backprop_gpu.checkpoint import SavedNetwork
from backprop_gpu.errors import DomainError, FileFormatError, NonFiniteError

Label = bool | int | float | str


@dataclass(frozen=True)
class Preparation:
    """How the columns of a file become inputs, and outputs become answers.

    Attributes
    ----------
    features, targets : tuple of str
        Names of the columns; empty if they have none.
    classes : tuple of labels
        The label that each output stands for; empty if outputs are numbers.
    mean, deviation : ndarray, shape (inputs,), or None
        What inputs are standardized with.
    """

    features: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    classes: tuple[Label, ...] = ()
    mean: NDArray[np.float64] | None = None
    deviation: NDArray[np.float64] | None = None

    def inputs(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return what the network is given for x."""
        if self.mean is None or self.deviation is None:
            return x
        return (x - self.mean) / self.deviation

    def outputs(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return what the network should give for y: labels as rows of 0 and 1."""
        if not self.classes:
            return y
        return one_hot(np.searchsorted(np.array(self.classes), y), len(self.classes))

    def answers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Return the labels of the largest outputs, or the outputs."""
        return np.array(self.classes)[outputs.argmax(axis=1)] if self.classes else outputs

    def notes(self) -> dict[str, Any]:
        """Return what is kept in the file's notes."""
        names = {"features": self.features, "targets": self.targets, "classes": self.classes}
        return {name: list(values) for name, values in names.items() if values}

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the arrays that are kept in the file."""
        if self.mean is None or self.deviation is None:
            return {}
        return {"mean": self.mean, "deviation": self.deviation}


def classes_of(labels: NDArray[Any]) -> tuple[Label, ...]:
    """Return the different labels, sorted; raise unless they can be classes."""
    classes = np.unique(labels)
    if len(classes) < 2:
        raise DomainError(f"every label is {classes[0]!r}; classes are at least two")
    if len(classes) > max(2, len(labels) // 2):
        raise DomainError(
            f"{len(labels)} labels are of {len(classes)} kinds, too few of each to learn from; "
            "leave out --classify if they are numbers to predict"
        )
    return tuple(classes.tolist())


def scaling_of(x: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the columns' means and standard deviations; 1 for a column that is constant."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = x.mean(axis=0, dtype=np.float64)
        deviation = x.std(axis=0, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(deviation))
    if len(bad):
        raise NonFiniteError(
            f"column {bad[0]} of x (counted from 0) is too large to standardize; scale it first"
        )
    # The mean of equal values can be off by a rounding error, which must not be blown up.
    constant = x.min(axis=0) == x.max(axis=0)
    mean[constant] = x[0, constant]
    deviation[constant | (deviation == 0)] = 1
    return mean, deviation


def preparation_of(saved: SavedNetwork) -> Preparation:
    """Return the preparation in a file; an empty one if the network was saved without.

    Raises
    ------
    FileFormatError
        If what is there doesn't fit the network.
    """
    inputs, outputs = saved.net.layer_sizes[0], saved.net.layer_sizes[-1]
    mean, deviation = (saved.arrays.get(name) for name in ("mean", "deviation"))
    if (mean is None) != (deviation is None):
        raise FileFormatError("the file holds one of mean and deviation; expected both or none")
    if mean is not None and deviation is not None:
        for name, array in (("mean", mean), ("deviation", deviation)):
            if array.shape != (inputs,) or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise FileFormatError(
                    f"the file's {name} is {array.dtype} of shape {array.shape}; expected "
                    f"{inputs} finite numbers"
                )
        if not (deviation > 0).all():
            raise FileFormatError("the file's deviation is not above 0 everywhere")
    features = _listed(saved.notes, "features", str, inputs)
    classes = _listed(saved.notes, "classes", Label, outputs)
    targets = _listed(saved.notes, "targets", str, 1 if classes else outputs)
    return Preparation(features, targets, classes, mean, deviation)


def _listed(notes: Mapping[str, Any], name: str, kind: Any, count: int) -> tuple[Any, ...]:
    values = notes.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise FileFormatError(f"the file's {name} are {values!r:.60}; expected a list")
    if values and len(values) != count:
        raise FileFormatError(f"the file names {len(values)} {name}; the network has {count}")
    return tuple(values)

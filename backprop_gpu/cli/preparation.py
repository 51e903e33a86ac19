"""What stands between a data file and a network, and is kept with the network in its file.

Which columns are the inputs, how numbers are scaled, and which label an output stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import one_hot
from backprop_gpu.errors import DomainError, FileFormatError, NonFiniteError
from backprop_gpu.saving import SavedNetwork

Label = bool | int | float | str


@dataclass(frozen=True)
class Scaling:
    """What columns are standardized with.

    Attributes
    ----------
    mean, deviation : ndarray, shape (columns,)
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values standardized."""
        return (values - self.mean) / self.deviation

    def undo(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return what standardized values stand for, in their dtype."""
        restored: NDArray[Any] = (values * self.deviation + self.mean).astype(values.dtype)
        return restored


@dataclass(frozen=True)
class Preparation:
    """How the columns of a file become inputs, and outputs become answers.

    Attributes
    ----------
    features, targets : tuple of str
        Names of the columns; empty if they have none.
    classes : tuple of labels
        The label that each output stands for; empty if outputs are numbers.
    of_inputs, of_targets : Scaling or None
        How they are standardized, if they are.
    """

    features: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    classes: tuple[Label, ...] = ()
    of_inputs: Scaling | None = None
    of_targets: Scaling | None = None

    def inputs(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return what the network is given for x."""
        return self.of_inputs.apply(x) if self.of_inputs else x

    def outputs(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return what the network should give for y: labels as rows of 0 and 1."""
        if self.classes:
            return one_hot(np.searchsorted(np.array(self.classes), y), len(self.classes))
        return self.of_targets.apply(y) if self.of_targets else y

    def answers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Return the labels of the largest outputs, or the numbers that outputs stand for."""
        if self.classes:
            labels: NDArray[Any] = np.array(self.classes)[outputs.argmax(axis=1)]
            return labels
        return self.of_targets.undo(outputs) if self.of_targets else outputs

    def notes(self) -> dict[str, Any]:
        """Return what is kept in the file's notes."""
        names = {"features": self.features, "targets": self.targets, "classes": self.classes}
        return {name: list(values) for name, values in names.items() if values}

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the arrays that are kept in the file."""
        kinds = {"": self.of_inputs, "target_": self.of_targets}
        return {
            f"{kind}{name}": array
            for kind, scaling in kinds.items()
            if scaling
            for name, array in (("mean", scaling.mean), ("deviation", scaling.deviation))
        }


def classes_of(labels: NDArray[Any]) -> tuple[Label, ...]:
    """Return the different labels, sorted; raise unless they can be classes."""
    classes = tuple(np.unique(labels).tolist())
    if len(classes) < 2:
        raise DomainError(f"every label is {classes[0]!r}; classes are at least two")
    if len(classes) > max(2, len(labels) // 2):
        raise DomainError(
            f"{len(labels)} labels are of {len(classes)} kinds, too few of each to learn from; "
            "leave out --classify if they are numbers to predict"
        )
    return classes


def names_of_outputs(count: int) -> list[str]:
    """Return what outputs are called whose targets have no names."""
    return ["y"] if count == 1 else [f"y{j}" for j in range(count)]


def scaling_of(x: NDArray[Any], name: str) -> Scaling:
    """Return the columns' means and standard deviations; 1 for a column that is constant."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = x.mean(axis=0, dtype=np.float64)
        deviation = x.std(axis=0, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(deviation))
    if len(bad):
        raise NonFiniteError(
            f"column {bad[0]} of {name} (counted from 0) is too large to standardize; scale it "
            "first"
        )
    # The mean of equal values can be off by a rounding error, which must not be blown up.
    constant = x.min(axis=0) == x.max(axis=0)
    mean[constant] = x[0, constant]
    deviation[constant | (deviation == 0)] = 1
    return Scaling(mean, deviation)


def preparation_of(saved: SavedNetwork) -> Preparation:
    """Return the preparation in a file; an empty one if the network was saved without.

    Raises
    ------
    FileFormatError
        If what is there doesn't fit the network.
    """
    inputs, outputs = saved.net.layer_sizes[0], saved.net.layer_sizes[-1]
    of_inputs = _scaling_in(saved, "", inputs)
    of_targets = _scaling_in(saved, "target_", outputs)
    features = _listed(saved.notes, "features", str, inputs)
    classes = _listed(saved.notes, "classes", Label, outputs)
    targets = _listed(saved.notes, "targets", str, 1 if classes else outputs)
    return Preparation(features, targets, classes, of_inputs, of_targets)


def _scaling_in(saved: SavedNetwork, kind: str, columns: int) -> Scaling | None:
    names = f"{kind}mean", f"{kind}deviation"
    arrays = [saved.arrays[name] for name in names if name in saved.arrays]
    if not arrays:
        return None
    if len(arrays) == 1:
        raise FileFormatError(f"the file holds one of {names[0]} and {names[1]}; expected both")
    for name, array in zip(names, arrays, strict=True):
        if array.shape != (columns,) or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise FileFormatError(
                f"the file's {name} is {array.dtype} of shape {array.shape}; expected "
                f"{columns} finite numbers"
            )
    if not (arrays[1] > 0).all():
        raise FileFormatError(f"the file's {names[1]} is not above 0 everywhere")
    return Scaling(*arrays)


def _listed(notes: Mapping[str, Any], name: str, kind: Any, count: int) -> tuple[Any, ...]:
    values = notes.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise FileFormatError(f"the file's {name} are {values!r:.60}; expected a list")
    if values and len(values) != count:
        raise FileFormatError(f"the file names {len(values)} {name}; the network has {count}")
    return tuple(values)

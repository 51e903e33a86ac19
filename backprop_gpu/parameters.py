"""Parameters: views of one flat array; what users assign is checked, then copied into them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Self

from backprop_gpu.arrays import Array, check_finite, numeric
from backprop_gpu.backends import Backend
from backprop_gpu.errors import DtypeError, ShapeError, brief, count_of

MEANING = {
    "parameters": "every weight, layer by layer, then every bias",
    "weights": "(nodes, inputs)",
    "biases": "(nodes,)",
}


def split(flat: Array, layer_sizes: Sequence[int]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return views of a flat array: every layer's weights, then every layer's biases."""
    nodes, inputs = layer_sizes[1:], layer_sizes[:-1]
    shapes = *zip(nodes, inputs, strict=True), *zip(nodes, strict=True)
    stops = accumulate(map(math.prod, shapes))
    views = tuple(
        flat[stop - math.prod(shape) : stop].reshape(shape)
        for shape, stop in zip(shapes, stops, strict=True)
    )
    return views[: len(nodes)], views[len(nodes) :]


def checked_copy(values: Any, own: Array, name: str, backend: Backend) -> Array:
    """Return a copy of values that fits into an array of the network: on its device, in its dtype.

    Raises
    ------
    DtypeError, ShapeError, NonFiniteError, DeviceError
    """
    array = numeric(values, name)
    if tuple(array.shape) != own.shape:
        raise ShapeError(
            f"{name} has shape {tuple(array.shape)}; expected {own.shape}: "
            + MEANING[name.partition("[")[0]]
        )
    with backend.computing():
        array = backend.asarray(array, own.dtype)
        check_finite(array, name, backend.xp)
        return array.copy()


def assign(values: Any, own: Array, name: str, backend: Backend) -> None:
    """Copy values into an array of the network, or raise before it is changed.

    Python assigns the array itself after ``array -= step``, which has changed it already.
    """
    if values is own:
        return
    array = checked_copy(values, own, name, backend)
    with backend.computing():
        own[...] = array
    backend.synchronize()  # another stream of the GPU may read it next


class Views(tuple[Array, ...]):
    """An array for each layer; numbers that are assigned to an item are copied into its array.

    So ``net.weights[0] -= step``, which ends with an assignment, is a step. Copies are tuples.
    """

    _name: str
    _backend: Backend

    def __new__(cls, name: str, arrays: Iterable[Array], backend: Backend) -> Self:
        views = super().__new__(cls, arrays)
        views._name, views._backend = name, backend
        return views

    def __setitem__(self, i: int, values: Any) -> None:
        if isinstance(i, slice):
            raise DtypeError(
                f"several {self._name} can't be assigned at once; write {self._name}[0] = array"
            )
        assign(values, self[i], f"{self._name}[{i}]", self._backend)

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)


def checked_copies(given: Any, own: Views) -> list[Array]:
    """Return copies of what is given for every layer, each as `checked_copy` makes it."""
    name = own._name
    if not hasattr(given, "__len__"):
        raise DtypeError(f"{name} is {brief(given)}; expected a list of {len(own)} arrays")
    if len(given) != len(own):
        raise ShapeError(
            f"{len(given)} {name} given; the network has {count_of(len(own), 'layer')}"
        )
    return [
        checked_copy(values, array, f"{name}[{i}]", own._backend)
        for i, (values, array) in enumerate(zip(given, own, strict=True))
    ]

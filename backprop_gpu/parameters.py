"""Parameters as users assign them: checked first, then copied into the arrays that are there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from backprop_gpu.arrays import Array, check_finite, numeric
from backprop_gpu.backends import Backend
from backprop_gpu.errors import DtypeError, ShapeError

MEANING = {
    "parameters": "every weight, layer by layer, then every bias",
    "weights": "(nodes, inputs)",
    "biases": "(nodes,)",
}


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

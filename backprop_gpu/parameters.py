"""Parameters as users assign them: checked first, then copied into the arrays that are there."""

from __future__ import annotations

from typing import Any

from backprop_gpu.arrays import Array, check_finite, numeric
from backprop_gpu.backends import Backend
from backprop_gpu.errors import ShapeError

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

"""Arrays from outside: checked and converted once, before anything is computed with them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from backprop_gpu.errors import (
    DeviceError,
    DomainError,
    DtypeError,
    NonFiniteError,
    ShapeError,
    check_count,
    count_of,
)

Array: TypeAlias = Any
"""A `numpy.ndarray` or a `cupy.ndarray`."""

ArrayModule: TypeAlias = Any
"""`numpy` or `cupy`; called `xp` where it is passed."""

DTYPES = ("float32", "float64")

NUMBERED = "numpy.unique({}, return_inverse=True)[1] numbers labels of any kind"

DLPACK_CUDA = 2  # kDLCUDA of DLPack's device types


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as a NumPy dtype; only float32 and float64 are computed with."""
    for known in DTYPES:
        with suppress(TypeError, ValueError, SyntaxError):
            if dtype is not None and np.dtype(dtype) == known:
                return np.dtype(known)
    raise DtypeError(f"dtype is {dtype!r}; it has to be 'float32' or 'float64'")


def on_gpu(values: Any) -> bool:
    """Return whether `values` live in CUDA memory, by the CUDA array interface or by DLPack."""
    with suppress(AttributeError, TypeError, RuntimeError):  # PyTorch raises where it can't say
        if hasattr(values, "__cuda_array_interface__"):
            return True
        return values.__dlpack_device__()[0] == DLPACK_CUDA  # type: ignore[no-any-return]
    return False


def weight_count(layer_sizes: Sequence[int]) -> int:
    """Return the number of weights."""
    return sum(inputs * nodes for inputs, nodes in pairwise(layer_sizes))


def step_flops(layer_sizes: Sequence[int], n: int) -> float:
    """Return the FLOPs of a step on n samples: of 3 products, each 2 a weight and sample."""
    return 6.0 * n * weight_count(layer_sizes)


def to_cpu(values: Any) -> Any:
    """Return CuPy's arrays as NumPy's, and anything else as it is."""
    return values.get() if on_gpu(values) and hasattr(values, "get") else values


def is_sparse(x: Any) -> bool:
    """Return whether this is a matrix or array of SciPy's sparse formats."""
    return hasattr(x, "toarray")


def dense(x: Any) -> Any:
    """Return a sparse matrix as an array, and anything else as it is."""
    return x.toarray() if is_sparse(x) else x


def numeric(values: Any, name: str) -> Array:
    """Return `values` as an array of real numbers on the device where they are.

    Integers, booleans and every real float (float16 too) are numbers, and so are columns of them
    in pandas and Polars, whose missing values become NaN; objects, text, complex numbers, ragged
    lists and masked entries are refused.
    """
    code = _as_code(name)
    if on_gpu(values):
        array, dtype = values, values.dtype
        kind = "c" if "complex" in str(dtype) else "f"
    else:
        if np.ma.is_masked(values) or (
            isinstance(values, list | tuple) and any(np.ma.is_masked(row) for row in values)
        ):
            raise DtypeError(f"{name} has masked entries; fill or drop them first")
        if is_sparse(values):
            raise DtypeError(
                f"{name} is a sparse matrix ({type(values).__name__}); expected a dense one: "
                f"{code}.toarray()"
            )
        if hasattr(values, "collect") and not hasattr(values, "__array__"):
            raise DtypeError(
                f"{name} is a {type(values).__name__}, which has no values yet; "
                f"give {code}.collect()"
            )
        # Polars makes numbers of dates, and fails at other tables with NumPy's words.
        if _is_of_polars(values) and (other := _other_columns(values)):
            raise DtypeError(
                f"{name} is a table ({type(values).__name__}); expected real numbers{other}"
            )
        try:
            only_dlpack = hasattr(values, "__dlpack__") and not hasattr(values, "__array__")
            array = np.from_dlpack(values) if only_dlpack else np.asarray(values)
            if array.dtype == object and _is_table_of_numbers(values):  # of several types
                if _is_of_polars(values):
                    array = array.astype(np.float64)
                else:
                    array = values.to_numpy(np.float64, na_value=np.nan)
        except (ValueError, TypeError, RuntimeError, BufferError) as error:
            given, remedy = "", "give a rectangular array or nested list"
            if isinstance(values, list | tuple) and any(map(on_gpu, values)):
                remedy = f"of arrays in GPU memory make one, cupy.stack({code})"
            elif hasattr(values, "dtype"):
                given = f"is a {type(values).__name__} of {values.dtype}, and "
                remedy = "give an array of NumPy, for example of float32"
            raise DtypeError(
                f"{name} {given}can't be read as an array of numbers ({error}); {remedy}"
            ) from error
        kind, dtype = array.dtype.kind, array.dtype
    if kind not in "biuf":
        raise DtypeError(
            f"{name} has dtype {dtype} (from {type(values).__name__}); expected real numbers"
            + _to_numbers(values, array, code)
        )
    return array


def _as_code(name: str) -> str:
    """Return how code calls an array: "x" is the variable of "x of batch 3"."""
    return name.partition(" of ")[0]


def _columns(values: Any) -> list[tuple[Any, Any]]:
    """Return the names and dtypes of a DataFrame's columns, or of a Series; else nothing."""
    kinds: Any = getattr(values, "dtypes", None)
    if hasattr(kinds, "items"):
        return list(kinds.items())
    if _is_of_polars(values):
        return list(zip(values.columns, kinds, strict=True))
    return [] if kinds is None else [(getattr(values, "name", None), kinds)]


def _is_of_polars(values: Any) -> bool:
    """Return whether this is a DataFrame of Polars."""
    return isinstance(getattr(values, "dtypes", None), list)


def _is_number(dtype: Any) -> bool:
    if hasattr(dtype, "is_numeric"):  # of Polars
        return bool(dtype.is_numeric()) or str(dtype) == "Boolean"
    return getattr(dtype, "kind", "O") in "biuf"


def _is_table_of_numbers(values: Any) -> bool:
    columns = _columns(values)
    return bool(columns) and all(_is_number(dtype) for _, dtype in columns)


def _to_numbers(values: Any, array: Array, name: str) -> str:
    """Return what makes numbers of values that are none, as far as that can be told."""
    if isinstance(values, str | os.PathLike):
        return f"; if it is a file, give what is in it, for example numpy.load({name})"
    if isinstance(values, dict):
        return f"; of columns, give numpy.column_stack(list({name}.values()))"
    if isinstance(values, Mapping) and values:  # of NumPy's .npz, or of HDF5
        return f"; give one of the arrays in it, for example {name}[{next(iter(values))!r}]"
    with suppress(Exception):  # objects raise what they like
        may_be_numbers = array.dtype.kind in "OSU" and array.size
        if may_be_numbers and np.isfinite(np.asarray(array, np.float64)).all():
            return f": convert them, numpy.asarray({name}, 'float32')"
    if array.dtype.kind in "SU" and array.ndim == 1:
        return f"; {NUMBERED.format(name)}"
    return _other_columns(values)


def _other_columns(values: Any) -> str:
    """Return which columns of a table hold no numbers, in words; nothing if all do."""
    others = [
        f"{column!r} ({dtype})" for column, dtype in _columns(values) if not _is_number(dtype)
    ]
    if not others:
        return ""
    named = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
    return f", and there is something else in {named}: drop it, or make numbers of it"


def _remedy(shape: tuple[int, ...], name: str, columns: int, meaning: str) -> str:
    """Return what makes such a matrix of an array, as far as its shape tells."""
    labels = {1: name, 2: f"{name}[:, 0]"}.get(len(shape), "")
    remedies = {
        f"{name}.reshape({len(shape) and shape[0]}, -1)": len(shape) > 2,
        f"{name}.T if samples are its columns": len(shape) == 2 and shape[0] == columns,
        f"{name}[None, :] for one sample": shape == (columns,),
        f"{name}[:, None] for one column": len(shape) == columns == 1,
        f"one_hot({labels}, {columns}) for class labels": (
            meaning == "output node"
            and columns > 1
            and shape != (columns,)
            and shape[1:] in ((), (1,))
        ),
    }
    fitting = [remedy for remedy, fits in remedies.items() if fits and shape]
    return f"; write {' or '.join(fitting)}" if fitting else ""


def limit_in(limit: float, dtype: np.dtype[Any]) -> Any:
    """Return a limit as a number of a dtype, which may have none as large, or as small."""
    info = np.finfo(dtype)
    return dtype.type(min(max(limit, float(info.tiny)), float(info.max)))


def check_result(result: Any, shape: tuple[int, ...], what: str, given: Array) -> None:
    """Raise unless what a function returned for an array is one of real numbers, of a shape.

    Raises
    ------
    DtypeError, ShapeError
        If it isn't.
    DeviceError
        If one of the two is in GPU memory, and the other is not.
    """
    if type(result) is type(given) and result.dtype == given.dtype and result.shape == shape:
        return  # the usual case, in a tenth of the time
    dtype = getattr(result, "dtype", None)
    if getattr(dtype, "kind", None) not in ("b", "i", "u", "f"):
        found = type(result).__name__ + ("" if dtype is None else f" of {dtype}")
        raise DtypeError(f"{what} returned {found}; expected an array of real numbers")
    if on_gpu(result) != on_gpu(given):
        where = "a GPU's memory" if on_gpu(given) else "the CPU's"
        raise DeviceError(
            f"{what} returned {type(result).__module__}.{type(result).__name__} for an array in "
            f"{where}; compute with the array module that it is given as xp"
        )
    if tuple(result.shape) != shape:
        raise ShapeError(
            f"{what} returned an array of shape {tuple(result.shape)} for {given.shape}; expected "
            f"{shape}"
        )


@contextmanager
def untouched(what: str, xp: ArrayModule, *arrays: Array) -> Iterator[list[Array]]:
    """Yield copies of arrays for a function; raise DomainError if it writes to them.

    NumPy's are read-only. CuPy's can't be, and it shows only if an entry is another one after it.
    """
    refused = DomainError(f"{what} writes to its arguments; return a new array")
    copies = [array.copy() for array in arrays]
    for copy in copies if xp is np else ():
        copy.flags.writeable = False
    try:
        yield copies
    except ValueError as error:
        if "read-only" in str(error):
            raise refused from error
        raise
    for copy, array in zip(copies, arrays, strict=True):
        if not xp.array_equal(copy, array, equal_nan=True):
            raise refused


def as_matrix(
    values: Any, name: str, columns: int, meaning: str, backend: Any, dtype: np.dtype[Any]
) -> Array:
    """Check a data matrix and bring it to the backend's device, C-contiguous, in `dtype`.

    Parameters
    ----------
    values : array_like, shape (n, columns)
        Anything with ``__array__``, DLPack or ``__cuda_array_interface__``, or nested lists.
        It is never written to; it is not copied if it already is what is needed.
    name : str
        What messages call it.
    columns : int
        The number of columns it has to have.
    meaning : str
        What a column stands for, for messages.

    Raises
    ------
    DtypeError, ShapeError, NonFiniteError
        With what was given, what is expected, and what to do.
    """
    array = numeric(values, name)
    shape = tuple(array.shape)
    # Lists, pandas' Series and files have no way of their own.
    given = _as_code(name)
    given = given if hasattr(values, "reshape") else f"numpy.asarray({given})"
    if len(shape) != 2:
        raise ShapeError(
            f"{name} has shape {shape}; expected (samples, {columns})"
            + _remedy(shape, given, columns, meaning)
        )
    if shape[0] == 0:
        raise ShapeError(f"{name} has shape {shape}: no samples; at least one is needed")
    if shape[1] != columns:
        raise ShapeError(
            f"{name} has shape {shape}; expected (samples, {columns}): one column per {meaning}"
            + _remedy(shape, given, columns, meaning)
        )
    with backend.computing(0):
        matrix = backend.asarray(array, dtype)
        check_finite(matrix, name, backend.xp)
    return matrix


def check_finite(
    array: Array, name: str, xp: ArrayModule, remedy: str = "remove or replace them"
) -> None:
    """Raise NonFiniteError, naming the first entry that is NaN or infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(float(array.sum())):  # one pass, nothing allocated; a sum hides no NaN
            return
    bad = xp.argwhere(~xp.isfinite(array))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        raise NonFiniteError(
            f"{name} holds {len(bad)} value(s) that are NaN or infinite in {array.dtype}, "
            f"the first at index {where}: {float(array[where])}; {remedy}"
        )


def check_same_rows(x: Array, y: Array, x_name: str = "x", y_name: str = "y") -> None:
    """Raise ShapeError unless both have one row per sample."""
    if len(x) != len(y):
        raise ShapeError(
            f"{x_name} has {count_of(len(x), 'row')} and {y_name} has {len(y):,}; both need one "
            "row per sample"
        )


def one_hot(labels: Any, classes: int | None = None) -> np.ndarray[Any, Any]:
    """Return rows with a 1 in the column that each label names and 0 elsewhere.

    Parameters
    ----------
    labels : array_like of whole numbers or booleans, shape (n,)
        From 0 to classes - 1; floats, too, as files of text are read.
    classes : int, optional
        Default: the largest label + 1.

    Returns
    -------
    ndarray of float32, shape (n, classes)
    """
    labels = np.asarray(to_cpu(labels))
    if labels.ndim != 1 or labels.size == 0:
        remedy = "; write numpy.ravel(labels)" if labels.shape[1:] == (1,) else ""
        raise ShapeError(
            f"labels has shape {labels.shape}; expected (samples,), at least one{remedy}"
        )
    with np.errstate(invalid="ignore"):
        if labels.dtype.kind == "f" and (labels % 1 == 0).all():
            labels = labels.astype(np.int64)
    if labels.dtype.kind not in "biu":
        raise DtypeError(
            f"labels has dtype {labels.dtype}; expected integers from 0: "
            + NUMBERED.format("labels")
        )
    classes = int(labels.max()) + 1 if classes is None else check_count("classes", classes)
    if labels.min() < 0 or labels.max() >= classes:
        raise DomainError(
            f"labels run from {labels.min()} to {labels.max()}; expected 0 to {classes - 1}: "
            + NUMBERED.format("labels")
        )
    rows = np.zeros((len(labels), classes), np.float32)
    rows[np.arange(len(labels)), labels.astype(np.intp)] = 1
    return rows

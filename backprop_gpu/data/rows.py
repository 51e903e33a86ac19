"""Matrices that are read some rows at a time: files, and whatever can be sliced like an array."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import numeric, on_gpu
from backprop_gpu.data.parquet import ParquetColumns
from backprop_gpu.errors import (
    DeviceError,
    DomainError,
    DtypeError,
    FileFormatError,
    NonFiniteError,
    ShapeError,
    first_line,
)

# What an object has that hands out all of itself at once.
WHOLE = ("__array__", "__dlpack__", "__cuda_array_interface__", "toarray")

Read = Callable[[int, NDArray[Any]], None]


def is_streamed(values: Any) -> bool:
    """Return whether values are read a window at a time rather than held in memory.

    A `numpy.memmap` is, and what has a shape and can be sliced by rows but does not hand itself
    out whole (`WHOLE`). What has `chunks` is in any case, HDF5 datasets, Zarr and Dask arrays, and
    so are `ParquetColumns`.
    ``numpy.asarray`` of a memmap is not, nor a copy of one, though its type is that of a memmap.
    """
    if isinstance(values, np.ndarray):
        return isinstance(values, np.memmap) and values.mode is not None
    if isinstance(values, ParquetColumns):
        return True
    if isinstance(values, memoryview):
        return False
    kind = type(values)
    if not hasattr(kind, "__getitem__") or not (hasattr(kind, "shape") or hasattr(values, "shape")):
        return False
    return hasattr(kind, "chunks") or not any(hasattr(values, mark) for mark in WHOLE)


class Rows:
    """A matrix that is read some rows at a time, converted and checked.

    Parameters
    ----------
    values : array_like or streamed, shape (n, columns)
        A streamed one of shape (n,) is one column: files can't be reshaped as arrays can.
    name : str
        What messages call it.
    columns : int
        The number of columns it has to have.
    keep : int
        If all of it takes no more bytes than this, it is read at once and kept.
    dtype : dtype
        What it is converted to.

    Raises
    ------
    ShapeError, DtypeError, DeviceError, FileFormatError
        If it can't be read as such a matrix.
    """

    def __init__(
        self, values: Any, name: str, columns: int, dtype: np.dtype[Any], keep: int
    ) -> None:
        self.name = name
        self._values = values
        if not is_streamed(values):
            self._values = values = numeric(values, name)
        if on_gpu(values):
            raise DeviceError(
                f"{name} is in GPU memory, and data that are streamed are read on the CPU; give "
                f"{name}.get()"
            )
        try:
            shape = tuple(int(size) for size in values.shape)
            given = values if hasattr(values, "dtype") else np.asarray(values[0:1])
            empty = np.empty(0, given.dtype)
        except Exception as error:  # storage libraries raise what they like
            raise FileFormatError(f"{name} can't be read: {first_line(error)}") from error
        numeric(empty, name)
        _check_shape(shape, name, columns, is_streamed(values))
        self._samples = shape[0]
        self._read = _reader(values)
        if is_streamed(values) and shape[0] * columns * dtype.itemsize <= keep:
            kept = np.empty((shape[0], columns), dtype)
            self.read(0, kept)
            self._values, self._read = kept, _reader(kept)

    def __len__(self) -> int:
        return self._samples

    def block_starts(self, rows: int) -> NDArray[np.int64]:
        """Return where blocks of about so many rows begin: with a chunk, where there are any."""
        starts = np.arange(0, len(self), rows)
        if isinstance(self._values, ParquetColumns):
            cuts = self._values.row_groups
            starts = cuts[np.searchsorted(cuts, starts, side="right") - 1]
        elif chunks := getattr(self._values, "chunks", None):
            starts -= starts % int(np.max(chunks[0]))
        return np.unique(starts)

    def read(self, first: int, out: NDArray[Any]) -> None:
        """Fill `out`, shape (rows, columns), with the rows from `first` on.

        Raises
        ------
        FileFormatError
            If they can't be read.
        NonFiniteError
            If a value is NaN or infinite, or is in the dtype of `out`.
        """
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                self._read(first, out)
        except (DomainError, DtypeError, ShapeError):
            raise  # it was read, and is not what it should be
        except Exception as error:
            raise FileFormatError(
                f"rows {first:,} to {first + len(out):,} of {self.name}, which has "
                f"{len(self):,}, can't be read: {first_line(error)}"
            ) from error
        self._check_finite(first, out)

    def _check_finite(self, first: int, rows: NDArray[Any]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(rows.sum()):  # one pass; a sum hides no NaN
                return
        bad = np.argwhere(~np.isfinite(rows))
        if len(bad):
            row, column = bad[0]
            raise NonFiniteError(
                f"row {first + row:,} of {self.name} holds {rows[row, column]} in {rows.dtype}, "
                f"in column {column}; remove or replace such values"
            )


def _check_shape(shape: tuple[int, ...], name: str, columns: int, streamed: bool) -> None:
    if shape[:1] == (0,):
        raise ShapeError(f"{name} has shape {shape}: no samples; at least one is needed")
    if shape[1:] != (columns,) and not (streamed and len(shape) == columns == 1):
        remedy = f"; write {name}[:, None] for one column" if len(shape) == columns == 1 else ""
        raise ShapeError(f"{name} has shape {shape}; expected (samples, {columns}){remedy}")


def _reader(values: Any) -> Read:
    if isinstance(values, ParquetColumns):
        return values.read_into
    if isinstance(values, np.memmap) and (read := file_reader(values)):
        return read

    def read_slice(first: int, out: NDArray[Any]) -> None:
        part = np.asarray(values[first : first + len(out)])
        if len(part) != len(out):
            raise EOFError(f"only {len(part):,} came")
        out[...] = part.reshape(out.shape)

    return read_slice


def file_reader(mapped: np.memmap[Any, Any]) -> Read | None:
    """Return what reads the file under a memmap, or None if the map may not be what the file is.

    Pages that are read through a map count as the process's memory, and a map of a file that has
    shrunk kills the process.
    """
    root = mapped
    while isinstance(root.base, np.memmap):
        root = root.base
    if root.mode == "c" or root.filename is None or not mapped.flags.c_contiguous:
        return None
    path = Path(root.filename)
    if not path.is_file():
        return None
    begin = root.offset + mapped.ctypes.data - root.ctypes.data
    dtype, row_bytes = mapped.dtype, mapped.nbytes // len(mapped)

    def read(first: int, out: NDArray[Any]) -> None:
        rows = out if out.dtype == dtype else np.empty(out.shape, dtype)
        with path.open("rb", buffering=0) as file:
            file.seek(begin + first * row_bytes)
            rest = rows.data.cast("B")
            while rest:
                if not (count := file.readinto(rest)):
                    raise EOFError(f"{path} ends after {file.tell():,} bytes")
                rest = rest[count:]
        if rows is not out:
            out[...] = rows

    return read

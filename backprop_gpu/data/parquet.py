"""Columns of Parquet files as a matrix that can be sliced by rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.errors import (
    DomainError,
    DtypeError,
    FileFormatError,
    MissingExtraError,
    UnknownNameError,
    brief,
    count_of,
)

# So much is decoded at a time: every call has to pay for all columns.
DECODED_BYTES = 1 << 22

# So many entries lie between decoded columns: without them, the entries of a row would often be a
# power of two apart, and fall on the same few places of the cache.
GAP = 16

# pyarrow reads so much of a column at a time; left alone, it holds whole row groups.
BOUNDED = {"buffer_size": 1 << 16, "pre_buffer": False}

Opener = Callable[..., Any]
"""Returns a pyarrow.parquet.ParquetFile as a context; takes its `metadata`, which are long."""


class ParquetColumns:
    """Columns of Parquet files, one sample a row, decoded as they are read (extra ``data``).

    A slice of rows is a new array, and ``numpy.asarray`` reads all of them. A row group is decoded
    from its beginning, unless the last slice ended in it, before the rows that are asked for.

    Parameters
    ----------
    source : path, pyarrow.parquet.ParquetFile or pyarrow.dataset.Dataset
        A file, or a folder of files that have the same columns.
    columns : sequence of str
        The columns to take, in their order: numbers or booleans, of which missing ones become NaN;
        or text, which is what labels may be, and of which none may be missing.

    Attributes
    ----------
    shape : (int, int)
    dtype : dtype
        float32 where it holds the values of all columns, else float64; object for text.
    row_groups : ndarray of int
        The first row of every row group.

    Raises
    ------
    MissingExtraError, FileFormatError, UnknownNameError, DtypeError, DomainError
    """

    def __init__(self, source: Any, columns: Sequence[str]) -> None:
        if isinstance(columns, str) or not columns:
            raise DomainError(f"columns is {columns!r}; expected a list of names of columns")
        self._columns = list(columns)
        self._groups: list[tuple[Opener, int]] = []
        held: list[tuple[str, Any]] = []
        sizes: list[int] = []
        for opener in _openers(source):
            schema, metadata = _described(opener)
            opener = partial(opener, metadata=metadata)
            group_sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            held += [(name, _type_of(schema, name)) for name in self._columns]
            self._groups += [(opener, number) for number in range(len(group_sizes))]
            sizes += group_sizes
        self._is_text = bool(held) and all(_is_text(kind) for _, kind in held)
        self.dtype = np.dtype(object) if self._is_text else _number_type(held)
        ends = np.cumsum(sizes, dtype=np.int64)
        self.row_groups = ends - np.array(sizes, np.int64)
        self.shape = (int(ends[-1]) if sizes else 0, len(self._columns))

        # What is decoded, and where that has come to: the parts to come of a row group, the last.
        row_bytes = self.dtype.itemsize * len(self._columns)
        most = min(max(1, DECODED_BYTES // row_bytes), max(sizes, default=1))
        self._decoded_columns = np.empty((len(self._columns), most + GAP), self.dtype)
        self._lock = Lock()
        self._group = -1
        self._parts: Generator[NDArray[Any], None, None] | None = None
        self._first, self._part = 0, np.empty((0, self.shape[1]), self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        rows = count_of(len(self), "row")
        return f"ParquetColumns({rows} of {brief(self._columns)}; {self.dtype})"

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise DtypeError(f"Parquet columns can be sliced by rows, as in [10:20]; not [{rows}]")
        first, stop, _ = rows.indices(len(self))
        out = np.empty((max(0, stop - first), self.shape[1]), self.dtype)
        self.read_into(first, out)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)

    def read_into(self, first: int, out: NDArray[Any]) -> None:
        """Fill `out`, shape (rows, columns), with the rows from `first` on."""
        filled = 0
        with self._lock:
            while filled < len(out):
                self._go_to(first + filled)
                part = self._part[first + filled - self._first :][: len(out) - filled]
                out[filled : filled + len(part)] = part
                filled += len(part)

    def _go_to(self, row: int) -> None:
        """Decode up to the part that has a row."""
        group = int(np.searchsorted(self.row_groups, row, side="right")) - 1
        if self._parts is None or group != self._group or row < self._first:
            self._group, self._parts = group, self._decoded(group)
            self._first, self._part = int(self.row_groups[group]), self._part[:0]
        while row >= self._first + len(self._part):
            self._first += len(self._part)
            try:
                self._part = next(self._parts)
            except BaseException:
                self._parts = None
                raise

    def _decoded(self, group: int) -> Generator[NDArray[Any], None, None]:
        opener, number = self._groups[group]
        columns = self._decoded_columns
        most = columns.shape[1] - GAP
        with opener() as file:
            for part in file.iter_batches(most, [number], self._columns, use_threads=False):
                for name, column in zip(self._columns, columns, strict=True):
                    values = part.column(name)
                    if self._is_text and values.null_count:
                        row = self._first + int(np.argmax(values.is_null()))
                        raise DomainError(
                            f"column {name!r} has no text in row {row:,}; fill it in, or leave "
                            "such rows out"
                        )
                    column[: len(part)] = values.to_numpy(zero_copy_only=False)
                yield columns[:, : len(part)].T


def _openers(source: Any) -> list[Opener]:
    try:
        from pyarrow import dataset
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", "reading Parquet files") from error
    if isinstance(source, ParquetFile):
        return [lambda metadata: nullcontext(source)]
    if isinstance(source, str | os.PathLike):
        try:
            source = dataset.dataset(os.fspath(source), format="parquet")
        except FileNotFoundError as error:
            raise FileFormatError(f"{source} does not exist") from error
        except (OSError, ValueError) as error:
            raise FileFormatError(f"{source} can't be read as Parquet: {error}") from error
    if not isinstance(source, dataset.FileSystemDataset):
        raise DtypeError(
            f"the source is {source!r:.80}; expected a path, a pyarrow.parquet.ParquetFile or a "
            "pyarrow.dataset.Dataset of files"
        )
    try:
        paths = [fragment.path for fragment in source.get_fragments()]
    except ValueError as error:
        raise DomainError(
            f"the source is a dataset with a filter, and whole files are read ({error}); write "
            "what is left to files of its own"
        ) from error
    return [partial(ParquetFile, path, filesystem=source.filesystem, **BOUNDED) for path in paths]


def _described(opener: Opener) -> tuple[Any, Any]:
    """Return a file's schema, and its metadata."""
    try:
        with opener(metadata=None) as file:
            return file.schema_arrow, file.metadata
    except (OSError, ValueError) as error:
        raise FileFormatError(f"a Parquet file can't be read: {error}") from error


def _type_of(schema: Any, name: str) -> Any:
    if name not in schema.names:
        raise UnknownNameError("column", name, schema.names)
    return schema.field(name).type


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):  # pandas' categories
        kind = kind.value_type
    kinds = (types.is_string, types.is_large_string, types.is_string_view)
    return any(is_one(kind) for is_one in kinds)


def _number_type(held: Sequence[tuple[str, Any]]) -> np.dtype[Any]:
    """Return what holds the numbers of columns, each given by its name and its Arrow type."""
    common = np.dtype(np.float32)
    for name, kind in held:
        try:
            dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        except NotImplementedError:
            dtype = np.dtype(object)
        if dtype.kind not in "biuf":
            raise DtypeError(f"column {name!r} holds {kind}; expected numbers")
        common = np.result_type(common, dtype)
    return common

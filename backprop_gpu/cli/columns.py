"""Columns by name, from .csv, .tsv and .parquet files, through pyarrow (extra ``data``).

Rows are counted from 1, without the header. Messages name what option of the command line helps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.errors import FileFormatError, MissingExtraError, brief, first_line
from backprop_gpu.files import check_readable

NAMELESS = ("", "__index_level_0__")
"""What pandas calls an index that has no name, in .csv and in .parquet."""

MOST = 6  # names in a message
HEADER = 2000  # bytes of a line that may be one of something else

LEAVE_OUT = "leave the column out (--ignore NAME)"
OTHER_ROWS = "give rows without it"


def suffix_of(path: Path) -> str:
    """Return a path's suffix in small letters; of a compressed file both: ".csv.gz"."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last == ".gz" else last


def is_text(path: Path) -> bool:
    """Return whether columns are written as text: .csv and .tsv."""
    return suffix_of(path) != ".parquet"


def read_columns(path: Path, text: Sequence[str] = ()) -> Any:
    """Return a file's columns as a pyarrow table; those of a .csv named in `text` as text."""
    arrow = pyarrow()
    check_readable(path)
    kind = suffix_of(path)
    try:
        if is_text(path):
            table = arrow.csv.read_csv(
                _text(path),
                parse_options=arrow.csv.ParseOptions(delimiter=_delimiter(path)),
                convert_options=arrow.csv.ConvertOptions(
                    column_types={name: arrow.string() for name in text}
                ),
            )
        else:
            with arrow.parquet.ParquetFile(path) as file:
                table = file.read()
        names = table.column_names
    except Exception as error:  # of Arrow, of the system, of Unicode
        if is_text(path):
            _check_header(path, _header(path))  # in numbers or text, commas are what Arrow minds
        reason = first_line(error)
        if isinstance(error, UnicodeDecodeError):
            reason += "; save it as UTF-8"
        raise FileFormatError(f"{path} can't be read as a {kind} table: {reason}") from error
    words = " ".join(names).split()  # spaces are what numpy.savetxt writes between numbers
    if is_text(path) and words and all(map(_is_float, words)):
        raise FileFormatError(
            f"{path}: line 1, {brief(','.join(names))}, is all numbers, where the columns' names "
            "should be; write a header line above it, or save arrays as .npy or .npz"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise FileFormatError(f"{path} has more than one column {quoted(twice)}; rename them")
    _check_header(path, names)
    if len(table) == 0:
        raise FileFormatError(f"{path} has the columns {quoted(names)} and no rows")
    return table


def _delimiter(path: Path) -> str:
    return "\t" if suffix_of(path).startswith(".tsv") else ","


def _text(path: Path) -> Any:
    """Open a .csv or .tsv, decompressed if its name or its beginning says that it is gzip's."""
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return pyarrow().input_stream(path, "gzip" if is_gzip else "detect")


def _header(path: Path) -> list[str]:
    """Return the names in the first line of a .csv or .tsv; none if it can't be read."""
    try:
        with _text(path) as file:
            start = file.read(HEADER).decode("utf-8-sig", errors="replace")
    except Exception:  # of Arrow, of the system
        return []
    names: list[str] = start.partition("\n")[0].rstrip("\r").split(_delimiter(path))
    return names


def _check_header(path: Path, names: Sequence[str]) -> None:
    if "\0" in "".join(names):
        raise FileFormatError(f"{path} is no text in UTF-8, whatever its name says")
    expected, others = ("tabs", ",;|") if _delimiter(path) == "\t" else ("commas", ";\t|")
    if len(names) == 1 and any(mark in names[0] for mark in others):
        raise FileFormatError(
            f"{path} has one column, {names[0]!r}; expected {expected} between the columns"
        )


def other_columns(path: Path, table: Any, left_out: Iterable[str]) -> list[str]:
    """Return the names of the columns that are not left out."""
    left_out = set(left_out)
    names = [name for name in table.column_names if name not in left_out]
    nameless = [name for name in names if name in NAMELESS]
    if nameless:
        raise FileFormatError(
            f"{path} has a column without a name, perhaps an index that pandas wrote; "
            f"save it without (index=False), or leave it out: --ignore {nameless[0]!r}"
        )
    if not names:
        raise FileFormatError(f"{path} has no columns beside {quoted(left_out)}")
    return names


def numbers(path: Path, table: Any, names: Sequence[str], remedy: str) -> NDArray[Any]:
    """Return columns as a matrix; raise, naming those that hold anything but finite numbers.

    `remedy` says what to do about text.
    """
    words = [
        f"{name!r} ({_first_word(table[name])})" for name in names if not _is_number(table[name])
    ]
    if words:
        raise FileFormatError(
            f"{path}: expected numbers, and there is something else in column {some(words)}; "
            f"replace it by numbers, or {remedy}"
        )
    _refuse_gaps(path, table, names)
    columns = [_to_numpy(table[name]) for name in names]
    dtype = np.result_type(np.float32, *(column.dtype for column in columns))
    matrix = np.empty((len(table), len(names)), dtype)
    for j, column in enumerate(columns):
        matrix[:, j] = column
    return matrix


def labels(path: Path, table: Any, name: str) -> NDArray[Any]:
    """Return a column of labels: whole numbers, other numbers, and all else as text."""
    arrow = pyarrow()
    column = table[name]
    if arrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _is_number(column):
        _refuse_gaps(path, table, [name])
        return _to_numpy(column)
    try:
        column = column.cast(arrow.string())
    except arrow.ArrowException as error:
        raise FileFormatError(
            f"{path}: column {name!r} holds {column.type}, which can't be labels"
        ) from error
    empty = [row for row, label in enumerate(column.to_pylist(), start=1) if not label]
    if empty:
        raise FileFormatError(
            f"{path}: {len(empty)} label(s) in column {name!r} are missing, the first in row "
            f"{empty[0]}; fill them in or drop those rows"
        )
    text = _to_numpy(column).astype(str)
    if is_text(path) and all(map(_is_whole_number, np.unique(text))):
        return text.astype(np.int64)
    return text


def _refuse_gaps(path: Path, table: Any, names: Sequence[str]) -> None:
    gaps = []
    for name in names:
        rows = np.flatnonzero(_gaps(table[name]))
        if len(rows):
            gaps.append(f"{name!r} ({len(rows)}, the first in row {rows[0] + 1})")
    if gaps:
        raise FileFormatError(
            f"{path} has missing or infinite cells in column {some(gaps)}; fill them in, "
            "or drop those rows"
        )


def _gaps(column: Any) -> NDArray[np.bool_]:
    arrow = pyarrow()
    gaps: NDArray[np.bool_] = arrow.compute.is_null(column, nan_is_null=True).to_numpy()
    if arrow.types.is_floating(column.type):
        gaps = gaps | ~np.isfinite(column.to_numpy())
    return gaps


def _is_number(column: Any) -> bool:
    types = pyarrow().types
    tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(test(column.type) for test in tests)


def _is_whole_number(text: str) -> bool:
    """Return whether text is a number as Python writes it: no leading zero, say, is lost."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 19 and str(int(text)) == text


def _first_word(column: Any) -> str:
    """Return the first thing in a column that is no number, and where it is."""
    for row, value in enumerate(column.to_pylist(), start=1):
        if not _is_float(value):
            return "empty" if value is None else f"{str(value)[:30]!r} in row {row}"
    return str(column.type)


def _is_float(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _to_numpy(column: Any) -> NDArray[Any]:
    arrow = pyarrow()
    if arrow.types.is_decimal(column.type):
        column = column.cast(arrow.float64())
    array: NDArray[Any] = column.to_numpy()
    return array


def quoted(names: Iterable[str]) -> str:
    """Return names as a message shows them."""
    return some([repr(name) for name in names])


def some(items: Sequence[str]) -> str:
    """Return items in a row, the first few if they are many."""
    more = f" and {len(items) - MOST} more" if len(items) > MOST else ""
    return ", ".join(items[:MOST]) + more


def pyarrow() -> Any:
    """Import pyarrow, with the parts of it that are used."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", "reading .csv and .parquet") from error
    return pyarrow

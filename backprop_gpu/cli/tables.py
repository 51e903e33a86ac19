"""Data files: NumPy's .npz and .npy, and the columns of .csv, .tsv and .parquet.

Whatever is wrong with a file is a ValueError or TypeError that says what it holds, what is
expected and what to do. Nothing in a file is executed: arrays of pickled objects are refused.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import check_finite, check_same_rows, numeric
from backprop_gpu.cli import columns
from backprop_gpu.errors import (
    DomainError,
    DtypeError,
    FileFormatError,
    ShapeError,
    UnknownNameError,
    first_line,
)
from backprop_gpu.files import check_readable

ARRAYS = (".npz", ".npy")
COLUMNS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")

MOST = 12  # columns that are suggested


@dataclass(frozen=True)
class Samples:
    """What a file holds, one sample a row.

    Attributes
    ----------
    x : ndarray, shape (n, inputs)
        Real numbers.
    y : ndarray, shape (n, outputs) or, for labels, (n,)
        Real numbers, or labels of any type.
    features, targets : tuple of str
        The columns' names; empty where the file has none.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    features: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


def read_samples(
    paths: Sequence[Path],
    targets: Sequence[str] = (),
    ignored: Sequence[str] = (),
    labels: bool = False,
    features: Sequence[str] = (),
) -> Samples:
    """Read samples and what they should give.

    Parameters
    ----------
    paths : sequence of Path
        One .npz that holds x and y; or x and y, two .npy; or one .csv, .tsv or .parquet.
    targets : sequence of str
        The columns of a .csv or .parquet that make y.
    ignored : sequence of str
        Its columns to leave out.
    labels : bool
        Whether y holds labels, of any type, rather than numbers.
    features : sequence of str
        The columns that make x, in their order. Default: all but those that are named above.

    Raises
    ------
    FileFormatError, ShapeError, DtypeError, NonFiniteError
        If a file is not what it should be.
    DomainError, UnknownNameError
        If what is asked of it can't be.
    """
    suffixes = [columns.suffix_of(path) for path in paths]
    if len(paths) == 1 and suffixes[0] in COLUMNS:
        return _samples_of_columns(paths[0], targets, ignored, labels, features)
    if suffixes not in ([".npz"], [".npy", ".npy"]):
        raise DomainError(
            f"can't take data from {' and '.join(path.name for path in paths)}; expected "
            "one .npz, a pair x.npy y.npy, one .csv, one .tsv or one .parquet"
        )
    if targets or ignored:
        raise DomainError(
            f"{paths[0]} has no columns with names; its targets are the array y, and --target "
            "and --ignore are for .csv and .parquet"
        )
    x, y = _read_npz(paths[0], ("x", "y")) if len(paths) == 1 else map(_read_npy, paths)
    x, y = _matrix(x, "x"), (_labels(y) if labels else _targets(y))
    check_same_rows(x, y)
    return Samples(x, y)


def read_inputs(path: Path, features: Sequence[str], targets: Sequence[str]) -> NDArray[Any]:
    """Read samples to predict for, shape (n, inputs).

    Parameters
    ----------
    path : Path
        A .npz that holds x, or a .npy, .csv, .tsv or .parquet.
    features : sequence of str
        The names of the columns to take, in their order; if empty, all columns are taken.
    targets : sequence of str
        Columns that are left out.
    """
    suffix = known_suffix(path, ARRAYS + COLUMNS)
    if suffix == ".npz":
        return _matrix(_read_npz(path, ("x",))[0], "x")
    if suffix == ".npy":
        return _matrix(_read_npy(path), "x")
    table = columns.read_columns(path)
    names = _features(path, table, features, targets)
    return columns.numbers(path, table, names, columns.OTHER_ROWS)


def write_columns(suffix: str, names: Sequence[str], values: Sequence[NDArray[Any]]) -> bytes:
    """Return the content of a file that holds columns.

    A .npy holds one array, of one column or of all of them; a .npz holds it by the name y.
    """
    out = io.BytesIO()
    array = values[0] if len(values) == 1 else np.column_stack(values)
    if suffix == ".npy":
        np.save(out, array, allow_pickle=False)
    elif suffix == ".npz":
        np.savez(out, y=array)
    elif suffix == ".parquet":
        arrow = columns.pyarrow()
        arrow.parquet.write_table(arrow.table(list(values), names=list(names)), out)
    else:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*values, strict=True))
        out.write(text.getvalue().encode())
    return out.getvalue()


def known_suffix(path: Path, known: Sequence[str]) -> str:
    """Return a path's suffix; raise DomainError if it is none of those known."""
    suffix = columns.suffix_of(path)
    if suffix not in known:
        given = f"ends in {suffix!r}" if suffix else "has no suffix"
        raise DomainError(f"{path} {given}; expected {' or '.join(known)}")
    return suffix


def _samples_of_columns(
    path: Path,
    targets: Sequence[str],
    ignored: Sequence[str],
    labels: bool,
    features: Sequence[str],
) -> Samples:
    table = columns.read_columns(path, text=targets if labels else ())
    if not targets:
        raise DomainError(
            f"which column of {path} is the target? Give --target NAME, one of: "
            + columns.quoted(table.column_names)
        )
    for name in (*targets, *ignored):
        if name not in table.column_names:
            raise _no_column(name, table.column_names)
    if labels and len(targets) > 1:
        raise DomainError(f"{len(targets)} target columns given; expected one column of labels")
    if len({*targets, *ignored}) < len(targets) + len(ignored):
        raise DomainError("a column is given twice among the targets and those to ignore")
    remedy = columns.OTHER_ROWS if features else columns.LEAVE_OUT
    features = _features(path, table, features, (*targets, *ignored))
    x = columns.numbers(path, table, features, remedy)
    if labels:
        return Samples(x, columns.labels(path, table, targets[0]), tuple(features), tuple(targets))
    y = columns.numbers(path, table, targets, "train with --classify if these are labels")
    return Samples(x, y, tuple(features), tuple(targets))


def _features(
    path: Path, table: Any, features: Sequence[str], left_out: Sequence[str]
) -> Sequence[str]:
    """Return the names of the columns that make x: those known, or all that are not left out."""
    missing = [name for name in features if name not in table.column_names]
    if missing:
        raise FileFormatError(
            f"{path} has no column {columns.quoted(missing)}, which the network was trained on; "
            f"its columns are {columns.quoted(table.column_names)}"
        )
    return features or columns.other_columns(path, table, left_out)


def _no_column(name: str, known: list[str]) -> UnknownNameError:
    near = get_close_matches(name, known, n=MOST, cutoff=0.5)
    shown = list(dict.fromkeys([*near, *known]))[:MOST]
    more = f" and {len(known) - MOST} more" if len(known) > MOST else ""
    return UnknownNameError("column", name, shown, more)


def _read_npy(path: Path) -> NDArray[Any]:
    check_readable(path)
    try:
        # Mapping the file first refuses one that is shorter than it says, and allocates nothing.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # what a hostile header makes of NumPy's parser is anyone's guess
        raise _unreadable(path, error) from error
    if not isinstance(mapped, np.ndarray):
        mapped.close()
        raise FileFormatError(f"{path} is an archive of arrays; call it .npz")
    return np.array(mapped)


def _read_npz(path: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    check_readable(path)
    try:
        with zipfile.ZipFile(path) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception as error:
        raise _unreadable(path, error) from error
    missing = [name for name in names if name not in held]
    if missing:
        keep = ", ".join(f"{name}={name}" for name in names)
        raise FileFormatError(
            f"{path} holds {columns.quoted(held) or 'no arrays'} and no {columns.quoted(missing)}; "
            f"save it with numpy.savez({path.name!r}, {keep})"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = [archive[name] for name in names]
            if not all(isinstance(array, np.ndarray) for array in arrays):
                raise ValueError("a member has no .npy header")
            return arrays
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> FileFormatError:
    kind = path.suffix.lower()
    return FileFormatError(
        f"{path} can't be read as {kind} arrays of numbers or text: {first_line(error)}"
    )


def _matrix(values: NDArray[Any], name: str) -> NDArray[Any]:
    array: NDArray[Any] = numeric(values, name)
    if array.ndim != 2 or 0 in array.shape:
        remedy = ""
        if array.ndim == 1:
            remedy = f"; save {name}[:, None] for one column, {name}[None, :] for one sample"
        elif array.ndim > 2:
            remedy = f"; save {name}.reshape(len({name}), -1)"
        raise ShapeError(
            f"{name} has shape {array.shape}; expected (samples, columns), at least one of each"
            + remedy
        )
    check_finite(array, name, np)
    return array


def _targets(y: NDArray[Any]) -> NDArray[Any]:
    if y.dtype.kind in "US":
        raise DtypeError(f"y holds text ({y.dtype}); train with --classify if these are labels")
    return _matrix(y[:, None] if y.ndim == 1 else y, "y")


def _labels(y: NDArray[Any]) -> NDArray[Any]:
    """Check labels; dates and bytes become text."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.size == 0:
        raise ShapeError(f"y has shape {y.shape}; expected one label per sample: (samples,)")
    if y.dtype.kind in "SM":
        try:
            y = y.astype(str)
        except UnicodeDecodeError as error:
            raise DtypeError("y holds bytes that are no ASCII text; save it as text") from error
    if y.dtype.kind not in "biufU":
        raise DtypeError(f"y has dtype {y.dtype}; expected numbers or text as labels")
    if y.dtype.kind == "f":
        _matrix(y[:, None], "y")
    return y

"""Data files: what is wrong with a file is said in a line."""

import gzip
import io
import os
import pickle
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sample_table import NAMES, X, Y, table

from backprop_gpu.cli.tables import (
    read_inputs,
    read_samples,
)
from backprop_gpu.errors import (
    DomainError,
    DtypeError,
    FileFormatError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)


def one_line(error):
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("names", "named", "error", "message"),
    [
        (["x.npy"], [], DomainError, "a pair x.npy y.npy"),
        (["d.npz", "x.npy"], [], DomainError, "d.npz and x.npy"),
        (["d.txt"], [], DomainError, "d.txt"),
        (["d"], [], DomainError, "can't take data from d"),
        (["d.csv", "e.csv"], [], DomainError, "one .csv"),
        (["d.npz"], ["y"], DomainError, "no columns with names"),
        (["d.npz"], [], FileFormatError, "d.npz does not exist"),
        (["x.npy", "y.npy"], [], FileFormatError, "x.npy does not exist"),
        (["d.csv"], ["y"], FileFormatError, "d.csv does not exist"),
        (["d.parquet"], ["y"], FileFormatError, "d.parquet does not exist"),
    ],
)
def test_files_that_can_not_be_data(tmp_path, names, named, error, message):
    with pytest.raises(error, match=message) as raised:
        read_samples([tmp_path / name for name in names], named)
    one_line(raised)


@pytest.mark.parametrize("name", ["d.npz", "d.npy", "d.csv", "d.parquet"])
def test_folders_are_no_files(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(FileFormatError, match="is a folder, not a file"):
        read_inputs(tmp_path / name, (), ())


class Bomb:
    def __reduce__(self):
        return os._exit, (99,)


def pickled():
    out = io.BytesIO()
    np.save(out, np.array([Bomb()], object), allow_pickle=True)
    return out.getvalue()


def huge_npy():
    """A header that promises more than there is."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        out, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**4)}
    )
    return out.getvalue() + bytes(100)


def zipped(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return out.getvalue()


HOSTILE = {
    "empty": b"",
    "text": b"a,b\n1,2\n",
    "zeros": bytes(100),
    "pickle": pickle.dumps(Bomb()),
    "pickled array": pickled(),
    "huge": huge_npy(),
    "bad header": b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((\n",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_arrays(write, content):
    with pytest.raises(FileFormatError, match=r"can't be read as \.npy") as raised:
        read_inputs(write("x.npy", content), (), ())
    one_line(raised)
    with pytest.raises(FileFormatError, match=r"can't be read as \.npz") as raised:
        read_inputs(write("d.npz", zipped(x=content)), (), ())
    one_line(raised)
    if content[:2] != b"PK":
        with pytest.raises(FileFormatError, match=r"can't be read as \.npz"):
            read_inputs(write("d.npz", content), (), ())
    if content not in (HOSTILE["text"],):
        for name in ("d.csv", "d.parquet"):
            with pytest.raises((FileFormatError, UnknownNameError)) as raised:
                read_samples([write(name, content)], ["b"])
            one_line(raised)


@pytest.mark.parametrize("name", ["d.npz", "x.npy", "d.parquet"])
def test_torn_files(write, name):
    values = {"d.npz": {"x": X, "y": Y}, "x.npy": X, "d.parquet": table()}
    path = write(name, values[name])
    whole = path.read_bytes()
    for length in (1, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FileFormatError) as raised:
            read_inputs(path, (), ())
        one_line(raised)


def test_a_flipped_bit_in_an_npz_is_noticed(write):
    path = write("d.npz", {"x": X, "y": Y})
    content = bytearray(path.read_bytes())
    content[content.index(X.tobytes()) + 5] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(FileFormatError, match="CRC"):
        read_samples([path])


def test_an_archive_is_no_npy(write):
    path = write("d.npz", {"x": X})
    with pytest.raises(FileFormatError, match=r"call it \.npz"):
        read_inputs(path.rename(path.with_suffix(".npy")), (), ())


def test_missing_arrays(write):
    with pytest.raises(FileFormatError, match=r"holds 'X', 'labels' and no 'x', 'y'; .*savez"):
        read_samples([write("d.npz", {"X": X, "labels": Y})])
    with pytest.raises(FileFormatError, match="no arrays and no 'x'"):
        read_inputs(write("e.npz", zipped()), (), ())


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (X[:, 0], Y, ShapeError, r"x has shape \(4,\).*x\[:, None\] for one column"),
        (X[None], Y, ShapeError, r"x\.reshape\(len\(x\), -1\)"),
        (X[:0], Y[:0], ShapeError, "at least one of each"),
        (X[:, :0], Y, ShapeError, "at least one of each"),
        (X[:3], Y, ShapeError, "x has 3 rows and y has 4"),
        (X, np.zeros((4, 2, 2)), ShapeError, "y has shape"),
        (X, np.array(["a"] * 4), DtypeError, "--classify"),
        (X.astype(str), Y, DtypeError, "x has dtype <U"),
        (X.astype(complex), Y, DtypeError, "complex"),
        (np.where(X == 7, np.nan, X), Y, NonFiniteError, r"x holds 1 .* index \(3, 0\)"),
        (X, np.where(Y == 4, -np.inf, Y), NonFiniteError, r"y holds 1 .* index \(3, 0\)"),
    ],
)
def test_arrays_that_do_not_fit(write, x, y, error, message):
    for paths in ([write("d.npz", {"x": x, "y": y})], [write("x.npy", x), write("y.npy", y)]):
        with pytest.raises(error, match=message) as raised:
            read_samples(paths)
        one_line(raised)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (np.zeros((4, 2)), ShapeError, "one label per sample"),
        (np.array([1, 2, 1, np.nan]), NonFiniteError, "NaN"),
        (np.zeros(4, complex), DtypeError, "numbers or text"),
        (np.array([b"\xff"] * 4), DtypeError, "ASCII"),
    ],
)
def test_arrays_that_are_no_labels(write, y, error, message):
    with pytest.raises(error, match=message):
        read_samples([write("d.npz", {"x": X, "y": y})], labels=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "can't be read"),
        ("a,b,y\n", "'a', 'b', 'y' and no rows"),
        ("a,b,y\n1,2\n", "Expected 3 columns, got 2"),
        ("a,b,y\n1,,3\n4,,6\n", r"column 'b' \(empty\)"),
        (
            "a,b,y\n1,2,3\n4,,6\n",
            r"missing or infinite cells in column 'b' \(1, .* row 2",
        ),
        ("a,b,y\n1,2,3\n4,nan,6\nNA,,6\n", r"'a' \(1, the first in row 3\), 'b' \(2, .* row 2\)"),
        ("a,b,y\n1,2,3\n4,inf,6\n", r"column 'b' \(1, the first in row 2\)"),
        ("a,b,y\n1,2,\n4,5,6\n", r"missing .* column 'y' \(1, the first in row 1"),
        ("a,b,y\n1,2,3\nx,5,6\n", r"column 'a' \('x' in row 2\); .*--ignore NAME"),
        ("a,b,y\nu,v,3\nu,5,6\n", r"column 'a' \('u' in row 1\), 'b' \('v' in row 1\)"),
        ("a,b,y\n2026-01-02,1,3\n", r"column 'a' \('2026-01-02' in row 1\)"),
        ("a,b,y\n1,2,x\n", r"column 'y' \('x' in row 1\); .*--classify"),
        ("1,1,2\n3,4,5\n", r"d.csv: line 1, '1,1,2', is all numbers.*a header line .*\.npy"),
        ("5.1e+00 nan\n1 2\n", "line 1, '5.1e.00 nan', is all numbers"),
        ("a,a,y\n1,2,3\n", "more than one column 'a'"),
        (",a,y\n0,2,3\n", r"without a name.*index=False.*--ignore ''"),
        ("y\n1\n", "no columns beside 'y'"),
        ("a;b;y\n1;2;3\n", "one column, 'a;b;y'; expected commas"),
        ("a\ty\n1\t2\n", "expected commas"),
        ("a;b;y\n1,5;2;3\n", "one column, 'a;b;y'; expected commas"),
        ("a|y\n1|x, y\n2|z\n", "expected commas"),
    ],
)
def test_csv_that_is_wrong(write, content, message):
    with pytest.raises(FileFormatError, match=message) as raised:
        read_samples([write("d.csv", content)], ["y"])
    one_line(raised)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.tsv", b"a,b,y\n1,2,3\n", "one column, 'a,b,y'; expected tabs"),
        ("d.tsv", b"a;y\n1;2\t3\n", "one column, 'a;y'; expected tabs"),
        ("d.csv.gz", gzip.compress(b"a\ty\n1\t2\n", mtime=0), "expected commas"),
        ("d.csv.gz", gzip.compress(b"a;y\n1,5;2\n", mtime=0), "one column, 'a;y'; expected commas"),
        ("d.csv.gz", gzip.compress(b"1,2\n3,4\n", mtime=0), "line 1, '1,2', is all numbers"),
        (
            "d.csv.gz",
            gzip.compress(b"a,y\n" + b"1,2\n" * 99, mtime=0)[:30],
            r"as a \.csv\.gz table",
        ),
        ("d.csv", b"PK\x03\x04\x14\0\2\nab\n", "is no text in UTF-8, whatever"),
        ("d.csv.gz", b"a,y\n1,2\n", r"d.csv.gz can't be read as a \.csv\.gz table"),
    ],
)
def test_text_with_tabs_and_compressed_that_is_wrong(write, name, content, message):
    with pytest.raises(FileFormatError, match=message):
        read_samples([write(name, content)], ["y"])


def test_csv_that_is_no_utf_8(write):
    with pytest.raises(FileFormatError, match=r"codec can't decode .*; save it as UTF-8"):
        read_samples([write("d.csv", "größe,y\n1,2\n".encode("latin-1"))], ["y"])


def test_an_index_that_pandas_wrote_can_be_ignored(write):
    path = write("d.csv", ",a,y\n0,2,3\n")
    assert read_samples([path], ["y"], [""]).features == ("a",)
    path = write("d.parquet", table(**{"__index_level_0__": [0, 1, 2, 3]}))
    with pytest.raises(FileFormatError, match="without a name"):
        read_samples([path], ["price"])


def test_parquet_that_is_wrong(write):
    nested = table(nested=[[1], [2], [3], [4]], words=["1", "a", None, "b"])
    with pytest.raises(FileFormatError, match=r"'nested' \('\[1\]' in row 1\), 'words' \('a' in"):
        read_samples([write("d.parquet", nested)], ["price"])
    with pytest.raises(FileFormatError, match="can't be labels"):
        read_samples([write("d.parquet", nested)], ["nested"], ["words"], labels=True)
    gaps = table(width=[1.0, None, float("nan"), float("inf")], on=[True, None, True, False])
    with pytest.raises(FileFormatError, match=r"'width' \(3, .* row 2\), 'on' \(1, .* row 2\)"):
        read_samples([write("d.parquet", gaps)], ["price"])


def test_many_bad_columns_are_not_all_named(write):
    wide = pa.table({f"c{i}": ["x"] for i in range(500)} | {"y": [1]})
    with pytest.raises(FileFormatError, match="and 494 more") as raised:
        read_samples([write("d.parquet", wide)], ["y"])
    one_line(raised)
    with pytest.raises(UnknownNameError, match=r"did you mean 'c499' .* 489 more") as raised:
        read_samples([write("d.parquet", wide)], ["cc499"])
    one_line(raised)
    with pytest.raises(DomainError, match="and 495 more") as raised:
        read_samples([write("d.parquet", wide)])
    one_line(raised)


@pytest.mark.parametrize("cells", ["a\n\nb\n", 'a\n""\nb\n'])
def test_missing_labels(write, cells):
    rows = "".join(f"{i},{cell}\n" for i, cell in enumerate(cells.splitlines()))
    with pytest.raises(FileFormatError, match=r"1 label\(s\) in column 'kind'.*row 2"):
        read_samples([write("d.csv", f"a,kind\n{rows}")], ["kind"], labels=True)
    path = write("d.parquet", pa.table({"a": [1, 2], "kind": [1, None]}))
    with pytest.raises(FileFormatError, match="missing or infinite cells in column 'kind'"):
        read_samples([path], ["kind"], labels=True)


@pytest.mark.parametrize(
    ("targets", "ignored", "error", "message"),
    [
        ([], [], DomainError, "Give --target NAME, one of: 'width', 'height', 'on', 'price'"),
        (["prize"], [], UnknownNameError, "did you mean 'price'"),
        (["price"], ["widht"], UnknownNameError, "did you mean 'width'"),
        (["price", "price"], [], DomainError, "given twice"),
        (["price"], ["price"], DomainError, "given twice"),
        (NAMES, [], FileFormatError, "no columns beside"),
    ],
)
def test_columns_that_are_not_there(write, targets, ignored, error, message):
    with pytest.raises(error, match=message) as raised:
        read_samples([write("houses.csv", table())], targets, ignored)
    one_line(raised)


def test_labels_are_one_column(write):
    with pytest.raises(DomainError, match="2 target columns"):
        read_samples([write("houses.csv", table())], ["on", "price"], labels=True)


def test_inputs_that_are_not_there(write):
    path = write("houses.csv", table())
    with pytest.raises(FileFormatError, match="no column 'depth', 'age', which the network"):
        read_inputs(path, ("width", "depth", "age"), ())
    with pytest.raises(DomainError, match=r"expected \.npz or \.npy or \.csv or .* or \.parquet"):
        read_inputs(path.with_suffix(".json"), (), ())

"""Data files: what is read is what was written, and what is wrong with a file is said in a line."""

import datetime
import decimal
import io
import os
import pickle
import sys
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from backprop_gpu.cli import columns
from backprop_gpu.cli.tables import (
    check_writable,
    known_suffix,
    read_inputs,
    read_samples,
    write_columns,
)
from backprop_gpu.errors import (
    DomainError,
    DtypeError,
    FileFormatError,
    MissingExtraError,
    NonFiniteError,
    ShapeError,
    UnknownNameError,
)

X = np.array([[1.5, 2, 0], [0.1, -4, 1], [1e-30, 6, 1], [7, 8, 0]])
Y = np.array([0.25, -1, 3e10, 4])
NAMES = ["width", "height", "on", "price"]


def table(**changes):
    values = dict(zip(NAMES, [X[:, 0], X[:, 1].astype(int), X[:, 2] == 1, Y], strict=True))
    return pa.table({**values, **changes})


@pytest.fixture
def write(tmp_path):
    """Write a file of any kind; return its path."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif isinstance(content, dict):
            np.savez(path, **content)
        elif isinstance(content, pa.Table) and name.endswith(".parquet"):
            pa.parquet.write_table(content, path)
        elif isinstance(content, pa.Table):
            pa.csv.write_csv(content, path)
        else:
            np.save(path, content)
        return path

    return write


def one_line(error):
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


# What is read


@pytest.mark.parametrize("y", [Y, Y[:, None], np.stack([Y, -Y], axis=1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8, bool])
def test_npz_and_npy(write, y, dtype):
    x = X.astype(dtype)
    for paths in ([write("d.npz", {"x": x, "y": y})], [write("x.npy", x), write("y.npy", y)]):
        samples = read_samples(paths)
        assert samples.x.dtype == dtype
        np.testing.assert_array_equal(samples.x, x)
        np.testing.assert_array_equal(samples.y, y.reshape(4, -1))
        assert samples.features == samples.targets == ()
        np.testing.assert_array_equal(read_inputs(paths[0], (), ()), x)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
def test_columns(write, suffix):
    path = write(f"houses{suffix}", table() if suffix != ".CSV" else "width,height,price\n1,2,3\n")
    if suffix == ".CSV":
        assert read_samples([path], ["price"]).x.tolist() == [[1, 2]]
        return
    samples = read_samples([path], ["price"])
    np.testing.assert_array_equal(samples.x, X)
    np.testing.assert_array_equal(samples.y, Y[:, None])
    assert (samples.features, samples.targets) == (("width", "height", "on"), ("price",))

    samples = read_samples([path], ["price", "on"], ignored=["height"])
    assert samples.features == ("width",)
    np.testing.assert_array_equal(samples.y, np.stack([Y, X[:, 2]], axis=1))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_inputs_are_found_by_name_in_any_order(write, suffix):
    mixed = table().select(["price", "on", "width", "height"]).append_column("note", [["a"] * 4])
    path = write(f"houses{suffix}", mixed)
    np.testing.assert_array_equal(read_inputs(path, NAMES[:3], ["price"]), X)


def test_inputs_without_names_are_all_columns_but_the_targets(write):
    path = write("houses.parquet", table())
    np.testing.assert_array_equal(read_inputs(path, (), ["price"]), X)


def test_kinds_of_numbers(write):
    kinds = {
        "small": pa.array([1, 2], pa.int8()),
        "half": pa.array(np.array([0.5, 2], np.float16)),
        "exact": pa.array([decimal.Decimal("1.5"), decimal.Decimal("2.5")]),
        "yes": pa.array([True, False]),
    }
    path = write("d.parquet", pa.table(kinds))
    x = read_inputs(path, (), ())
    np.testing.assert_array_equal(x, [[1, 0.5, 1.5, 1], [2, 2, 2.5, 0]])
    small = read_inputs(path, ("small", "half", "yes"), ())
    assert small.dtype == np.float32  # all that these need
    assert read_inputs(write("i.csv", "a,b\n16777217,1\n"), (), ()).tolist() == [[16777217, 1]]


LABELS = {
    "text": ["cat", "dog", "cat", 'Ünï, "q"'],
    "whole numbers": [3, 1, 3, -2],
    "large": [2**53 + 1, 2**53, 1, 1],
    "numbers": [0.5, 1.5, 0.5, 0.1],
    "booleans": [True, False, True, True],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_keep_their_type(write, labels):
    x = write("x.npy", X)
    for y in (np.array(labels), np.array(labels)[:, None]):
        for paths in ([write("d.npz", {"x": X, "y": y})], [x, write("y.npy", y)]):
            read = read_samples(paths, labels=True).y
            assert read.shape == (4,)
            assert read.tolist() == labels
    path = write("d.parquet", table(kind=labels))
    read = read_samples([path], ["kind"], labels=True)
    assert read.y.tolist() == labels
    assert read.features == tuple(NAMES)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["3", "-1"], [3, -1]),
        (["01", "1"], ["01", "1"]),  # no zero is lost
        (["NA", "null"], ["NA", "null"]),  # Namibia is not missing
        (["1.0", "x"], ["1.0", "x"]),
        (["true", "false"], ["true", "false"]),
        (["9" * 30, "1"], ["9" * 30, "1"]),
    ],
)
def test_labels_of_csv(write, text, labels):
    rows = "".join(f"{i},{label}\n" for i, label in enumerate(text))
    path = write("d.csv", f"a,kind\n{rows}")
    assert read_samples([path], ["kind"], labels=True).y.tolist() == labels


def test_labels_of_other_types_become_text(write):
    days = [datetime.date(2026, 1, 2), datetime.date(2026, 1, 3)]
    path = write("d.parquet", pa.table({"a": [1, 2], "day": days}))
    assert read_samples([path], ["day"], labels=True).y.tolist() == ["2026-01-02", "2026-01-03"]
    kinds = pa.array(["u", "v"]).dictionary_encode()
    path = write("d.parquet", pa.table({"a": [1, 2], "kind": kinds}))
    assert read_samples([path], ["kind"], labels=True).y.tolist() == ["u", "v"]
    for y in (np.array([b"u", b"v"]), np.array(["2026-01-02"] * 2, "datetime64[D]")):
        path = write("d.npz", {"x": X[:2], "y": y})
        assert read_samples([path], labels=True).y.dtype.kind == "U"


# What is refused


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
    with pytest.raises(FileFormatError, match="is not a file"):
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


def saved(array):
    out = io.BytesIO()
    np.save(out, array)
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
        ("a,a,y\n1,2,3\n", "more than one column 'a'"),
        (",a,y\n0,2,3\n", r"without a name.*index=False.*--ignore ''"),
        ("y\n1\n", "no columns beside 'y'"),
        ("a;b;y\n1;2;3\n", "one column, 'a;b;y'; expected commas"),
        ("a\ty\n1\t2\n", "expected commas"),
    ],
)
def test_csv_that_is_wrong(write, content, message):
    with pytest.raises(FileFormatError, match=message) as raised:
        read_samples([write("d.csv", content)], ["y"])
    one_line(raised)


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
    with pytest.raises(DomainError, match=r"expected \.npz or \.npy or \.csv or \.parquet"):
        read_inputs(path.with_suffix(".json"), (), ())


# What is written


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 3])
def test_numbers_are_written_exactly(tmp_path, dtype, count):
    names = ["a", "b, c", "d"][:count]
    values = [(np.random.default_rng(i).normal(size=5) / 3).astype(dtype) for i in range(count)]
    for suffix in (".csv", ".parquet", ".npy", ".npz"):
        path = tmp_path / f"out{suffix}"
        path.write_bytes(write_columns(suffix, names, values))
        if suffix in (".csv", ".parquet"):
            read = columns.read_columns(path)
            assert read.column_names == names
            found = [read[name].to_numpy().astype(dtype) for name in names]
        else:
            loaded = np.load(path)
            array = loaded if suffix == ".npy" else loaded["y"]
            assert array.shape == ((5,) if count == 1 else (5, count))
            assert array.dtype == dtype
            found = array.reshape(5, count).T
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_are_written_as_they_were_read(write, labels):
    for suffix in (".csv", ".parquet"):
        numbers = np.arange(len(labels))
        content = write_columns(suffix, ["a", "kind"], [numbers, np.array(labels)])
        read = read_samples([write(f"out{suffix}", content)], ["kind"], labels=True).y.tolist()
        if suffix == ".csv" and isinstance(labels[0], float | bool):
            labels = list(map(str, labels))
        assert read == labels


def test_suffixes(tmp_path):
    assert known_suffix(tmp_path / "A.NPY", (".npz", ".npy")) == ".npy"
    with pytest.raises(DomainError, match=r"has no suffix; expected \.npz or \.npy"):
        known_suffix(tmp_path / "a", (".npz", ".npy"))


def test_writable(tmp_path):
    check_writable(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileFormatError, match="not a regular file"):
        check_writable(tmp_path)
    with pytest.raises(FileFormatError, match="can't be written: No such file"):
        check_writable(tmp_path / "none" / "new")
    (tmp_path / "file").touch()
    with pytest.raises(FileFormatError, match="can't be written"):
        check_writable(tmp_path / "file" / "new")


def test_without_pyarrow(write, monkeypatch):
    path = write("houses.csv", table())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"backprop-gpu\[data\]"):
        read_samples([path], ["price"])

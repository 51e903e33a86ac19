"""Data files: what is read is what was written."""

import datetime
import decimal
import gzip
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sample_table import NAMES, X, Y, table

from backprop_gpu.cli import columns
from backprop_gpu.cli.tables import (
    known_suffix,
    read_inputs,
    read_samples,
    write_columns,
)
from backprop_gpu.errors import (
    DomainError,
    FileFormatError,
    MissingExtraError,
)
from backprop_gpu.files import check_writable

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


@pytest.mark.parametrize("name", ["d.tsv", "d.csv.gz", "d.tsv.gz", "a.b.csv.gz", "gzip.csv"])
def test_text_with_tabs_and_compressed(write, name):
    content = "a,b c,kind\n1,2,01\n3,4.5,02\n"
    if ".tsv" in name:
        content = content.replace(",", "\t")
    data = content.encode()
    path = write(name, gzip.compress(data) if "gz" in name else data)
    samples = read_samples([path], ["kind"], labels=True)
    assert samples.features == ("a", "b c")
    assert samples.x.tolist() == [[1, 2], [3, 4.5]]
    assert samples.y.tolist() == ["01", "02"]
    assert read_inputs(path, ("b c",), ()).tolist() == [[2], [4.5]]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_inputs_are_found_by_name_in_any_order(write, suffix):
    mixed = table().select(["price", "on", "width", "height"]).append_column("note", [["a"] * 4])
    path = write(f"houses{suffix}", mixed)
    np.testing.assert_array_equal(read_inputs(path, NAMES[:3], ["price"]), X)


def test_samples_have_the_columns_that_are_known_in_their_order(write):
    path = write("houses.csv", table(note=["a"] * 4))
    samples = read_samples([path], ["price"], features=("on", "width"))
    assert samples.features == ("on", "width")
    np.testing.assert_array_equal(samples.x, X[:, [2, 0]])


def test_numbers_can_be_among_the_names(write):
    assert read_samples([write("d.csv", "2025,y\n1,2\n")], ["y"]).features == ("2025",)


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
    with pytest.raises(FileFormatError, match="is a folder, not a file; it is left alone"):
        check_writable(tmp_path)
    with pytest.raises(FileFormatError, match=r"can't be written: there is no folder .*none$"):
        check_writable(tmp_path / "none" / "new")
    (tmp_path / "file").touch()
    with pytest.raises(FileFormatError, match=r"can't be written: there is no folder .*file$"):
        check_writable(tmp_path / "file" / "new")
    with pytest.raises(FileFormatError, match="can't be written: File name too long"):
        check_writable(tmp_path / ("a" * 300))


def test_without_pyarrow(write, monkeypatch):
    path = write("houses.csv", table())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"backprop-gpu\[data\]"):
        read_samples([path], ["price"])

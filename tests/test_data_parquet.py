"""Columns of Parquet files, sliced by rows."""

import threading

import numpy as np
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backprop_gpu as bp
from backprop_gpu import errors
from backprop_gpu.data import ParquetColumns, is_streamed, parquet

ROWS, GROUP = 1000, 300
A, B = np.arange(ROWS, dtype="float32"), np.arange(ROWS, dtype="int16") % 7
VALUES = np.column_stack([B, A])


def table(**more):
    return pyarrow.table({"a": A, "b": B, "name": [f"row {i}" for i in range(ROWS)], **more})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("parquet") / "data.parquet"
    pyarrow.parquet.write_table(table(), path, row_group_size=GROUP)
    return path


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parquet, "DECODED_BYTES", 100 * 8)


def test_says_in_a_line_what_it_is(path):
    columns = ParquetColumns(path, ["b", "a"])
    assert repr(columns) == "ParquetColumns(1,000 rows of ['b', 'a']; float32)"
    many = repr(ParquetColumns(path, ["b"] * 1000))
    assert len(many) < 130
    assert "..." in many


def test_is_a_matrix_of_the_columns_in_their_order(path):
    columns = ParquetColumns(path, ["b", "a"])
    assert columns.shape == (ROWS, 2)
    assert len(columns) == ROWS
    assert columns.dtype == "float32"
    assert columns.row_groups.tolist() == [0, 300, 600, 900]
    assert is_streamed(columns)
    np.testing.assert_array_equal(columns[:], VALUES)


def test_where_an_array_is_needed_all_rows_are_read(path):
    columns = ParquetColumns(path, ["b", "a"])
    np.testing.assert_array_equal(np.asarray(columns), VALUES)
    assert np.asarray(columns, "float64").dtype == "float64"
    net = bp.MLP([2, 1], device="cpu")
    np.testing.assert_array_equal(net(columns), net(VALUES))
    assert net.loss(columns, ParquetColumns(path, ["a"])) == net.loss(VALUES, VALUES[:, 1:])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)), max_size=8))
def test_slices_in_any_order_are_those_of_the_matrix(path_once, slices):
    for start, stop in slices:
        np.testing.assert_array_equal(path_once[start:stop], VALUES[start:stop])


@pytest.fixture(scope="module")
def path_once(path):
    return ParquetColumns(path, ["b", "a"])


def test_reading_on_decodes_a_row_group_once(path, monkeypatch):
    decoded = []
    whole = ParquetColumns._decoded
    monkeypatch.setattr(
        ParquetColumns, "_decoded", lambda self, group: decoded.append(group) or whole(self, group)
    )
    columns = ParquetColumns(path, ["a"])
    for start in range(0, ROWS, 37):
        columns[start : start + 37]
    assert decoded == [0, 1, 2, 3]
    columns[850:860], columns[610:620]
    assert decoded == [0, 1, 2, 3, 2, 2]


def test_the_index_of_a_file_is_read_once(path, monkeypatch):
    known = []

    class Noted(pyarrow.parquet.ParquetFile):
        def __init__(self, *args, metadata=None, **options):
            known.append(metadata is not None)
            super().__init__(*args, metadata=metadata, **options)

    monkeypatch.setattr(pyarrow.parquet, "ParquetFile", Noted)
    ParquetColumns(path, ["a"])[:]
    assert known == [False, True, True, True, True]


def test_a_column_can_be_taken_twice(path):
    np.testing.assert_array_equal(
        ParquetColumns(path, ["a", "a"])[5:400], A[5:400, None][:, [0, 0]]
    )


def test_a_dataset_with_a_filter_is_refused(path):
    source = pyarrow.dataset.dataset(path).filter(pyarrow.dataset.field("a") < 0)
    with pytest.raises(errors.DomainError, match="with a filter"):
        ParquetColumns(source, ["a"])


def test_folders_datasets_and_open_files_are_read_too(path, tmp_path):
    for name in ("1.parquet", "2.parquet"):
        pyarrow.parquet.write_table(table(), tmp_path / name, row_group_size=700)
    for source in (tmp_path, str(tmp_path), pyarrow.dataset.dataset(tmp_path)):
        columns = ParquetColumns(source, ["b", "a"])
        assert columns.row_groups.tolist() == [0, 700, 1000, 1700]
        np.testing.assert_array_equal(columns[650:1750], np.tile(VALUES, (2, 1))[650:1750])
    with pyarrow.parquet.ParquetFile(path) as file:
        columns = ParquetColumns(file, ["b", "a"])
        np.testing.assert_array_equal(columns[290:310], VALUES[290:310])
        np.testing.assert_array_equal(columns[:10], VALUES[:10])


def test_several_threads_may_read(path):
    columns, wrong = ParquetColumns(path, ["b", "a"]), []

    def read(seed):
        for start in np.random.default_rng(seed).integers(0, ROWS, 50):
            if (columns[start : start + 20] != VALUES[start : start + 20]).any():
                wrong.append(start)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (pyarrow.array([1, 2, 3], pyarrow.int8()), "float32"),
        (pyarrow.array([True, False, True]), "float32"),
        (pyarrow.array([1, 2, 3], pyarrow.int32()), "float64"),
        (pyarrow.array([0.1, 0.2, 0.3]), "float64"),
        (pyarrow.array([1, None, 3], pyarrow.int8()), "float32"),
        (pyarrow.array([None, True, False]), "float32"),
    ],
)
def test_numbers_are_held_exactly_and_missing_ones_are_nan(tmp_path, values, dtype):
    pyarrow.parquet.write_table(pyarrow.table({"v": values}), tmp_path / "v.parquet")
    columns = ParquetColumns(tmp_path / "v.parquet", ["v"])
    expected = [np.nan if value is None else value for value in values.to_pylist()]
    assert columns.dtype == dtype
    np.testing.assert_array_equal(columns[:], np.array(expected, dtype)[:, None])


TEXT = [f"row {i}" for i in range(ROWS)]


@pytest.mark.parametrize(
    "values",
    [
        pyarrow.array(TEXT),
        pyarrow.array(TEXT, pyarrow.large_string()),
        pyarrow.array(TEXT, pyarrow.string_view()),
        pyarrow.array(TEXT).dictionary_encode(),
    ],
    ids=["string", "large string", "string view", "categories"],
)
def test_text_stays_text(tmp_path, values):
    pyarrow.parquet.write_table(
        pyarrow.table({"v": values}), tmp_path / "v.parquet", row_group_size=GROUP
    )
    columns = ParquetColumns(tmp_path / "v.parquet", ["v"])
    assert columns.dtype == object
    assert columns.shape == (ROWS, 1)
    assert columns[290:310].ravel().tolist() == TEXT[290:310]


def test_text_that_is_missing_is_named_when_it_is_read(tmp_path):
    text = [*TEXT[:707], None, *TEXT[708:]]
    pyarrow.parquet.write_table(
        pyarrow.table({"v": text}), tmp_path / "v.parquet", row_group_size=GROUP
    )
    columns = ParquetColumns(tmp_path / "v.parquet", ["v"])
    assert columns[600:650].ravel().tolist() == TEXT[600:650]
    with pytest.raises(errors.DomainError, match="column 'v' has no text in row 707; fill it in"):
        columns[700:710]


def test_text_is_not_trained_on_and_not_said_to_be_convertible(path):
    columns, net = ParquetColumns(path, ["name"]), bp.MLP([1, 1], device="cpu")
    for x, y, name in ((columns, A[:, None], "x"), (A[:, None], columns, "y")):
        with pytest.raises(errors.DtypeError, match=f"{name} has dtype object .* numbers$"):
            bp.train(net, x, y, batch_size=10)


def test_what_cannot_be_read_is_said(path, tmp_path):
    with pytest.raises(errors.UnknownNameError, match="unknown column 'nam'; did you mean 'name'"):
        ParquetColumns(path, ["nam"])
    with pytest.raises(errors.DtypeError, match="column 'name' holds string; expected numbers"):
        ParquetColumns(path, ["a", "name"])
    with pytest.raises(errors.DomainError, match="expected a list of names"):
        ParquetColumns(path, "a")
    with pytest.raises(errors.DomainError, match="expected a list of names"):
        ParquetColumns(path, [])
    with pytest.raises(errors.FileFormatError, match=r"missing\.parquet does not exist"):
        ParquetColumns(tmp_path / "missing.parquet", ["a"])
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(errors.FileFormatError, match=r"torn\.parquet"):
        ParquetColumns(torn, ["a"])
    with pytest.raises(errors.DtypeError, match="expected a path"):
        ParquetColumns(table(), ["a"])
    with pytest.raises(errors.DtypeError, match="sliced by rows"):
        ParquetColumns(path, ["a"])[3]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pyarrow.array([0], pyarrow.time32("ms")), r"time32\[ms\]"),
        (pyarrow.array([{"x": 1}]), "struct<x: int64>"),
        (pyarrow.array([[1, 2]]), "list<element: int64>"),
    ],
)
def test_what_has_no_dtype_is_no_number(values, kind, tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"v": values}), tmp_path / "v.parquet")
    with pytest.raises(errors.DtypeError, match=f"column 'v' holds {kind}; expected numbers"):
        ParquetColumns(tmp_path / "v.parquet", ["v"])


@pytest.mark.parametrize("file", ["empty.parquet", ""], ids=["no rows", "no files"])
def test_a_source_without_rows_has_no_samples(file, tmp_path):
    if file:
        pyarrow.parquet.write_table(table()[:0], tmp_path / file)
    columns = ParquetColumns(tmp_path / file, ["a"])
    assert (columns.shape, columns.dtype) == ((0, 1), np.dtype("float32"))
    with pytest.raises(errors.ShapeError, match=r"x has shape \(0, 1\): no samples"):
        bp.train(bp.MLP([1, 1], device="cpu"), columns, columns, batch_size=10)

"""Batches of files: every row once, in an order that the seed decides, in bounded memory."""

import re
import subprocess
import sys
import threading

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zarr
from host.needs import needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st

import backprop_gpu as bp
from backprop_gpu import errors
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.data import ParquetColumns, StreamedBatches, is_streamed


class Sliced:
    """The least that is streamed: a shape, and slices of rows. Notes what is read."""

    def __init__(self, values, chunk=None):
        self.values, self.shape, self.read = values, values.shape, []
        if chunk:
            self.chunks = (chunk, *values.shape[1:])

    def __getitem__(self, rows):
        self.read.append((rows.start, rows.stop))
        return self.values[rows]


def matrix(n, columns=3):
    """Row i has i in its first column."""
    x = np.random.default_rng(0).uniform(-1, 1, (n, columns)).astype("float32")
    x[:, 0] = np.arange(n)
    return x


def batches(x, y=None, batch_size=10, loss="mse", backend=None, columns=None, **options):
    if y is None:
        y = -np.arange(x.shape[0], dtype="float32")[:, None]
    options = {"seed": 1, "dtype": np.dtype("float32"), "window_bytes": 4000} | options
    return StreamedBatches(
        x,
        y,
        batch_size,
        columns=columns or (x.shape[1], 1),
        backend=backend or NumpyBackend(),
        check_targets=bp.losses.find_loss(loss).check_targets,
        **options,
    )


def rows(epoch):
    """The numbers of the rows that batches hold; x and y have to agree on them."""
    numbers = []
    for x, y in epoch:
        assert (x[:, 0] == -y[:, 0]).all()
        numbers.append(x[:, 0].astype(int).tolist())
    return numbers


def flat(lists):
    return [number for numbers in lists for number in numbers]


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 300),
    batch_size=st.integers(1, 70),
    window_bytes=st.integers(1, 5000),
    chunk=st.integers(1, 400),
    seed=st.none() | st.integers(0, 2**64),
    epoch=st.integers(0, 2**31),
    data=st.data(),
)
def test_every_row_comes_once_an_epoch_and_an_epoch_can_begin_at_any_batch(
    n, batch_size, window_bytes, chunk, seed, epoch, data
):
    source = batches(
        Sliced(matrix(n), chunk), batch_size=batch_size, seed=seed, window_bytes=window_bytes
    )
    found = rows(source.epoch(epoch))
    assert sorted(flat(found)) == list(range(n))
    assert source.samples == n
    assert source.per_epoch == len(found)
    assert all(len(batch) == batch_size for batch in found[:-1])
    if seed is None:
        assert flat(found) == list(range(n))
    start = data.draw(st.integers(0, len(found)))
    assert rows(source.epoch(epoch, start)) == found[start:]


@pytest.mark.parametrize("path", ["steps", pytest.param("compiled", marks=needs_compiler)])
def test_batches_that_are_larger_than_the_data_are_all_of_them(path):
    """And take no more memory."""
    x, y = Sliced(matrix(30)), np.ones((30, 1), "float32")
    nets = [bp.MLP([3, 2, 1], device="cpu") for _ in range(2)]
    losses = [
        bp.train(net, x, y, batch_size=size, epochs=3, path=path).loss
        for net, size in zip(nets, (30, 10**15), strict=True)
    ]
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(*(net.parameters for net in nets))


def test_the_seed_and_the_epoch_alone_decide_the_order():
    x = Sliced(matrix(1000))
    source = batches(x, seed=3)
    orders = [flat(rows(source.epoch(epoch))) for epoch in range(4)]
    orders += [flat(rows(batches(x, seed=seed).epoch(0))) for seed in range(3)]
    assert len({tuple(order) for order in orders}) == 7
    assert flat(rows(batches(x, seed=3).epoch(2))) == orders[2]


def test_rows_move_all_over_the_file_and_all_over_their_window():
    n, window = 10_000, 250  # 250 rows of 16 bytes
    order = np.array(flat(rows(batches(Sliced(matrix(n))).epoch(0))))
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.05
    for place in range(0, n, window):
        here = order[place : place + window]
        assert np.ptp(here) > n / 2  # from blocks here and there
        assert abs(np.corrcoef(here, np.arange(window))[0, 1]) < 0.3


def test_every_window_has_an_order_of_its_own():
    window = 250
    source = batches(Sliced(matrix(1000), chunk=window))  # a block is a window
    places = np.reshape(flat(rows(source.epoch(0))), (4, window)) % window
    assert len({tuple(order) for order in places.tolist()}) == 4


@pytest.mark.parametrize("chunk", [3, 7, 40])
def test_whole_chunks_are_read_and_each_once(chunk):
    x = Sliced(matrix(1000), chunk)
    list(batches(x).epoch(0))
    reads = sorted(x.read[1:])  # the first asked for the dtype
    assert [start for start, _ in reads][1:] == [stop for _, stop in reads][:-1]
    cut = [start for start, _ in reads if start % chunk]
    assert len(cut) <= 1000 * 16 / 4000  # one for every window


def test_an_epoch_that_begins_later_reads_nothing_before():
    whole, late = Sliced(matrix(1000)), Sliced(matrix(1000))
    list(batches(whole).epoch(5))
    list(batches(late).epoch(5, start=75))
    assert len(late.read) < len(whole.read) / 3
    assert set(late.read) <= set(whole.read)


def test_one_seed_gives_the_same_batches_on_every_backend(backend, dtype):
    x = Sliced(matrix(130))
    found = list(batches(x, backend=backend, dtype=dtype).epoch(0))
    for (x_found, y_found), numbers in zip(found, rows(batches(x).epoch(0)), strict=True):
        assert x_found.dtype == y_found.dtype == dtype
        assert x_found.flags.c_contiguous
        np.testing.assert_array_equal(backend.to_numpy(x_found), x.values[numbers].astype(dtype))
        np.testing.assert_array_equal(backend.to_numpy(y_found)[:, 0], np.negative(numbers))


def amidst(values):
    """Rows before and after that must not be read."""
    return np.concatenate([np.full((7, values.shape[1]), 1e6, "float32"), values, values[:5] - 9])


def npy(tmp_path, values, **options):
    np.save(tmp_path / "x.npy", values)
    return np.load(tmp_path / "x.npy", **{"mmap_mode": "r"} | options)


def hdf5(tmp_path, values, **options):
    return h5py.File(tmp_path / "x.h5", "w").create_dataset("x", data=values, **options)


def zarr_array(tmp_path, values, **options):
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=values.shape, dtype=values.dtype, **options
    )
    array[:] = values
    return array


def parquet(tmp_path, values):
    table = pyarrow.table({str(j): column for j, column in enumerate(values.T)})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=40)
    return ParquetColumns(tmp_path / "x.parquet", [str(j) for j in range(values.shape[1])])


SOURCES = {
    "npy": npy,
    "npy, copied on write": lambda *a: npy(*a, mmap_mode="c"),
    "npy, another dtype": lambda path, values: npy(path, values.astype(">f8")),
    "npy, integers": lambda path, values: npy(path, values.astype("int16")),
    "npy, Fortran's order": lambda path, values: npy(path, np.asfortranarray(values)),
    "npy, a part of it": lambda path, values: npy(path, amidst(values))[7:-5],
    "npy, a part of a part": lambda path, values: npy(path, amidst(values))[3:][4:-5],
    "npy, some columns": lambda path, values: npy(path, np.tile(values, 2))[:, 3:],
    "hdf5": hdf5,
    "hdf5, chunked": lambda *a: hdf5(*a, chunks=(9, 2), compression="gzip"),
    "zarr": zarr_array,
    "zarr, chunked": lambda *a: zarr_array(*a, chunks=(9, 2)),
    "parquet": parquet,
    "sliced": lambda path, values: Sliced(values),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("window_bytes", [1000, 1 << 20], ids=["read on the way", "kept"])
def test_every_kind_of_source_gives_its_rows(name, window_bytes, tmp_path):
    values = matrix(333)
    if "integers" in name:
        values = values.round()
    x = SOURCES[name](tmp_path, values)
    assert is_streamed(x)
    options = {"window_bytes": window_bytes}
    found = [x for x, _ in batches(x, seed=None, **options).epoch(0)]
    np.testing.assert_array_equal(np.concatenate(found), values)
    source = batches(x, **options)
    for _ in range(2):
        assert sorted(flat(rows(source.epoch(0)))) == list(range(333))


@pytest.mark.parametrize(
    "values",
    [
        [[1.0]],
        np.ones((2, 1)),
        pyarrow.table({"a": [1]}),
        zip([1], [2], strict=True),
        "text",
        {"a": 1},
        None,
    ],
    ids=lambda values: type(values).__name__,
)
def test_what_is_in_memory_is_not_streamed(values):
    assert not is_streamed(values)


def test_a_memmap_can_be_had_as_an_array(tmp_path):
    x = npy(tmp_path, matrix(5))
    assert is_streamed(x[1:])
    assert not is_streamed(np.asarray(x))
    assert not is_streamed(x.copy())
    assert not is_streamed(x.astype(float))


def test_a_file_of_numbers_is_one_column(tmp_path):
    y = hdf5(tmp_path, -np.arange(100, dtype="int32"))
    for window_bytes in (1000, 1 << 20):
        source = batches(Sliced(matrix(100)), y, window_bytes=window_bytes)
        assert sorted(flat(rows(source.epoch(0)))) == list(range(100))


def test_what_is_written_to_a_map_alone_is_seen(tmp_path):
    x = npy(tmp_path, matrix(1000), mmap_mode="c")
    x[:, 1] = 7
    assert all((batch[:, 1] == 7).all() for batch, _ in batches(x).epoch(0))


def test_what_is_small_is_read_once():
    x = Sliced(matrix(80))  # 960 of 4000 bytes
    source = batches(x)
    x.read.clear()
    for epoch in range(3):
        assert sorted(flat(rows(source.epoch(epoch)))) == list(range(80))
    assert not x.read


MEMORY = """
import resource, sys
import numpy as np
import backprop_gpu.data as data
from backprop_gpu.backends import NumpyBackend

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

x = np.load(sys.argv[1], mmap_mode="r")
source = data.StreamedBatches(
    x, np.zeros((len(x), 1), "float32"), 1000, columns=(100, 1), seed=0, backend=NumpyBackend(),
    dtype=np.dtype("float32"), check_targets=lambda *_: None, window_bytes=8 << 20,
)
before = peak()
assert sum(len(x) for x, _ in source.epoch(0)) == len(x)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "zeros.npy"  # 400 MB that take no place on the disk
    np.lib.format.open_memmap(path, "w+", "float32", (1_000_000, 100))
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 40  # MiB; two windows are 16


def fails(error, message, *args, **options):
    with pytest.raises(error, match=message):
        batches(*args, **options)


def test_what_shapes_and_dtypes_say_is_said_at_once(tmp_path):
    x = npy(tmp_path, matrix(50))
    fails(errors.ShapeError, r"x has shape \(50, 3\); expected \(samples, 4\)", x, columns=(4, 1))
    fails(errors.ShapeError, r"y has shape \(50, 3\); expected \(samples, 1\)", x, x)
    fails(errors.ShapeError, "x has 50 rows and y has 49", x, np.ones((49, 1)))
    fails(errors.ShapeError, r"y has shape \(50,\)", x, np.ones(50))
    fails(errors.ShapeError, "no samples", Sliced(np.ones((0, 3), "float32")))
    fails(errors.DtypeError, "y has dtype", x, Sliced(np.full((50, 1), "a")))
    fails(errors.DtypeError, "x has dtype complex64", npy(tmp_path, matrix(50).astype("complex64")))
    fails(errors.DomainError, "batch_size is 0", x, batch_size=0)
    fails(errors.DomainError, "window_bytes is 0.5", x, window_bytes=0.5)
    on_gpu = Sliced(np.ones((50, 1)))
    on_gpu.__cuda_array_interface__, on_gpu.dtype = {}, np.dtype("float32")
    fails(errors.DeviceError, r"y is in GPU memory.* give y.get\(\)", x, on_gpu)
    closed = hdf5(tmp_path, matrix(50))
    closed.file.close()
    fails(errors.FileFormatError, "x can't be read", closed, np.ones((50, 1)), columns=(3, 1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_bad_value_is_named_by_its_row(bad):
    values = matrix(5000).astype("float64")
    values[4321, 2] = bad
    epoch = batches(Sliced(values)).epoch(0)
    message = "row 4,321 of x holds (nan|inf) in float32, in column 2"
    with pytest.raises(errors.NonFiniteError, match=message):
        list(epoch)


def test_targets_outside_the_losss_domain_are_named():
    y = np.zeros((5000, 1))
    y[4321] = 2
    source = batches(Sliced(matrix(5000)), y, loss="binary_cross_entropy")
    with pytest.raises(
        errors.DomainError, match=r"y\[\d+:\d+\] holds targets from 0 to 2"
    ) as caught:
        for _ in source.epoch(0):
            pass
    first, last = str(caught.value).split("]")[0].removeprefix("y[").split(":")
    assert int(first) <= 4321 < int(last)


def test_finite_values_whose_sum_overflows_are_taken():
    values = np.full((100, 3), 3e38, "float32")
    assert len(list(batches(Sliced(values), np.zeros((100, 1))).epoch(0))) == 10


def test_a_file_that_shrinks_is_an_error_that_says_how_far_it_went(tmp_path):
    x = npy(tmp_path, matrix(3000))
    source = batches(x, seed=None)
    epoch = source.epoch(7)
    for _ in range(3):
        next(epoch)
    with (tmp_path / "x.npy").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(errors.FileFormatError, match=r"rows .* of x, which has 3,000") as caught:
        list(epoch)
    assert "ends after 20,000 bytes" in str(caught.value)
    (note,) = caught.value.__notes__
    told = re.fullmatch(r"Before it came (\d+) of 300 batches of epoch 7\.", note)
    assert 3 <= int(told[1]) < 167  # what the file still holds


def test_a_source_that_fails_is_an_error_that_says_where(tmp_path):
    class Failing(Sliced):
        def __getitem__(self, rows):
            if rows.start >= 500:
                raise OSError("unreachable")
            return self.values[rows.start : min(rows.stop, self.values.shape[0])]

    source = batches(Failing(matrix(1000)), seed=None)
    with pytest.raises(
        errors.FileFormatError, match=r"can't be read: OSError: unreachable"
    ) as caught:
        list(source.epoch(0))
    assert isinstance(caught.value.__cause__, OSError)

    class Silent(Sliced):
        def __getitem__(self, rows):
            raise NotImplementedError

    with pytest.raises(errors.FileFormatError, match=r"can't be read: NotImplementedError$"):
        batches(Silent(matrix(1000)))

    short = Sliced(matrix(1000))
    source = batches(short, seed=None)
    short.values = short.values[:100]
    with pytest.raises(errors.FileFormatError, match=r"only \d+ came"):
        list(source.epoch(0))


def test_leaving_an_epoch_ends_its_thread():
    epoch = batches(Sliced(matrix(1000))).epoch(0)
    next(epoch)
    assert "backprop_gpu-data" in [thread.name for thread in threading.enumerate()]
    epoch.close()
    assert "backprop_gpu-data" not in [thread.name for thread in threading.enumerate()]


def test_two_epochs_at_a_time_do_not_disturb_each_other():
    source = batches(Sliced(matrix(1000)))
    together = zip(source.epoch(0), source.epoch(1), strict=True)
    first, second = zip(*together, strict=True)
    assert rows(first) == rows(source.epoch(0))
    assert rows(second) == rows(source.epoch(1))

"""Times training on streamed files and in memory: ``python -m benchmarks.streaming``.

Each format has processes of its own, one that writes the file and one that reads it. It was just
written, so that it comes from the operating system's cache where that is large enough: what is
timed is the library, not the disk.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

import backprop_gpu as bp
from backprop_gpu.benchmark.machine import machine
from backprop_gpu.benchmark.table import of_json, to_json
from backprop_gpu.data import StreamedBatches, new_room
from backprop_gpu.text_table import as_bytes
from benchmarks.pages import put_into
from benchmarks.peers.race import settle

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- python -m benchmarks.streaming --publish -->\n", "<!-- end -->\n"
HIDDEN = (256, 256)
PIECE = 1 << 14  # rows that are written at a time, and those of a row group
CHUNK = 1 << 11  # rows of a chunk
HELD = 1 << 17  # rows in memory, at most
ROUNDS = 3


@dataclass(frozen=True)
class Row:
    """What was found for one format; times are of a batch, in seconds, the best of some rounds.

    Attributes
    ----------
    format, device : str
    rows, features, batch : int
    loading, loading_cpu : float
        Without training: the time that passes, and that of all of the loader's threads.
    streamed, in_memory : float
        A step of training.
    path : str
        The one that `bp.plan` chooses.
    memory : int
        The bytes that an epoch of streamed training adds to the process at its peak.
    """

    format: str
    device: str
    rows: int
    features: int
    batch: int
    loading: float
    loading_cpu: float
    streamed: float
    in_memory: float
    path: str
    memory: int

    def record(self):
        """Return the row for JSON, with what follows from it."""
        return asdict(self) | {"of_in_memory": self.in_memory / self.streamed}

    @classmethod
    def of_record(cls, record):
        """Return the row that `record` made."""
        return cls(**{field.name: record[field.name] for field in fields(cls)})


def pieces(rows, features):
    """Yield random x and y, and which rows they are."""
    random = np.random.default_rng(0)
    for first in range(0, rows, PIECE):
        places = slice(first, min(first + PIECE, rows))
        count = places.stop - first
        yield places, random.random((count, features), "f4"), random.random((count, 1), "f4")


def fill(x, y):
    for places, x_piece, y_piece in pieces(*x.shape):
        x[places], y[places] = x_piece, y_piece


def write_npy(folder, rows, features):
    x, y = (
        np.lib.format.open_memmap(folder / name, "w+", "float32", (rows, columns))
        for name, columns in (("x.npy", features), ("y.npy", 1))
    )
    fill(x, y)


def open_npy(folder, features):
    return [np.load(folder / name, mmap_mode="r") for name in ("x.npy", "y.npy")]


def write_hdf5(folder, rows, features):
    import h5py

    with h5py.File(folder / "data.h5", "w") as file:
        x, y = (
            file.create_dataset(name, (rows, columns), "f4", chunks=(min(CHUNK, rows), columns))
            for name, columns in (("x", features), ("y", 1))
        )
        fill(x, y)


def open_hdf5(folder, features):
    import h5py

    file = h5py.File(folder / "data.h5")
    return file["x"], file["y"]


def write_zarr(folder, rows, features):
    import zarr

    x, y = (
        zarr.create_array(folder / name, shape=(rows, columns), dtype="f4", chunks=(CHUNK, columns))
        for name, columns in (("x", features), ("y", 1))
    )
    fill(x, y)


def open_zarr(folder, features):
    import zarr

    return [zarr.open_array(folder / name, mode="r") for name in ("x", "y")]


def write_parquet(folder, rows, features):
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    names = [*map(str, range(features)), "y"]
    schema = pyarrow.schema([(name, pyarrow.float32()) for name in names])
    with ParquetWriter(folder / "data.parquet", schema) as file:
        for _, x, y in pieces(rows, features):
            columns = [np.ascontiguousarray(column) for column in (*x.T, y[:, 0])]
            file.write_table(pyarrow.table(columns, schema))


def open_parquet(folder, features):
    path = folder / "data.parquet"
    return [bp.ParquetColumns(path, names) for names in ([*map(str, range(features))], ["y"])]


FORMATS = {
    ".npy": (write_npy, open_npy),
    "HDF5": (write_hdf5, open_hdf5),
    "Zarr": (write_zarr, open_zarr),
    "Parquet": (write_parquet, open_parquet),
}


def measure(name, folder, features, batch_size, device, threads):
    """Return the row of a format whose file is there."""
    x, y = FORMATS[name][1](folder, features)
    rows = x.shape[0]
    net = bp.MLP([features, *HIDDEN, 1], device=device, threads=threads)
    where = net.device if threads is None else f"{net.device} with {threads} thread(s)"

    def train(x, y, epochs=1):
        """Return the seconds of a step, and the path that was taken."""
        optimizer = bp.SGD(1e-4)
        history = bp.train(net, x, y, optimizer=optimizer, epochs=epochs, batch_size=batch_size)
        return history.seconds / (epochs * -(-x.shape[0] // batch_size)), history.path

    train(np.array(x[:batch_size]), np.array(y[:batch_size]))  # warms up
    before = peak()
    train(x, y)
    memory = peak() - before

    held = np.array(x[:HELD]), np.array(y[:HELD])
    epochs = max(1, rows // len(held[0]))
    loaded, streamed, in_memory = [], [], []
    for _ in range(ROUNDS):  # by turns: the machine may be slower now than it was
        loaded.append(load(net, x, y, batch_size))
        streamed.append(train(x, y))
        in_memory.append(train(*held, epochs))
    return Row(
        name,
        where,
        rows,
        features,
        batch_size,
        *(min(times) for times in zip(*loaded, strict=True)),
        min(streamed)[0],
        *min(in_memory),
        memory,
    )


def load(net, x, y, batch_size):
    """Go through an epoch without training; return the seconds of a batch, and the CPU's."""
    columns = net.layer_sizes[0], net.layer_sizes[-1]
    batches = StreamedBatches(
        x,
        y,
        batch_size,
        columns=columns,
        seed=0,
        backend=net.backend,
        dtype=net.dtype,
        check_targets=lambda y, xp, name: None,
    )
    room = new_room(net.backend, columns, net.dtype)(batch_size)
    settle()
    began, cpu_began = time.perf_counter(), time.process_time()
    for _ in batches.epoch(0, room=lambda rows: (room[0][:rows], room[1][:rows])):
        pass
    net.backend.synchronize()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    return seconds / batches.per_epoch, cpu_seconds / batches.per_epoch


def peak():
    """Return the most bytes that the process ever had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(formats, gigabytes, features, batch_size, device, threads, folder):
    """Yield the row of each format."""
    rows = int(gigabytes * 1e9 / (4 * features))
    start_afresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, start_afresh, max_tasks_per_child=1) as processes:
        for name in formats:
            with tempfile.TemporaryDirectory(dir=folder) as made:
                path = Path(made)
                processes.submit(FORMATS[name][0], path, rows, features).result()
                yield processes.submit(
                    measure, name, path, features, batch_size, device, threads
                ).result()


def report(about, rows):
    """Return the machine, and a Markdown table of the rows."""
    first = rows[0]
    network = "-".join(map(str, (first.features, *HIDDEN, 1)))
    size = as_bytes(4 * first.rows * first.features)
    lines = [
        f"{first.rows:,} rows of {first.features} float32 ({size}) in batches of {first.batch:,}; "
        f"network {network} on {first.device}, {first.path}; {about['CPU']}; {about['date']}",
        "",
        "| | loading alone | of CPU time a batch | step, streamed | step, in memory "
        "| streamed rate / in memory | memory |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        rate = 4e-6 * row.features * row.batch / row.loading
        cells = [
            *(row.format, f"{rate:,.0f} MB/s"),
            *(f"{1e3 * t:.2f} ms" for t in (row.loading_cpu, row.streamed, row.in_memory)),
            *(f"{row.in_memory / row.streamed:.0%}", as_bytes(row.memory)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def publish(name, found, root):
    """Write a run's JSON, and its table into the page between the markers."""
    (root / "benchmarks" / "results" / f"streaming-{name}.json").write_text(found)
    text = report(*of_json(found, Row)) + "\n"
    put_into(root / "docs" / "streaming.md", BEGIN, text, END)


def main(arguments, root=ROOT):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, metavar="NAME")
    parser.add_argument("--gigabytes", type=float, default=0.5, help="of each file")
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--threads",
        type=int,
        help="as of bp.MLP; one less than there are cores leaves the loader one",
    )
    parser.add_argument("--folder", type=Path, help="where files are written, and removed again")
    parser.add_argument(
        "--publish",
        metavar="NAME",
        help="also write results/streaming-NAME.json, and the table of docs/streaming.md",
    )
    options = parser.parse_args(arguments)
    about = machine()
    rows = list(
        run(
            options.formats,
            options.gigabytes,
            options.features,
            options.batch_size,
            options.device,
            options.threads,
            options.folder,
        )
    )
    found = to_json(about, rows)
    if options.publish:
        publish(options.publish, found, root)
    print(report(*of_json(found, Row)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

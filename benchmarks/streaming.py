"""Times training on streamed files and in memory: ``python -m benchmarks.streaming``.

The files were just written, so that they come from the operating system's cache where that is large
enough: what is timed is the library, not the disk.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import backprop_gpu as bp
from backprop_gpu.data import StreamedBatches

HIDDEN = [256, 256, 1]
PIECE = 1 << 14  # rows that are written at a time
ROUNDS = 3


def write(folder, rows, features):
    """Write x.npy and y.npy; return them as memory maps."""
    rng = np.random.default_rng(0)
    maps = []
    for name, columns in (("x", features), ("y", 1)):
        path = folder / f"{name}.npy"
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, rows, PIECE):
                rng.random((min(PIECE, rows - first), columns), dtype="float32").tofile(file)
        maps.append(np.load(path, mmap_mode="r"))
    return maps


def load(net, x, y, batch_size):
    """Go through an epoch without training; return its seconds, and those of the CPU."""
    batches = StreamedBatches(
        *(x, y, batch_size),
        columns=(x.shape[1], y.shape[1]),
        seed=0,
        backend=net.backend,
        dtype=net.dtype,
        check_targets=lambda y, xp, name: None,
    )
    began, cpu_began = time.perf_counter(), time.process_time()
    for _ in batches.epoch(0):
        pass
    return time.perf_counter() - began, time.process_time() - cpu_began


def main(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--path", default="auto", help="as of bp.train: auto, steps or compiled")
    parser.add_argument("--folder", type=Path, help="where the file is written, and removed again")
    options = parser.parse_args(arguments)

    rows = int(options.gigabytes * 1e9 / (4 * options.features))
    held = min(rows, 1 << 17)
    net = bp.MLP([options.features, *HIDDEN], device=options.device)

    def train(x, y, epochs=1):
        """Return rows a second, and the path that the training took."""
        history = bp.train(
            *(net, x, y),
            optimizer=bp.SGD(1e-4),
            epochs=epochs,
            batch_size=options.batch_size,
            path=options.path,
        )
        return epochs * len(x) / history.seconds, history.path

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        x, y = write(Path(folder), rows, options.features)
        x_held, y_held = np.array(x[:held]), np.array(y[:held])
        train(x_held, y_held)  # warms up
        before = peak()
        seconds, cpu_seconds = min(load(net, x, y, options.batch_size) for _ in range(ROUNDS))
        in_memory, streamed = [], []
        for _ in range(ROUNDS):  # by turns: the machine may be slower now than it was
            streamed.append(train(x, y))
            in_memory.append(train(x_held, y_held, max(1, rows // held)))

    batches = rows / options.batch_size
    mega = 4e-6 * options.features
    print(f"{rows:,} rows of {options.features} float32 in batches of {options.batch_size}")
    print(f"network {'-'.join(map(str, net.layer_sizes))} on {net.device}; best of {ROUNDS}\n")
    for name, (speed, path) in (
        ("loading alone", (rows / seconds, "")),
        ("training, in memory", max(in_memory)),
        ("training, streamed", max(streamed)),
    ):
        print(f"{name:20} {speed:12,.0f} rows/s {speed * mega:8,.0f} MB/s  {path}")
    print(f"\nloading takes {cpu_seconds / batches * 1e3:.2f} ms of CPU time a batch")
    print(f"streamed / in memory: {max(streamed)[0] / max(in_memory)[0]:.1%}")
    print(f"memory grew by at most {peak() - before:,.0f} MB")


def peak():
    """Return the most memory that the process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1.024e-3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

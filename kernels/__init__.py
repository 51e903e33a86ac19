"""The CUDA sources, put together for a compiler, and the shapes they are launched in.

A source file says in its first lines which device functions it calls (``g``, ``update_one``, ...);
whoever launches it supplies them, so one kernel serves every activation, loss and optimizer. The
text that `assemble` returns needs no header and no include path: it compiles with NVRTC, and, in
front of a small shim, with any C++ compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

# What a kernel's file needs in front of it, besides common.cuh.
HEADERS = {
    "column_sum": ("column_sum",),
    "delta": ("column_sum",),
    "train_block": ("train", "patch", "mma"),
    "train_warp": ("train",),
}

# The device functions that whoever launches a kernel supplies, by their names.
SIGNATURES = {
    "g": "real g(real z)",
    "g_prime_of_a": "real g_prime(real a)",
    "g_prime_of_z": "real g_prime(real z)",
    "loss_term": "real loss_term(real z, real a, real y, real m)",
    "loss_slope": "real loss_slope(real z, real a, real y, real m)",
    "output_slope": "real output_slope(real z, real a, real y, real m)",
    "update_one": (
        "void update_one(real& p, real g, real& s0, real& s1, real learning_rate, real decay,"
        " real c0, real c1)"
    ),
}

THREADS = 256  # in a block; MAX_THREADS of common.cuh
WARP = 32
MAX_BLOCKS = 2048  # enough to fill the GPUs of today; the threads of a grid then walk on
ROWS_PER_THREAD = 8  # how many rows a thread of a column sum adds up, at least
MAX_ROW_BLOCKS = 256


class Launch(NamedTuple):
    """How many blocks, and how many threads in each."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]


@cache
def read(name: str) -> str:
    """Return the text of a source file."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def assemble(file: str, real: str, functions: Mapping[str, str], network: str = "") -> str:
    """Return one complete CUDA C++ translation unit.

    Parameters
    ----------
    file : str
        A kernel file's name without its ending.
    real : {"float", "double"}
        What the kernels compute in.
    functions : mapping
        The bodies of the device functions the file calls, by their keys in `SIGNATURES`.
    network : str
        What a file that is compiled for one network needs to know of it, as CUDA C++.
    """
    parts = [f"typedef {real} real;", read("common.cuh")]
    parts += [
        f"static __device__ {SIGNATURES[name]} {{ {body} }}" for name, body in functions.items()
    ]
    parts.append(network)
    parts += [read(f"{header}.cuh") for header in HEADERS.get(file, ())]
    parts.append(read(f"{file}.cu"))
    return "\n".join(parts)


def elementwise(size: int) -> Launch:
    """One thread an entry, until the grid is large enough; then threads walk on."""
    return Launch((min(_blocks(size, THREADS), MAX_BLOCKS), 1, 1), (THREADS, 1, 1))


def parts_of(size: int, count: int) -> tuple[Launch, int]:
    """One thread an entry for `count` rows of a size, and the blocks of each row."""
    threads = min(THREADS, WARP * _blocks(size, WARP))
    parts = _blocks(size, threads)
    return Launch((count * parts, 1, 1), (threads, 1, 1)), parts


def one_block() -> Launch:
    """The second stage of a sum."""
    return Launch((1, 1, 1), (THREADS, 1, 1))


def warp_rows(rows: int) -> Launch:
    """One warp a row."""
    per_block = THREADS // WARP
    return Launch((_blocks(rows, per_block), 1, 1), (WARP, per_block, 1))


def column_tiles(rows: int, columns: int) -> tuple[Launch, int]:
    """Blocks of columns by rows for the first stage of a column sum, and the rows of each block.

    The blocks are as narrow as the matrix, so that a single column keeps all threads busy, too.
    """
    wide = min(WARP, 1 << (columns - 1).bit_length())
    high = THREADS // wide
    row_blocks = min(MAX_ROW_BLOCKS, _blocks(rows, high * ROWS_PER_THREAD))
    rows_per_block = _blocks(rows, row_blocks)
    grid = (_blocks(columns, wide), _blocks(rows, rows_per_block), 1)
    return Launch(grid, (wide, high, 1)), rows_per_block


def columns(count: int) -> Launch:
    """One thread a column, for the second stage of a column sum."""
    return Launch((_blocks(count, THREADS), 1, 1), (THREADS, 1, 1))


def _blocks(size: int, per_block: int) -> int:
    return -(-size // per_block)

"""A simulated GPU: the real CuPy, with everything below it on the CPU.

`start` puts a library of our own (`gpu/`) where CuPy expects CUDA's runtime, driver and cuBLAS.
NVRTC compiles every kernel as for a GPU, and what runs is what g++ makes of the same source behind
the shim of `launcher.py`. It shows what the library asks of CuPy, and what CuPy makes of that:
streams, events, graphs, page-locked memory, types, errors. It does not show how fast a GPU is, nor
how its arithmetic rounds.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import mmap
import platform
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import launcher

SOURCES = Path(__file__).with_name("gpu")
ORDERS = ("early", "late", "random")
ALL_SYMBOLS, DYNAMIC_SYMBOLS = 2, 11  # kinds of tables in an ELF file
OWN_HEADER = re.compile(r"#include .cupy/(complex|carray|atomics|float16|bfloat16).cuh.")
CUBLAS_NOT_SUPPORTED = 15
SONAMES = ("libcuda.so.1", "libcublas.so.13", "libcublasLt.so.13")


def unavailable_reason() -> str | None:
    """Why there can be no simulated GPU here, for a visible skip; None if there can."""
    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        return "a GPU is simulated on Linux and x86-64 only"
    if reason := launcher.unavailable_reason():
        return reason
    for module in ("cupy", "nvidia"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed, with which a GPU is simulated"
    if not (headers() / "cuda_runtime_api.h").exists():
        return f"no CUDA 13 headers in {headers()}, with which a GPU is simulated"
    return None


def start(order: str = "late") -> None:
    """Let CuPy find a GPU, in this process and for good; before anything has asked for one.

    Parameters
    ----------
    order : {"early", "late", "random"}
        When a stream does what it is asked for: at once, when somebody waits for it, or at random
        times, with blocks and threads in random order, too.
    """
    library = ctypes.CDLL(str(build()), ctypes.RTLD_GLOBAL)
    for name in SONAMES:
        ctypes.CDLL(str(cache_folder() / name))
    import cupy
    from cupy.cuda import _compiler_cache, compiler, thrust
    from cupy_backends.cuda.api import runtime

    redirect(Path(runtime.__file__).resolve(), library)
    cupy._core.set_routine_accelerators([])  # CUB's kernels are machine code
    cupy._core.set_reduction_accelerators([])
    own_cache = _compiler_cache.DiskKernelCacheBackend(str(cache_folder() / "cupy"))
    compiler._set_kernel_cache_backend(own_cache)  # no GPU shall ever see what is in there
    compile_for_gpu = compiler._compile_using_nvrtc_no_warning

    def compile_for_both(source: str, options: Sequence[str] = (), *args: Any, **more: Any) -> Any:
        _, names = compile_for_gpu(source, options, *args, **more)
        return bytes(compiled(source)) + b"\0", names

    compiler._compile_using_nvrtc_no_warning = compile_for_both
    thrust.sort, thrust.argsort = sort, argsort
    library.simulate(ORDERS.index(order))
    global simulated
    simulated = library, order


simulated: tuple[ctypes.CDLL, str]


class Counts(ctypes.Structure):
    """What has been asked for: copies from the device, waiting for it, launches."""

    _fields_ = tuple((name, ctypes.c_longlong) for name in ("reads", "waits", "launches", "graphs"))


def counts() -> dict[str, int]:
    library, _ = simulated
    now = Counts.in_dll(library, "simulated_counts")
    return {name: getattr(now, name) for name, _ in Counts._fields_}


@contextmanager
def streams(order: str) -> Iterator[None]:
    """Let streams work in another order meanwhile."""
    library, usual = simulated
    library.simulate(ORDERS.index(order))
    try:
        yield
    finally:
        library.simulate(ORDERS.index(usual))


def sort(dtype: Any, data: int, keys: int, shape: Sequence[int]) -> None:
    """In place of Thrust's, which is machine code."""
    wait()
    array_at(data, shape, dtype).sort(axis=-1)


def argsort(dtype: Any, index: int, data: int, keys: int, shape: Sequence[int]) -> None:
    wait()
    values = array_at(data, shape, dtype)
    array_at(index, shape, np.intp)[...] = values.argsort(axis=-1, kind="stable")
    values.sort(axis=-1)


def wait() -> None:
    import cupy

    cupy.cuda.get_current_stream().synchronize()


def array_at(address: int, shape: Sequence[int], dtype: Any) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


# ---- what is compiled ----------------------------------------------------------------------------


@functools.cache
def cache_folder() -> Path:
    """The hash covers all that decides what is in it, but the sources of kernels."""
    names = ("simulated_gpu.py", "launcher.py", *launcher.HEADERS)
    files = [SOURCES.with_name(name) for name in names]
    files += sorted([*SOURCES.rglob("*.?pp"), *SOURCES.rglob("*.h")])
    key = launcher.hashed(files, str(headers()), cupy_version())
    return launcher.cache_folder() / f"gpu-{key}"


def cupy_version() -> str:
    import cupy

    return str(cupy.__version__)


def headers() -> Path:
    package = importlib.util.find_spec("nvidia")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "cu13/include"


def build() -> Path:
    """Compile the library, and those that are nothing but another name of it."""
    library = cache_folder() / "libsimulated.so"
    if (cache_folder() / SONAMES[-1]).exists():  # the last one tells that all are there
        return library
    import cupy_backends

    (cublas,) = Path(cupy_backends.__path__[0]).glob("cuda/libs/cublas.*.so")
    wanted = [name for name, at in symbols(cublas, DYNAMIC_SYMBOLS) if not at]
    lines = ['extern "C" int simulate_nothing(const char*);']
    lines += [
        f'extern "C" __attribute__((weak, visibility("default"))) int {name}() '
        f'{{ simulate_nothing("{name}"); return {CUBLAS_NOT_SUPPORTED}; }}'
        for name in wanted
        if name.startswith("cublas")
    ]
    flags = ["-fvisibility=hidden", "-Wall", "-Werror", "-Wl,-soname,libsimulated.so"]
    flags += [f"-I{SOURCES}", "-isystem", str(headers()), str(SOURCES / "cuda.cpp")]
    launcher.compile_to(library, "\n".join(lines), *flags, str(SOURCES / "cublas.cpp"))
    for name in SONAMES:
        link = ("-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", f"-Wl,-soname,{name}", str(library))
        launcher.compile_to(cache_folder() / name, "", *link)
    return library


def compiled(source: str) -> Path:
    """Return a library with the source's kernels; see `launcher.load`."""
    if "cupy/carray.cuh" not in source:
        return launcher.compiled(launcher.translation_unit(source), *launcher.KERNEL_FLAGS)
    prelude = f"// CuPy {cupy_version()}\n{(SOURCES / 'cupy.hpp').read_text()}"
    text = launcher.translation_unit(OWN_HEADER.sub("", source), prelude)
    return launcher.compiled(text, *launcher.KERNEL_FLAGS, f"-I{cupy_headers()}")


def cupy_headers() -> Path:
    import cupy

    return Path(cupy.__path__[0]) / "_core/include"


# ---- where CuPy has CUDA's runtime in it ---------------------------------------------------------


def symbols(file: Path, kind: int) -> Iterator[tuple[str, int]]:
    """Yield the names in a table of an ELF file, and their addresses; 0 if they are elsewhere."""
    data = file.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 40)
    entry, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQI", data, table + i * entry) for i in range(count)]
    for _, found, _, _, begin, size, strings in sections:
        for at in range(begin, begin + size, 24) if found == kind else ():
            name, _, _, section, address, _ = struct.unpack_from("<IBBHQQ", data, at)
            text = sections[strings][4] + name
            yield data[text : data.index(0, text)].decode(), address if section else 0


def redirect(module: Path, library: ctypes.CDLL) -> None:
    """Make every function of CUDA's runtime in a loaded module jump to the library's.

    CuPy has the runtime in it, and not as a library of its own. Where ours lacks a function, that
    is said, and the call fails.
    """
    lines = Path("/proc/self/maps").read_text().splitlines()
    base = min(int(line.split("-")[0], 16) for line in lines if line.endswith(str(module)))
    protect = ctypes.CDLL(None).mprotect
    for name, offset in symbols(module, ALL_SYMBOLS):
        if not offset or not re.fullmatch("cuda[A-Z]((?!_pt[ds][sz]).)*", name):
            continue
        own = getattr(library, name, None)
        address = ctypes.cast(own or library.simulate_nothing, ctypes.c_void_p).value
        jump = struct.pack("<2sQ2s", b"\x48\xb8", address, b"\xff\xe0")
        if not own:  # with its name as the argument
            text = ctypes.create_string_buffer(name.encode())
            NAMES.append(text)
            jump = struct.pack("<2sQ", b"\x48\xbf", ctypes.addressof(text)) + jump
        page = (base + offset) // mmap.PAGESIZE * mmap.PAGESIZE
        if protect(ctypes.c_void_p(page), ctypes.c_size_t(2 * mmap.PAGESIZE), 7):
            raise OSError("the code of CuPy's module can't be written to")
        ctypes.memmove(base + offset, jump, len(jump))


NAMES: list[Any] = []  # machine code has their addresses

"""Launch CUDA C++ kernels on the CPU, on NumPy arrays.

    launcher = HostLauncher(seed=1)
    launcher.launch(source, "scale", (4, 1, 1), (32, 1, 1), [x, np.float32(2), np.int32(x.size)])

g++ compiles the source together with `fibers.hpp`, `cuda_shim.hpp` and `mma.hpp`. What a GPU would
let pass, or answer with a dead context, is an exception here: arguments that do not match the
parameters, writes beyond an array, threads that never meet at a barrier.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .guard import GuardedArrays

Argument = NDArray[Any] | np.generic | None
Dim3 = tuple[int, int, int]

HEADERS = ("fibers.hpp", "cuda_shim.hpp", "mma.hpp")
# -O1 is fastest for tests, compile and run together. No contraction: fused multiply-adds would
# make results differ from NumPy's.
GPP = ("g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-ffp-contract=off")
# No fortified longjmp: it takes a switch of fibers for an attack.
KERNEL_FLAGS = (
    *("-fvisibility=hidden", "-fno-strict-aliasing", "-fno-exceptions", "-fno-rtti"),
    *("-U_FORTIFY_SOURCE", "-w"),
)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s[^;{]*?\b(\w+)\s*\([^()]*\)\s*\{')
DYNAMIC_SHARED = re.compile(r"\bextern\s+__shared__\s+([^;\[]*?)(\w+)\s*\[\s*\]\s*;")
GRID_LIMIT: Dim3 = (2**31 - 1, 65535, 65535)
BLOCK_LIMIT: Dim3 = (1024, 1024, 64)
THREADS_LIMIT = 1024
SHARED_LIMIT = 227 * 1024  # on the newest GPUs, for kernels that ask for more than 48 KiB


class KernelError(RuntimeError):
    """A kernel does not compile, or breaks a rule."""


@dataclass(frozen=True)
class Kernel:
    run: Callable[..., bytes]
    parameters: tuple[str, ...]
    """One code each: `f4` is a float, `*i8` a pointer to 64-bit integers, `??` a struct or void."""


class HostLauncher:
    """Launches kernels block after block; each thread runs until it has to wait for others.

    A `seed` shuffles the blocks, and the threads wherever no barrier orders them: a race shows as
    a wrong number for some seed, and shows again for the same seed. With `guard`, a kernel runs on
    copies of its arrays between guard zones, and its arrays change only if it kept out of these.
    """

    def __init__(self, seed: int | None = None, *, guard: bool = True) -> None:
        self.seed = seed
        self.guard = guard

    def launch(
        self,
        source: str,
        name: str,
        grid: Dim3,
        block: Dim3,
        args: Sequence[Argument],
        shared: int = 0,
    ) -> None:
        """Run one kernel to its end.

        An array is passed as the address of its data, None as a null pointer, a NumPy scalar by
        value. Nothing is converted: a type that differs from the parameter's is a TypeError.
        """
        check_limits(grid, block, shared)
        kernel = find_kernel(source, name)
        check_arguments(name, kernel.parameters, args)
        arrays = {i: arg for i, arg in enumerate(args) if isinstance(arg, np.ndarray)}
        addresses = {i: array.ctypes.data for i, array in arrays.items()}
        guarded = GuardedArrays(arrays, addresses) if self.guard else None
        values = pack(args, guarded.addresses if guarded else addresses)
        slots = (ctypes.c_char_p * len(values))(*values)
        order = self._block_order(math.prod(grid))
        failure = kernel.run(*grid, *block, shared, order, (self.seed or 0) % 2**64, slots)
        seed = "" if self.seed is None else f" (seed {self.seed})"
        if failure:
            raise KernelError(f"kernel {name!r}{seed}, {failure.decode()}")
        if guarded:
            violation = guarded.violation()
            if violation:
                raise KernelError(f"kernel {name!r}{seed} {violation}")
            guarded.copy_back()

    def _block_order(self, blocks: int) -> bytes | None:
        if self.seed is None:
            return None
        return np.random.default_rng(self.seed).permutation(blocks).astype(np.uint32).tobytes()


def check_limits(grid: Dim3, block: Dim3, shared: int) -> None:
    """Refuse what every GPU refuses."""
    for what, sizes, limits in (("grid", grid, GRID_LIMIT), ("block", block, BLOCK_LIMIT)):
        if not all(1 <= size <= limit for size, limit in zip(sizes, limits, strict=True)):
            raise ValueError(f"{what} {sizes} is not within 1 and {limits}")
    if math.prod(block) > THREADS_LIMIT:
        raise ValueError(f"block {block} has more than {THREADS_LIMIT} threads")
    if not 0 <= shared <= SHARED_LIMIT:
        raise ValueError(f"{shared} bytes of dynamic shared memory are not within {SHARED_LIMIT}")


def check_arguments(name: str, parameters: Sequence[str], args: Sequence[Argument]) -> None:
    """Refuse what a GPU would reinterpret: it copies arguments byte by byte, and reads on."""
    if len(args) != len(parameters):
        raise TypeError(f"kernel {name!r} takes {len(parameters)} arguments, not {len(args)}")
    for index, (parameter, arg) in enumerate(zip(parameters, args, strict=True)):
        if isinstance(arg, np.ndarray):
            if not arg.flags.c_contiguous:
                raise ValueError(f"argument {index} of kernel {name!r} is not C-contiguous")
            given = "*" + type_code(arg.dtype)
        elif arg is None:
            given = "*??"
        else:
            given = type_code(arg.dtype)
        anything = "*??" in (given, parameter) and parameter[0] == given[0]
        if given != parameter and not anything:
            raise TypeError(
                f"argument {index} of kernel {name!r} is {spell(given)}, "
                f"its parameter is {spell(parameter)}"
            )


@functools.cache
def type_code(dtype: np.dtype[Any]) -> str:
    """As `fibers.hpp` codes the types of parameters; signed and unsigned integers are alike."""
    return ("i" if dtype.kind in "iub" else dtype.kind) + str(dtype.itemsize)


def spell(code: str) -> str:
    if code.startswith("*"):
        return f"a pointer to {spell(code[1:])}"
    return "anything" if code == "??" else np.dtype(code).name


def pack(args: Sequence[Argument], addresses: Mapping[int, int]) -> list[bytes]:
    """Every argument as its bytes, of which a launch gets the addresses."""
    return [
        arg.tobytes()
        if isinstance(arg, np.generic)
        else addresses.get(index, 0).to_bytes(8, sys.byteorder)
        for index, arg in enumerate(args)
    ]


# ---- compilation ---------------------------------------------------------------------------------


def unavailable_reason() -> str | None:
    """Why no kernel can run here, for a visible skip; None if they can."""
    if not sys.platform.startswith("linux"):
        return "the shim runs on Linux only"
    return None if shutil.which("g++") else "no g++ on the path"


@functools.cache
def find_kernel(source: str, name: str) -> Kernel:
    library = load(source)
    if name not in kernel_names(source):
        raise ValueError(f"no kernel {name!r} in the source, only {kernel_names(source)}")
    signature = library[f"signature_{name}"]
    signature.restype = ctypes.c_char_p
    run = library[f"launch_{name}"]
    run.restype = ctypes.c_char_p
    run.argtypes = [*[ctypes.c_uint] * 7, ctypes.c_char_p, ctypes.c_ulonglong, ctypes.c_void_p]
    return Kernel(run, tuple(signature().decode().split()))


def kernel_names(source: str) -> list[str]:
    return KERNEL.findall(COMMENT.sub(" ", source))


@functools.cache
def load(source: str) -> ctypes.PyDLL:
    """PyDLL keeps the interpreter lock: a library has fibers for one launch at a time."""
    return ctypes.PyDLL(str(compiled(translation_unit(source), *KERNEL_FLAGS)))


def compiled(text: str, *flags: str, included: Iterable[Path] = ()) -> Path:
    """Return a library of a source, which may have been compiled before.

    The hash covers all that decides the binary, so that a cached one is never stale.
    """
    library = cache_folder() / f"{hashed(included, text, *flags)}.so"
    if not library.exists():
        compile_to(library, text, *flags)
    return library


def hashed(files: Iterable[Path], *texts: str) -> str:
    """A name for what g++ makes of these."""
    return hash_of(*(file.read_text() for file in files), *texts, *GPP, compiler_version())


def hash_of(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def translation_unit(source: str, prelude: str | None = None) -> str:
    """Put a source behind the shim; one with headers of its own behind their prelude, too."""
    here = Path(__file__).parent
    headers = (f'#line 1 "{name}"\n{(here / name).read_text()}' for name in HEADERS)
    body = DYNAMIC_SHARED.sub(r"\1* const \2 = host::DynamicShared();", source)
    body = f'#line 1 "kernel.cu"\n{body}'
    entries = (f"HOST_KERNEL({name})" for name in kernel_names(source))
    whole = ("namespace {", body, "}") if prelude is None else (prelude, body)
    return "\n".join((*headers, *whole, *entries, ""))


def compile_to(library: Path, text: str, *flags: str) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when complete: processes that test in parallel may want it at once.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [*GPP, *flags, "-x", "c++", "-", "-o", str(made)]
        english = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(command, input=text, capture_output=True, text=True, env=english)
        if done.returncode:
            raise KernelError(f"the source does not compile:\n{done.stderr}")
        made.replace(library)


@functools.cache
def compiler_version() -> str:
    command = ["g++", "-dumpfullversion", "-dumpmachine"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def cache_folder() -> Path:
    chosen = os.environ.get("BACKPROP_GPU_HOST_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "backprop_gpu/host"

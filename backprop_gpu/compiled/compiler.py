"""From C++ source to a loaded library: the system's compiler, and a cache on the disk.

A library is found by a hash of all that decides its bits: the source, the flags, the compiler and
its version, the processor. It is loaded only from a folder and a file that are this user's alone,
for loading runs it.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NO_COMPILER = "no C++ compiler was found; install g++ or clang++, or set CXX"


class CompileError(RuntimeError, ValueError):
    """The C++ compiler is missing, or refuses the source."""


@contextmanager
def or_numpy(*, insists: bool, stacklevel: int) -> Iterator[None]:
    """Warn that NumPy runs what the compiler refuses here; raise if somebody insists on it."""
    try:
        yield
    except CompileError as error:
        if insists:
            raise
        message = f"{error}; NumPy runs the steps instead"
        warnings.warn(message, stacklevel=stacklevel + 2)  # two more: this one, and contextlib's


# Values that are not finite have to be seen, and rounding has to stay where it is written: no
# -ffast-math. What is given up is errno and the flags of floating-point exceptions. Packing scalars
# into vectors (slp) made the textbook's steps 7% slower.
FLAGS = (
    *("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fno-tree-slp-vectorize", "-fno-exceptions", "-fno-rtti"),
    *("-fPIC", "-shared", "-pthread", "-w"),
)
CACHE_LINE = 64  # or a multiple of the processor's
NATIVE = ("-march=native",)  # not every compiler knows it for every processor


def compiler() -> tuple[str, ...] | None:
    """Return the command of the C++ compiler: $CXX, or else what PATH has; None if nothing."""
    return _found(os.environ.get("CXX", ""), os.environ.get("PATH", ""))


@cache  # the search takes as long as thousands of small steps
def _found(chosen: str, path: str) -> tuple[str, ...] | None:
    if os.name != "posix":
        return None
    for command in (shlex.split(chosen), ["c++"], ["g++"], ["clang++"]):
        if command and (found := shutil.which(command[0], path=path)):
            return (found, *command[1:])
    return None


def load(source: str) -> ctypes.CDLL:
    """Return the library of a source, compiled now or before.

    Raises
    ------
    CompileError
        With what the compiler says, if there is one.
    """
    command = compiler()
    if command is None:
        raise CompileError(NO_COMPILER)
    return _loaded(source, command, _folder())


@lru_cache(32)  # with hashing and a look at the file, it takes as long as a few hundred small steps
def _loaded(source: str, command: tuple[str, ...], folder: Path) -> ctypes.CDLL:
    identity = (source, *command, *FLAGS, *NATIVE, _version(command), _processor())
    library = folder / (hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32] + ".so")
    if not _is_ours(library):
        _compile(source, command, library)
    return ctypes.CDLL(str(library))


def zeros(size: int) -> NDArray[np.uint8]:
    """Return bytes for a library to work with; they begin where a cache line does."""
    space = np.zeros(size + CACHE_LINE, np.uint8)
    start = -space.ctypes.data % CACHE_LINE
    return space[start : start + size]


def _compile(source: str, command: tuple[str, ...], library: Path) -> None:
    # Written beside its place and moved: two processes may do this at once.
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".making-") as folder:
        made = Path(folder) / library.name
        message = ""
        for flags in ((*FLAGS, *NATIVE), FLAGS):
            done = subprocess.run(
                [command[0], *flags, *command[1:], "-x", "c++", "-", "-o", str(made)],
                input=source,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                made.chmod(0o700)
                made.replace(library)
                return
            message = message or done.stderr
    raise CompileError(f"{command[0]} could not compile the network:\n{message[:2000]}")


def _folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _usable(os.environ.get("BACKPROP_GPU_CACHE") or f"{home}/backprop_gpu")


@cache
def _usable(chosen: str) -> Path:
    """Return the folder, made if need be, or one for this process where that can't be used."""
    with suppress(OSError, RuntimeError):  # read-only, or no home
        folder = Path(chosen).expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    temporary = tempfile.TemporaryDirectory(prefix="backprop_gpu-")
    atexit.register(temporary.cleanup)
    return Path(temporary.name)


def _is_ours(path: Path) -> bool:
    """Return whether a file or folder is there, this user's, and nobody else can write to it."""
    with suppress(OSError):
        status = path.lstat()
        return status.st_uid == os.getuid() and not status.st_mode & 0o022
    return False


@cache
def _version(command: tuple[str, ...]) -> str:
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return done.stdout


@cache
def _processor() -> str:
    """Return what -march=native looks at, as far as it can be read."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        kept = ("vendor", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
        return "\n".join(line for line in lines if line.startswith(kept))
    return f"{platform.machine()} {platform.processor()}"

"""Compile CUDA sources for real GPUs, where there is none: NVRTC needs neither GPU nor driver.

`pip install nvidia-cuda-nvrtc` is all it takes. The library is called through ctypes: a few
functions of its C interface, no headers.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

from backprop_gpu.backends.cupy_device import OPTIONS

from .launcher import cache_folder, hash_of

# What CuPy puts behind whatever options it is given. NVRTC before 13.2 needs the second one, to
# take the lambdas of a kernel for functions of the device.
OF_CUPY = ("-ftz=true", "--device-as-default-execution-space")
RESOURCES = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)


class CompileError(AssertionError):
    """A source does not compile, or its kernels keep local variables in memory."""


def nvrtc_unavailable_reason() -> str | None:
    """Why nothing can be compiled here, for a visible skip; None if it can."""
    try:
        nvrtc()
    except OSError as error:
        return f"NVRTC is missing (pip install nvidia-cuda-nvrtc): {error}"
    return None


def compile_for(source: str, arch: int, name_hint: str = "kernel") -> str:
    """The log of compiling for sm_`arch`; CompileError if registers do not hold every variable.

    The log may be of an earlier run: it is kept by a hash of all that decides it.
    """
    target = f"--gpu-architecture=sm_{arch}"
    options = (*OPTIONS, *OF_CUPY, target, "--ptxas-options=-v")
    known = cache_folder() / "nvrtc" / f"{hash_of(source, *options, identity())}.log"
    is_known = known.exists()
    log = known.read_text() if is_known else compile_now(source, options, arch, name_hint)
    usage = RESOURCES.findall(log)
    if not usage:
        raise CompileError(f"the log of {name_hint} for sm_{arch} names no kernel:\n{log}")
    if any(int(number) for numbers in usage for number in numbers):
        raise CompileError(f"{name_hint} spills or has a stack frame on sm_{arch}:\n{log}")
    if not is_known:
        known.parent.mkdir(parents=True, exist_ok=True)
        made = known.with_suffix(f".{os.getpid()}")  # processes that test in parallel write it, too
        made.write_text(log)
        made.replace(known)
    return log


def compile_now(source: str, options: Sequence[str], arch: int, name_hint: str) -> str:
    """The log of compiling; CompileError if the source is no CUDA C++."""
    encoded = [option.encode() for option in options]
    library = nvrtc()
    program = ctypes.c_void_p()
    check(
        library.nvrtcCreateProgram(
            ctypes.byref(program), source.encode(), f"{name_hint}.cu".encode(), 0, None, None
        )
    )
    try:
        status = library.nvrtcCompileProgram(
            program, len(encoded), (ctypes.c_char_p * len(encoded))(*encoded)
        )
        log = program_log(program)
    finally:
        check(library.nvrtcDestroyProgram(ctypes.byref(program)))
    if status:
        raise CompileError(f"{name_hint} does not compile for sm_{arch}:\n{log}")
    return log


def program_log(program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    check(nvrtc().nvrtcGetProgramLogSize(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    check(nvrtc().nvrtcGetProgramLog(program, text))
    return text.value.decode()


def check(status: int) -> None:
    if status:
        raise CompileError(f"NVRTC: {nvrtc().nvrtcGetErrorString(status).decode()}")


@functools.cache
def nvrtc() -> ctypes.CDLL:
    library = ctypes.CDLL(library_path())
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def identity() -> str:
    """What tells one NVRTC from another: its file, or, of the system's, the version it says."""
    path = Path(library_path())
    if path.exists():
        return f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}"
    major, minor = ctypes.c_int(), ctypes.c_int()
    check(nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def library_path() -> str:
    """The newest of NVIDIA's pip packages, which share the folder `nvidia`; else the system's."""
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations if package else None
    found = [p for folder in folders or () for p in Path(folder).glob("*/lib/libnvrtc.so.*")]
    return str(max(found, key=lambda path: path.name)) if found else "libnvrtc.so"

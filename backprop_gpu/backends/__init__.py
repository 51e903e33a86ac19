"""Where arrays live: NumPy on the CPU, CuPy on an NVIDIA GPU."""

from __future__ import annotations

import re
from typing import get_args

from backprop_gpu.backends.mkl import is_intels, open_mkl
from backprop_gpu.backends.numpy_backend import NumpyBackend
from backprop_gpu.backends.protocol import Backend, Precision
from backprop_gpu.errors import DeviceError, DomainError, UnknownNameError

__all__ = ["Backend", "NumpyBackend", "Precision", "choose_backend"]


def choose_backend(
    device: str | Backend, threads: int | None = None, precision: Precision = "float32"
) -> tuple[Backend, str]:
    """Return the backend for a device, and why it is this one.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:N"} or Backend
        "auto" takes the GPU if there is a usable one, else the CPU. Only "auto" falls back.
    threads : int, optional
        How many threads compute on the CPU, at most.
    precision : {"float32", "tf32", "bf16"}
        How float32 matrices are multiplied. The CPU has float32 alone.

    Raises
    ------
    DomainError
        If the device doesn't have the precision, or is a backend with other threads.
    DeviceError
        If a GPU was asked for and none can be used: with the reason and the remedy.
    """
    if precision not in get_args(Precision):
        raise UnknownNameError("precision", precision, get_args(Precision))
    backend, reason = _chosen(device, threads, precision)
    has = backend.precision
    if precision not in ("float32", has):
        raise DomainError(
            f"precision={precision!r} is not to be had on {backend.device} ({reason}); it takes "
            "device='cuda', or leave it out"
        )
    return backend, reason


def _chosen(
    device: str | Backend, threads: int | None, precision: Precision
) -> tuple[Backend, str]:
    if not isinstance(device, str):
        if hasattr(device, "gemm"):
            if threads is not None and threads != device.threads:
                raise DomainError(
                    f"threads is {threads!r}, and device is a backend, whose threads are "
                    f"{device.threads}; leave threads out, or on the CPU give "
                    f"NumpyBackend(threads={threads!r})"
                )
            return device, "given as a backend"
        raise DeviceError(f"device is {device!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if device == "cpu":
        return _cpu(threads, "device='cpu' was asked for")
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", device)
    if match is None:
        raise DeviceError(
            f"unknown device {device!r}; choose 'auto', 'cpu', 'cuda', or 'cuda:N' for the Nth GPU"
        )

    from backprop_gpu.backends.cupy_device import open_gpu, unusable  # imports CuPy when called

    index = int(match.group(1) or 0)
    reason = unusable(index)
    if reason is None:
        return open_gpu(index, precision), f"CUDA device {index} passed every check"
    if device == "auto":
        return _cpu(threads, f"no usable GPU: {reason}")
    raise DeviceError(f"device={device!r} can't be used: {reason}")


def _cpu(threads: int | None, reason: str) -> tuple[Backend, str]:
    mkl = open_mkl()
    if mkl is None:
        return NumpyBackend(threads), reason
    # Steps of 784-4096-4096-4096-10 with 1,024 samples took MKL 1.2 times as long. (Two cores of a
    # fourth-generation EPYC, 22 November 2026, MKL 2026.2 and OpenBLAS 0.3.31.)
    if not is_intels():
        return NumpyBackend(threads), f"{reason}; MKL is left out: the processor is not Intel's"
    return NumpyBackend(threads, mkl), f"{reason}; MKL multiplies"

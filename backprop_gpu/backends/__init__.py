"""Where arrays live: NumPy on the CPU, CuPy on an NVIDIA GPU."""

from __future__ import annotations

import re

from backprop_gpu.backends.numpy_backend import NumpyBackend
from backprop_gpu.backends.protocol import Backend
from backprop_gpu.errors import DeviceError

__all__ = ["Backend", "NumpyBackend", "choose_backend"]


def choose_backend(device: str | Backend, threads: int | None = None) -> tuple[Backend, str]:
    """Return the backend for a device, and why it is this one.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "cuda:N"} or Backend
        "auto" takes the GPU if there is a usable one, else the CPU. Only "auto" falls back.
    threads : int, optional
        How many threads compute on the CPU, at most.

    Raises
    ------
    DeviceError
        If a GPU was asked for and none can be used: with the reason and the remedy.
    """
    if not isinstance(device, str):
        if hasattr(device, "gemm"):
            return device, "given as a backend"
        raise DeviceError(f"device is {device!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if device == "cpu":
        return NumpyBackend(threads), "device='cpu' was asked for"
    match = re.fullmatch(r"auto|cuda(?::(\d+))?", device)
    if match is None:
        raise DeviceError(
            f"unknown device {device!r}; choose 'auto', 'cpu', 'cuda', or 'cuda:N' for the Nth GPU"
        )

    from backprop_gpu.backends.cupy_device import open_gpu, unusable  # imports CuPy when called

    index = int(match.group(1) or 0)
    reason = unusable(index)
    if reason is None:
        return open_gpu(index), f"CUDA device {index} passed every check"
    if device == "auto":
        return NumpyBackend(threads), f"no usable GPU: {reason}"
    raise DeviceError(f"device={device!r} can't be used: {reason}")

"""The CUDA backend on the CPU: the shipped launch code and kernels, with NumPy in CuPy's place."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from backprop_gpu.backends.cuda_backend import CudaBackend
from backprop_gpu.optimizers import numbers_of

from .launcher import HostLauncher


def emulated_backend(
    seed: int | None = None, *, launcher: HostLauncher | None = None, precision: Any = "float32"
) -> CudaBackend:
    """A `CudaBackend` whose kernels run under the shim; a `seed` shuffles threads and blocks."""
    quiet = partial(np.errstate, all="ignore")
    launcher = launcher or HostLauncher(seed)
    return CudaBackend(np, launcher, "cuda:0", quiet, precision=precision)


def update_numbers(optimizer: Any, learning_rate: float, step: int, dtype: Any) -> Any:
    """What an optimizer has to know in a step, counted from 1; see `Backend.update`."""
    optimizer = replace(optimizer, learning_rate=learning_rate)
    return numbers_of(optimizer, range(step - 1, step), np.zeros(1))[0].astype(dtype)

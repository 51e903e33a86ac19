"""A device with streams, on the CPU, where what nobody waits for comes at the worst time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from backprop_gpu.backends.cuda_backend import CudaBackend
from backprop_gpu.backends.cupy_device import CopyStream


class StreamDevice:
    """Stands for CuPy and its kernels: those that gather.

    Parameters
    ----------
    late : {"computing", "copying", None}
        Which streams do nothing before somebody waits for it: the one that is there, or those
        that are made. All others do at once what they are asked for.
    """

    def __init__(self, late: str | None = None) -> None:
        self.lock = threading.RLock()
        self.thread = threading.local()
        self.null = Stream(self, late == "computing")
        self.cuda = SimpleNamespace(
            Stream=lambda non_blocking: Stream(self, late == "copying"),
            get_current_stream=lambda: getattr(self.thread, "stream", self.null),
        )

    def backend(self) -> CudaBackend:
        uploads = partial(CopyStream, nullcontext)
        return CudaBackend(self, self, "cuda:0", nullcontext, uploads=uploads)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        array = np.zeros(shape, dtype).view(DeviceArray)
        array.owner = self.cuda.get_current_stream()
        return array

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def asarray(self, values: Any) -> Any:
        return values

    def ascontiguousarray(self, array: Any, dtype: Any) -> Any:
        return array.astype(dtype, copy=False)

    def launch(self, source: str, name: str, grid: Any, block: Any, args: Any) -> None:
        assert name == "gather"
        rows, index, out, *_ = args
        gather = partial(np.take, rows, index, 0, out, "clip")
        self.cuda.get_current_stream().ask(gather)


class DeviceArray(np.ndarray):  # type: ignore[type-arg]
    """Is written to by streams; `owner` is the one that was current when it was allocated."""

    owner: Stream
    __cuda_array_interface__: ClassVar[dict[str, Any]] = {}

    def __array_finalize__(self, other: Any) -> None:
        self.owner = getattr(other, "owner", None)

    def set(self, values: Any, stream: Stream) -> None:
        stream.ask(partial(np.copyto, self, values))

    def __setitem__(self, where: Any, values: Any) -> None:
        self[where].set(values, self.owner.device.cuda.get_current_stream())


class Stream:
    """Does one thing after the other: at once, or, if it is `late`, when it is waited for."""

    def __init__(self, device: StreamDevice, late: bool) -> None:
        self.device, self._late = device, late
        self._asked: list[Callable[[], Any]] = []
        self._done = 0

    def ask(self, work: Callable[[], Any]) -> None:
        with self.device.lock:
            self._asked.append(work)
            if not self._late:
                self.synchronize()

    def record(self) -> Callable[[], None]:
        """Return an event: what is called by those that wait for it."""
        return partial(self._reach, len(self._asked))

    def wait_event(self, event: Callable[[], None]) -> None:
        self.ask(event)

    def synchronize(self) -> None:
        self._reach(len(self._asked))

    def _reach(self, count: int) -> None:
        with self.device.lock:
            while self._done < count:
                self._done += 1
                self._asked[self._done - 1]()

    def __enter__(self) -> None:
        self._before = self.device.cuda.get_current_stream()
        self.device.thread.stream = self

    def __exit__(self, *_: object) -> None:
        self.device.thread.stream = self._before

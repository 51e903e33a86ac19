"""A background thread that makes things before they are asked for."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Semaphore, Thread
from typing import TypeVar

T = TypeVar("T")

# A thread that is stuck in somebody's read is left behind after so many seconds. It does not keep
# the process alive, and ends by itself when the read does.
PATIENCE = 5.0


class _End:
    """The last thing that the thread hands over: what ended it, if that was an exception."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetched(items: Generator[T, None, None], alive: int) -> Generator[T, None, None]:
    """Go through a generator in a background thread, ahead of whoever goes through the result.

    Parameters
    ----------
    items : generator
        Runs in the thread alone, and is closed there. What it raises is raised here, with its
        traceback.
    alive : int
        The most items there are at a time: the one in use, those that wait, the one being made.
        Item k + `alive` is begun only when item k is done with, so that it can have its memory.
    """
    places: Semaphore = Semaphore(alive)
    ready: SimpleQueue[T | _End] = SimpleQueue()
    stopped = Event()

    def run() -> None:
        end = _End()
        try:
            while places.acquire() and not stopped.is_set():
                ready.put(next(items))
        except StopIteration:
            pass
        except BaseException as error:
            end = _End(error)
        try:
            items.close()
        except BaseException as error:
            end = _End(end.error or error)
        ready.put(end)

    thread = Thread(target=run, name="backprop_gpu-data", daemon=True)
    thread.start()
    try:
        while not isinstance(item := _next_of(ready), _End):
            yield item
            places.release()
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        places.release()
        thread.join(PATIENCE)


def _next_of(queue: SimpleQueue[T]) -> T:
    """Wait for an item, and for Ctrl-C: Python sees none that comes just before a wait begins."""
    while True:
        with suppress(Empty):
            return queue.get(timeout=1)

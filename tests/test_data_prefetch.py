"""The background thread: ahead, but not far; what goes wrong in it arrives; it always ends."""

import os
import signal
import threading
import time
import traceback
from contextlib import closing

import pytest

from backprop_gpu.data import prefetch
from backprop_gpu.data.prefetch import prefetched


def threads():
    return [t for t in threading.enumerate() if t.name == "backprop_gpu-data"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def counted(n, made):
    for i in range(n):
        made.append(i)
        yield i


def test_gives_what_the_generator_gives():
    assert list(prefetched(counted(100, []), 3)) == list(range(100))
    assert list(prefetched(counted(0, []), 3)) == []


@pytest.mark.parametrize("alive", [1, 2, 4])
def test_makes_things_before_they_are_asked_for_and_no_more_than_are_allowed(alive):
    made = []
    with closing(prefetched(counted(100, made), alive)) as items:
        for item in range(3):
            assert next(items) == item
            wait_until(lambda item=item: len(made) == item + alive)
            time.sleep(0.01)
            assert len(made) == item + alive


def test_memory_can_be_used_in_turn():
    def filled():
        memory = [[None], [None]]
        for i in range(200):
            memory[i % 2][0] = i
            yield memory[i % 2]

    for i, item in enumerate(prefetched(filled(), 2)):
        time.sleep(0 if i % 50 else 0.01)
        assert item == [i]


def test_an_exception_arrives_in_its_turn_with_its_traceback():
    def failing():
        yield 1
        raise_in_the_thread()

    def raise_in_the_thread():
        raise OSError("the disk is gone")

    items = prefetched(failing(), 5)
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is gone") as caught:
        next(items)
    assert "raise_in_the_thread" in [frame.name for frame in traceback.extract_tb(caught.tb)]


def test_a_generator_that_is_never_started_starts_no_thread():
    prefetched(counted(3, []), 2)
    assert not threads()


@pytest.mark.parametrize("taken", [1, 2, 50])
def test_closing_ends_the_thread_and_closes_the_generator_there(taken):
    closed_by = []

    def open_file():
        try:
            yield from range(100)
        finally:
            closed_by.append(threading.current_thread().name)

    items = prefetched(open_file(), 3)
    for _ in range(taken):
        next(items)
    items.close()
    assert not threads()
    assert closed_by == ["backprop_gpu-data"]


def test_an_exception_of_whoever_uses_the_items_ends_the_thread():
    def use():
        with closing(prefetched(counted(100, []), 3)) as items:
            for _ in items:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert not threads()


def test_control_c_ends_the_wait_for_a_source_that_is_stuck(monkeypatch):
    monkeypatch.setattr(prefetch, "PATIENCE", 0.05)
    stuck = threading.Event()

    def never():
        stuck.wait(60)
        yield

    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(prefetched(never(), 2))
    assert time.monotonic() - started < 30
    (left,) = threads()
    assert left.daemon  # the process can end without it
    stuck.set()
    left.join(10)
    timer.join()

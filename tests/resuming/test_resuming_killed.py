"""Processes that are killed, and disks that are full."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
from small_runs import (
    EPOCHS,
    network,
    resumed,
    steps_in,
    train,
    uninterrupted,
)

import backprop_gpu as bp
from backprop_gpu.saving import read

# Stops, for good, in the n-th call of a function of os, or of a callback.
CHILD = """
import os, sys, time
import numpy as np
import backprop_gpu as bp

folder, what, count, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
where = what.removeprefix("half ")
real, calls = getattr(os, where, lambda epoch: None), []


def stop(*arguments, **options):
    calls.append(arguments)
    if len(calls) == count:
        if what == "half fsync":
            os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
        print("here", flush=True)
        for _ in range(60_000):  # one long sleep would not see a signal from just before it
            time.sleep(0.01)
    return real(*arguments, **options)


setattr(os, where, stop)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
net = bp.MLP((3, 5, 2), ["tanh", "identity"], device="cpu", seed=1)
bp.train(net, x, y, optimizer=bp.Adam(0.05), batch_size=6, epochs=epochs, checkpoint=folder,
         checkpoint_every=0.5, callbacks=[os.callback] if what == "callback" else [])
"""


def child(folder, what="nothing", count=0, epochs=EPOCHS):
    arguments = [sys.executable, "-c", CHILD, folder, what, count, epochs]
    return subprocess.Popen(
        list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


MOMENTS = [
    ("half fsync", 1),  # half of the first file is written
    ("half fsync", 9),  # half of a later one: there are two calls a checkpoint
    ("fsync", 9),  # all of it, but nobody knows whether it is on the disk
    ("fsync", 10),  # it has its name, and the folder is about to be flushed
    ("replace", 1),  # the very first is about to get its name
    ("replace", 6),
    ("unlink", 8),  # an old one is about to go
    ("callback", 3),
]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    ("number", "what", "count"),
    [
        *((signal.SIGKILL, *moment) for moment in MOMENTS),
        *((signal.SIGTERM, *moment) for moment in MOMENTS[2:6:3]),
        *((signal.SIGINT, *moment) for moment in MOMENTS[2:6:3]),
    ],
    ids=str,
)
def test_killed_at_a_bad_moment(number, what, count, tmp_path):
    with child(tmp_path, what, count) as process:
        try:
            assert process.stdout.readline() == "here\n", process.stderr.read()
            process.send_signal(number)
            process.wait(60)
        finally:
            process.kill()
        assert process.returncode
    for file in tmp_path.glob("step-*"):
        read(file, device="cpu")  # those that have a name are whole
    if number == signal.SIGKILL and what in ("half fsync", "replace"):
        assert list(tmp_path.glob(".saving-*"))
    assert resumed(tmp_path, checkpoint_every=0.5) == uninterrupted()
    assert not list(tmp_path.glob(".saving-*"))


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("step", [2, 30])
def test_killed_at_any_moment(step, tmp_path):
    epochs = 400
    with child(tmp_path, epochs=epochs) as process:
        try:
            end = time.monotonic() + 60
            while not any(done >= step for done in steps_in(tmp_path)):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.002)
        finally:
            process.kill()
    assert steps_in(tmp_path)[-1] < 4 * epochs
    assert resumed(tmp_path, epochs=epochs, checkpoint_every=50) == uninterrupted(epochs=epochs)


# ---- disks that are full -------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails(call, reason, tmp_path, monkeypatch):
    real, calls = getattr(os, call), []

    def fails(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 5:
            raise OSError(reason, os.strerror(reason))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(bp.FileFormatError, match=f"step-.*{os.strerror(reason)}"):
            train(network(), tmp_path, checkpoint_keep=2)
    assert len(steps_in(tmp_path)) == 2
    assert not list(tmp_path.glob(".saving-*"))
    assert resumed(tmp_path) == uninterrupted()


@pytest.mark.skipif(os.name == "nt", reason="resource limits")
def test_a_file_that_the_system_cuts_off(tmp_path):
    limit = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
callbacks = [lambda epoch: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
             if epoch.number == 2 else None]
"""
    code = CHILD.replace('[os.callback] if what == "callback" else []', "callbacks")
    code = code.replace("net = bp", limit + "net = bp")
    arguments = [sys.executable, "-c", code, str(tmp_path), "nothing", "0", str(EPOCHS)]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert "FileFormatError" in ended.stderr
    assert os.strerror(errno.EFBIG) in ended.stderr
    assert steps_in(tmp_path)[-1] == 10
    assert not list(tmp_path.glob(".saving-*"))
    assert resumed(tmp_path, checkpoint_every=0.5) == uninterrupted()

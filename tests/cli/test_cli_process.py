"""The command line as a process: interrupted, cut off, with little installed."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from command_line import QUICK, run

import backprop_gpu as bp


def process(*args, **options):
    return subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, **options
    )


def test_as_a_module(here):
    done = process("-m", "backprop_gpu", "train", "data.npz", *QUICK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = process("-m", "backprop_gpu", "train", "data.npz", *QUICK, "--layers", "x")
    assert done.returncode == 2
    assert "see backprop-gpu train --help" in done.stderr


def test_without_click():
    done = process(
        "-c",
        "import sys; sys.modules['click'] = None;from backprop_gpu.__main__ import main; main()",
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert 'pip install "backprop-gpu[cli]"' in done.stderr


def test_info_needs_no_further_extra():
    absent = ["safetensors", "pyarrow", "tqdm", "matplotlib", "sklearn", "threadpoolctl"]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}));"
        "sys.argv = ['backprop-gpu', 'info']; from backprop_gpu.__main__ import main; main()"
    )
    done = process("-c", script)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing on Windows")
def test_interrupted(here):
    command = [sys.executable, "-m", "backprop_gpu", "train", "data.npz", "-o", "net.safetensors"]
    command += ["--epochs", "100000000"]
    termios = pytest.importorskip("termios")
    terminal, end = os.openpty()  # there is a progress bar on a terminal that has room for it
    termios.tcsetwinsize(end, (24, 100))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end) as child:
        os.close(end)
        errors = ""
        while "loss" not in errors:
            errors += os.read(terminal, 1000).decode()
        child.send_signal(signal.SIGINT)
        with suppress(OSError):  # the other end is closed
            while more := os.read(terminal, 1000).decode():
                errors += more
        child.wait(20)
    os.close(terminal)
    errors = errors.replace("\r\n", "\n")
    assert child.returncode == 130
    assert "Traceback" not in errors
    assert "Error: interrupted.\nThe network as it was then is in net.safetensors" in errors
    assert np.isfinite(bp.load("net.safetensors", device="cpu").parameters).all()


def test_a_reader_that_stops_reading(here):
    run("train", "data.npz", *QUICK)
    np.save("many.npy", np.zeros((100_000, 4)))  # more than a pipe holds
    command = [sys.executable, "-m", "backprop_gpu", "predict", "net.safetensors", "many.npy"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env={**os.environ, "PYTHONUNBUFFERED": ""}) as child:
        assert child.stdout.readline() == b"y\n"
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(20) == 1

"""Where and in what a test computes: `backend` and `dtype` run it on each of them.

A backend that is missing here skips its tests, and pytest's summary says why.
"""

import os
import signal
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
from host import simulated_gpu
from host.backend import emulated_backend
from host.launcher import cache_folder, unavailable_reason

from backprop_gpu import backends
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.backends.cupy_device import open_gpu, unusable


def pytest_addoption(parser):
    parser.addoption(
        "--simulate-gpu",
        choices=simulated_gpu.ORDERS,
        help="run tests marked gpu on a simulated GPU, whose streams work early, late or at random",
    )


def pytest_configure(config):
    if order := config.getoption("--simulate-gpu"):
        if reason := simulated_gpu.unavailable_reason():
            raise pytest.UsageError(f"--simulate-gpu: {reason}")
        simulated_gpu.start(order)
        if reason := unusable():
            raise pytest.UsageError(f"--simulate-gpu: {reason}")
    # A shell lets what it starts in the background ignore Ctrl-C, and so would what tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def gpu():
    if reason := unusable():
        pytest.skip(reason)
    return open_gpu(0, "float32")


def emulated():
    """Return the CUDA backend, its kernels running on the CPU."""
    if reason := unavailable_reason():
        pytest.skip(reason)
    return emulated_backend()


# By name: a function that returns the backend or skips, and the marks of its tests.
BACKENDS = {
    "numpy": (NumpyBackend, ()),
    "emulated": (emulated, ()),
    "gpu": (gpu, pytest.mark.gpu),
}


@pytest.fixture(scope="session", autouse=True)
def no_mkl():
    """Let device="cpu" multiply by NumPy, also where MKL is installed; MKL's tests ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "open_mkl", lambda: None)
        yield


@pytest.fixture(params=[pytest.param(name, marks=marks) for name, (_, marks) in BACKENDS.items()])
def backend(request):
    make, _ = BACKENDS[request.param]
    return make()


@pytest.fixture
def random_streams(request):
    """Streams that work side by side, on a simulated GPU every time."""
    simulates = request.config.getoption("--simulate-gpu")
    with simulated_gpu.streams("random") if simulates else nullcontext():
        yield


@pytest.fixture
def late_streams(request):
    """What is forgotten to be waited for shows on a simulated GPU, and there every time."""
    if not request.config.getoption("--simulate-gpu"):
        pytest.skip("a GPU has to be simulated: make test-gpu")
    with simulated_gpu.streams("late"):
        yield


@pytest.fixture(scope="session", autouse=True)
def compiled_cache():
    """What the library compiles is kept for the next run, apart from what a user compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACKPROP_GPU_CACHE", str(cache_folder() / "compiled"))
        yield


@pytest.fixture(scope="module")
def compiled_soon():
    """Half the time to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", f"{os.environ.get('CXX', 'c++')} -O1")
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


def pytest_terminal_summary(terminalreporter):
    """Say what was skipped, and why: a line for each reason, not one for each test."""
    skipped = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", []))
    for reason, count in skipped.most_common():
        terminalreporter.write_line(f"{count} skipped. {reason.removeprefix('Skipped: ')}")

"""MKL's products, by a library that has the same interface, and by MKL itself if it is there."""

import os
import pickle
import subprocess
import sys
import threading
from contextlib import nullcontext
from importlib import metadata
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from host.device import stand_in_library
from host.needs import needs_gpp

import backprop_gpu as bp
from backprop_gpu import backends
from backprop_gpu.backends import NumpyBackend, choose_backend, mkl, numpy_backend

pytestmark = needs_gpp

SIZES = (1, 2, 3, 33)


@pytest.fixture
def stand_in():
    library = stand_in_library("mkl_stand_in.cpp")
    yield mkl.Mkl(library)
    assert library.stand_in_wrong_arguments() == 0


@pytest.fixture(params=["stand-in", "MKL"])
def opened(request, stand_in):
    if request.param == "stand-in":
        return stand_in
    return mkl.open_mkl() or pytest.skip("MKL is not installed")


def matrix(rows, columns, dtype, transposed, seed=0):
    """A C-contiguous matrix, or the transpose of one."""
    values = np.random.default_rng(seed).normal(size=(rows, columns)).astype(dtype)
    return np.ascontiguousarray(values.T).T if transposed else values


@pytest.mark.parametrize("transposed", [*product([False, True], repeat=2)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_matrices_and_of_transposes(opened, transposed, dtype):
    numbers = np.array([0.1, 0.0, -0.1, 0.5], dtype)
    for m, k, n in product(SIZES, repeat=3):
        A = matrix(m, k, dtype, transposed[0])
        B = matrix(k, n, dtype, transposed[1], seed=1)
        exact, error = A.astype(float) @ B.astype(float), 100 * np.finfo(dtype).eps
        out = np.full((m, n), np.nan, dtype)
        opened.gemm(A, B, out)()
        np.testing.assert_allclose(out, exact, rtol=0, atol=error)
        W = np.ones((m, n), dtype)
        opened.descend(A, B, W, numbers)()
        np.testing.assert_allclose(W, 0.5 - 0.1 * exact, rtol=0, atol=error)


def test_a_product_is_a_call_that_is_repeated_on_what_there_is_then(opened):
    A, B, out, numbers = np.eye(3), np.ones((3, 3)), np.empty((3, 3)), np.array([0.0, 0, 1, 0])
    multiply, descend = opened.gemm(A, B, out), opened.descend(A, B, out, numbers)
    for factor in (2, 3):
        A[...] = factor * np.eye(3)
        multiply()
        assert (out == factor).all()
        numbers[3] = factor
        descend()
        assert (out == factor * factor + factor).all()


def test_a_call_keeps_its_arrays():
    sizes = np.full((40, 40), 2.0), np.full((40, 40), 3.0)
    multiply = mkl.Mkl(stand_in_library("mkl_stand_in.cpp")).gemm(
        *[a.copy() for a in sizes], out := sizes[0]
    )
    np.random.default_rng(0).normal(size=(100, 40, 40))  # what was freed is written to
    multiply()
    assert (out == 240).all()


def test_threads_are_those_of_one_thread_of_python(stand_in):
    threads = stand_in._library.stand_in_threads
    seen = []
    with stand_in.on_threads(None):
        assert threads() == 3  # all there are
        with stand_in.on_threads(1):
            other = threading.Thread(target=lambda: seen.append(threads()))
            other.start()
            other.join()
            assert threads() == 1
        assert threads() == 3
    assert (seen, threads()) == ([0], 0)


FORKED = """
import os, sys
sys.path.insert(0, "tests")
from host.device import stand_in_library
from backprop_gpu.backends.mkl import Mkl

opened = Mkl(library := stand_in_library("mkl_stand_in.cpp"))
child = os.fork()
with opened.on_threads(None):
    found = library.MKL_Get_Max_Threads()
if child == 0:
    os._exit(found)
print(found, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_forked_process_has_one_thread():
    """The others stay in the parent: MKL would wait for them for ever."""
    root = Path(__file__).parents[1]
    out = subprocess.check_output([sys.executable, "-c", FORKED], text=True, cwd=root)
    assert out.split() == ["3", "1"]


def test_numpys_blas_has_one_thread_where_mkl_has_many(stand_in):
    pytest.importorskip("threadpoolctl")
    pools = [pool for pool in numpy_backend._blas() if "mkl" not in pool.internal_api]
    backend = NumpyBackend(mkl=stand_in)
    with backend.computing(1e9):
        assert [pool.get_num_threads() for pool in pools] == [1 for _ in pools]
        assert stand_in._library.stand_in_threads() == 3
    with backend.computing(1e6):
        assert stand_in._library.stand_in_threads() == 1
    with NumpyBackend(2, stand_in).computing(1e9):
        assert stand_in._library.stand_in_threads() == 2


# Large enough for MKL: 6 * 200 * (100 * 300 + 300 * 20) FLOPs a step.
SAMPLES, LAYERS = 200, [100, 300, 20]


def trained(device, dtype="float64", **options):
    net = bp.MLP(LAYERS, ["gelu", "sigmoid"], device=device, dtype=dtype)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(SAMPLES, 100)), random.random((SAMPLES, 20))
    history = bp.train(net, x, y, epochs=5, path="steps", **options)
    return net.parameters, history.loss, net(x)


@pytest.mark.parametrize("batch_size", [None, 150], ids=str)
@pytest.mark.parametrize(
    "optimizer",
    [bp.SGD(0.1), bp.SGD(0.1, weight_decay=0.01), bp.SGD(0.1, momentum=0.9), bp.Adam(0.01)],
    ids=str,
)
def test_training_is_the_same_but_for_rounding(opened, optimizer, batch_size):
    options = {"optimizer": optimizer, "batch_size": batch_size}
    expected = trained(NumpyBackend(), **options)
    for actual, exact in zip(trained(NumpyBackend(mkl=opened), **options), expected, strict=True):
        np.testing.assert_allclose(actual, exact, rtol=1e-10, atol=1e-12)


def test_two_runs_end_with_the_same_bits(opened):
    first, second = (trained(NumpyBackend(mkl=opened), "float32") for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_changes_in_a_step_whose_loss_is_not_finite(opened):
    net = bp.MLP([100, 300, 20], ["identity"] * 2, device=NumpyBackend(mkl=opened))
    x, y = np.full((SAMPLES, 100), 10.0), np.ones((SAMPLES, 20))
    with pytest.raises(bp.TrainingDiverged) as caught:
        bp.train(net, x, y, optimizer=bp.SGD(1.0), epochs=50, path="steps")
    assert net.loss(x, y) == pytest.approx(caught.value.history.loss[-1], rel=1e-5)


def test_small_products_are_left_to_numpy():
    def refuse(*args):
        raise AssertionError("it takes longer to call MKL")

    refusing = SimpleNamespace(gemm=refuse, descend=refuse, on_threads=lambda _: nullcontext())
    backend = NumpyBackend(mkl=refusing)
    net = bp.MLP([5, 3, 4], device=backend)
    bp.train(net, np.ones((7, 5)), np.ones((7, 4)), epochs=3, path="steps")


# ---- finding it ----------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch):
    """Calls `open_mkl` where an "mkl" with these files is installed, or none."""

    def open_with(*files):
        def distribution(name):
            assert name == "mkl"
            if not files:
                raise metadata.PackageNotFoundError(name)
            return SimpleNamespace(
                files=[SimpleNamespace(name=f.name, locate=lambda f=f: f) for f in files]
            )

        monkeypatch.setattr(metadata, "distribution", distribution)
        monkeypatch.setattr(backends, "open_mkl", mkl.open_mkl)
        mkl.open_mkl.cache_clear()
        return mkl.open_mkl()

    yield open_with
    monkeypatch.undo()
    mkl.open_mkl.cache_clear()


def test_without_mkl_numpy_multiplies(installed):
    assert installed() is None
    backend, reason = choose_backend("cpu")
    assert not backend.descends(1e12)
    assert reason == "device='cpu' was asked for"


def test_mkl_is_found_among_the_files_of_its_package(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "is_intels", lambda: True)
    library = tmp_path / "libmkl_rt.so.9"
    library.write_bytes(Path(stand_in_library("mkl_stand_in.cpp")._name).read_bytes())
    assert installed(tmp_path / "libmkl_core.so.9", library) is not None
    backend, reason = choose_backend("cpu")
    assert backend.descends(1e12)
    assert reason == "device='cpu' was asked for; MKL multiplies"


def test_a_backend_is_pickled_with_mkl_where_it_is_installed(installed, tmp_path):
    library = tmp_path / "libmkl_rt.so.5"
    library.write_bytes(Path(stand_in_library("mkl_stand_in.cpp")._name).read_bytes())
    opened = installed(library)
    pickled = pickle.dumps(NumpyBackend(mkl=opened))
    assert pickle.loads(pickled).mkl is opened is not None
    assert installed() is None
    assert pickle.loads(pickled).mkl is None


def test_mkl_is_for_intels_processors(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "is_intels", lambda: False)
    library = tmp_path / "libmkl_rt.so.8"
    library.write_bytes(Path(stand_in_library("mkl_stand_in.cpp")._name).read_bytes())
    assert (opened := installed(library)) is not None
    backend, reason = choose_backend("cpu")
    assert not backend.descends(1e12)
    assert reason == "device='cpu' was asked for; MKL is left out: the processor is not Intel's"
    assert NumpyBackend(mkl=opened).descends(1e12)


@pytest.mark.parametrize("vendor", ["GenuineIntel", "AuthenticAMD"])
@pytest.mark.parametrize("linux", [True, False])
def test_whose_the_processor_is(vendor, linux, monkeypatch):
    def read(path):
        assert str(path) == "/proc/cpuinfo"
        if not linux:
            raise FileNotFoundError(path)
        return f"processor : 0\nvendor_id : {vendor}\n"

    monkeypatch.setattr(mkl.Path, "read_text", read)
    monkeypatch.setattr(mkl.platform, "processor", lambda: "" if linux else f"Family 6, {vendor}")
    assert mkl.is_intels.__wrapped__() == (vendor == "GenuineIntel")


def test_mkls_threads_are_those_of_the_openmp_beside_it(installed, tmp_path):
    library = tmp_path / "libmkl_rt.so.4"
    library.write_bytes(Path(stand_in_library("mkl_stand_in.cpp")._name).read_bytes())
    assert installed(library).team is None
    (tmp_path / "libiomp5.so").write_bytes(library.read_bytes())
    assert installed(library).team is not None


def test_an_mkl_that_cannot_be_loaded_is_told_of_once(installed, tmp_path):
    library = tmp_path / "libmkl_rt.so.3"
    library.write_bytes(b"not a library")
    with pytest.warns(RuntimeWarning, match=r"MKL is installed and can't be used.*NumPy multip"):
        assert installed(library) is None
    assert mkl.open_mkl() is None

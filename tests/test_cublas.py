"""Matrix products by cuBLAS's C interface, against a library that has the same on the CPU."""

from itertools import product
from threading import Thread

import numpy as np
import pytest
from host.device import StandInDevice, cublas_library, stand_in_cublas
from host.needs import needs_gpp

import backprop_gpu as bp
from backprop_gpu.backends import cublas

pytestmark = needs_gpp

SIZES = (1, 2, 3, 33)


@pytest.fixture
def products():
    opened = stand_in_cublas()
    yield opened
    opened.close()


def matrix(rows, columns, dtype, transposed, seed=0):
    """A C-contiguous matrix, or the transpose of one."""
    values = np.random.default_rng(seed).normal(size=(rows, columns)).astype(dtype)
    return np.ascontiguousarray(values.T).T if transposed else values


@pytest.mark.parametrize("transposed", [*product([False, True], repeat=2)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_matrices_and_of_transposes(products, transposed, dtype):
    for m, k, n in product(SIZES, repeat=3):
        A = matrix(m, k, dtype, transposed[0])
        B = matrix(k, n, dtype, transposed[1], seed=1)
        out = np.full((m + 1, n), np.nan, dtype)
        products.gemm(A, B, out[:m])
        exact = A.astype(np.float64) @ B.astype(np.float64)
        np.testing.assert_allclose(out[:m], exact, rtol=0, atol=100 * np.finfo(dtype).eps)
        assert np.isnan(out[m]).all()


@pytest.mark.parametrize(("precision", "bits"), [("float32", 24), ("tf32", 11), ("bf16", 8)])
def test_a_precision_is_how_many_bits_of_a_factor_count(precision, bits):
    products = stand_in_cublas(precision)
    for power in range(30):
        A, one = np.array([[1 + 2.0**-power]], np.float32), np.ones((1, 1), np.float32)
        out = np.empty((1, 1), np.float32)
        products.gemm(A, one, out)
        assert (out[0, 0] == A[0, 0]) == (power < bits or power > 23)
    in_double = np.array([[1 + 2.0**-50]])
    out = np.empty((1, 1))
    products.gemm(in_double, np.ones((1, 1)), out)
    assert out == in_double
    products.close()


@pytest.mark.parametrize("transposed", [*product([False, True], repeat=2)], ids=str)
def test_factors_that_are_stored_as_bf16(products, transposed):
    """Integers up to 15 are bf16 with a mantissa of 3 bits, so that no sum is rounded."""
    for m, k, n in product(SIZES, repeat=3):
        A = np.round(4 * matrix(m, k, "float32", transposed[0]))
        B = np.round(4 * matrix(k, n, "float32", transposed[1], seed=1))
        out = np.full((m, n), np.nan, np.float32)
        products.gemm(*[(X.view(np.uint32) >> 16).astype(np.uint16) for X in (A, B)], out)
        np.testing.assert_array_equal(out, A @ B)


def test_every_stream_gets_the_workspace_and_is_bound_once():
    now = [0]
    products = stand_in_cublas(stream=lambda: now[0])
    A = np.ones((2, 2))
    for stream in (0, 2, 2, 0):  # as CUDA names the null stream of a thread
        now[0] = stream
        products.gemm(A, A, np.empty((2, 2)))
        assert (cublas_library().stand_in_stream() or 0) == stream
        assert cublas_library().stand_in_workspace()
    assert cublas_library().stand_in_products() == 4
    products.close()


def test_threads_take_turns():
    """While one has told the library where the factors are, another's are not looked for there."""
    seen = []

    class Library:
        def __getattr__(self, name):
            seen.append(name)
            if seen == ["cublasCreate_v2", "cublasSetPointerMode_v2"]:
                other.start()
                other.join(timeout=0.1)  # it has to wait
            return getattr(cublas_library(), name)

    workspace = np.empty(cublas.WORKSPACE, np.uint8)
    products = cublas.Cublas(Library(), lambda: (0, 0), lambda: workspace)
    A, out, numbers = np.ones((2, 2)), np.empty((2, 2)), np.array([9, 9, 0.5, 0])
    other = Thread(target=products.gemm, args=(A, A, out))
    products.descend(A, A, np.zeros((2, 2)), numbers)
    other.join()
    products.close()
    mode, bind = "cublasSetPointerMode_v2", ["cublasSetStream_v2", "cublasSetWorkspace_v2"]
    descend = [mode, *bind, "cublasGemmEx", mode]
    assert seen == ["cublasCreate_v2", *descend, "cublasGemmEx", "cublasDestroy_v2"]


def test_errors_of_the_library_are_exceptions(products):
    A = np.ones((2, 2))
    products.close()
    with pytest.raises(bp.DeviceError, match="SetStream_v2 failed with status 1, not initialized"):
        products.gemm(A, A, np.empty((2, 2)))
    short = cublas.Cublas(cublas_library(), lambda: (0, 0), lambda: np.empty(8, np.uint8))
    with pytest.raises(bp.DeviceError, match="status 7, invalid value"):
        short.gemm(A, A, np.empty((2, 2)))
    short.close()


def test_what_is_closed_is_given_back_once(products):
    assert cublas_library().stand_in_is_open()
    products.close()
    products.close()
    assert not cublas_library().stand_in_is_open()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_with_its_products(products, dtype):
    x = np.random.default_rng(0).normal(size=(11, 3))
    net = bp.MLP([3, 5, 2], ["tanh", "sigmoid"], device="cpu", dtype=dtype)
    twin = net.copy(device=StandInDevice().backend(products.gemm))
    options = {"epochs": 4, "batch_size": 4, "optimizer": bp.Adam(0.01)}
    expected = bp.train(net, x, np.abs(x[:, :2]) % 1, **options)
    history = bp.train(twin, x, np.abs(x[:, :2]) % 1, **options)
    assert history.loss == pytest.approx(expected.loss, rel=1e-5)
    np.testing.assert_allclose(twin.parameters, net.parameters, rtol=1e-4, atol=1e-5)

"""Every backend against formulas too plain to be wrong, and all with one set of signatures."""

import copy
import inspect
import pickle
from contextlib import nullcontext
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from host.backend import update_numbers

import backprop_gpu as bp
from backprop_gpu import kernels
from backprop_gpu.activations import ACTIVATIONS, LeakyReLU, find_activation
from backprop_gpu.backends import Backend, NumpyBackend, choose_backend, numpy_backend
from backprop_gpu.backends.cuda_backend import CudaBackend
from backprop_gpu.losses import LOSSES
from backprop_gpu.shuffle import as_keys, shuffled

SIZES = (1, 2, 31, 33, 257, 1025)
# Every size meets every other, as rows and as columns; the largest are more than a tile.
MATRICES = [(rows, columns) for rows, columns in product(SIZES, SIZES) if rows * columns < 10**6]
SOME_MATRICES = [(1, 1), (2, 1), (1, 33), (31, 2), (33, 31), (257, 33), (1025, 2)]
EVERY = [*ACTIVATIONS, LeakyReLU(0.0), LeakyReLU(1.5), LeakyReLU(-0.5)]


@pytest.fixture
def numbers(dtype):
    """Random numbers by shape, rounded to the dtype."""
    random = np.random.default_rng(0)
    return lambda *shape: random.normal(size=shape).astype(dtype)


@pytest.fixture(params=[kernels.MAX_BLOCKS, 2])
def blocks(request, monkeypatch):
    """How many a kernel has at most; where there are few, their threads walk on."""
    monkeypatch.setattr(kernels, "MAX_BLOCKS", request.param)


def close(actual, expected, dtype, rounding=8, scale=None):
    """Compare with a float64 result; `rounding` is in eps of the scale, or of the largest entry."""
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(
        actual.astype(float), expected, rtol=0, atol=rounding * np.finfo(dtype).eps * scale
    )


def given(backend, *arrays):
    """Copies on the backend's device."""
    copies = tuple(backend.asarray(array.copy(), array.dtype) for array in arrays)
    return copies if len(copies) > 1 else copies[0]


# ---- signatures ----------------------------------------------------------------------------------

METHODS = [name for name, member in vars(Backend).items() if inspect.isfunction(member)]
METHODS = [name for name in METHODS if not name.startswith("_")]


@pytest.mark.parametrize("kind", [NumpyBackend, CudaBackend])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "computing"])
def test_backends_have_the_protocols_signatures(kind, method):
    expected = inspect.signature(getattr(Backend, method))
    assert inspect.signature(getattr(kind, method)) == expected


@pytest.mark.parametrize(
    "one", [NumpyBackend(), CudaBackend(np, None, "cuda:0", nullcontext)], ids=["numpy", "cuda"]
)
def test_backends_have_what_the_protocol_has_and_nothing_else(one):
    public = {name for name in dir(one) if not name.startswith("_")}
    required = {*METHODS, "device", "xp"}
    assert required <= public <= required | {"threads", "mkl", "precision", "launch"}
    with one.computing():
        pass


# ---- making and moving ---------------------------------------------------------------------------


def test_what_fits_is_not_copied(backend, dtype, numbers):
    array = given(backend, numbers(3, 2))
    assert backend.asarray(array, dtype) is array
    other = backend.asarray(array, np.dtype("float32" if dtype == "float64" else "float64"))
    assert other.dtype != dtype


@pytest.mark.parametrize(
    "view",
    [np.asfortranarray, lambda x: x[::-1], lambda x: x[:, ::2], lambda x: x.astype(">f8")],
    ids=["fortran", "reversed", "strided", "big-endian"],
)
def test_arrays_become_contiguous(view, backend, dtype, numbers):
    values = view(numbers(31, 4))
    array = backend.asarray(values, dtype)
    assert array.flags.c_contiguous
    assert array.dtype == dtype
    np.testing.assert_array_equal(backend.to_numpy(array), values)


def test_numbers_too_large_become_infinite_quietly(backend):
    array = backend.asarray(np.array([1e39, -1e39]), np.dtype("float32"))
    np.testing.assert_array_equal(backend.to_numpy(array), [np.inf, -np.inf])


def test_empty_arrays_have_their_shape_and_dtype(backend, dtype):
    array = backend.empty((3, 2), dtype)
    assert (array.shape, array.dtype) == ((3, 2), dtype)
    assert array.flags.c_contiguous
    assert type(backend.to_numpy(array)) is np.ndarray


def test_the_cpu_takes_nothing_from_the_gpu():
    on_gpu = SimpleNamespace(__cuda_array_interface__={"shape": (1,), "typestr": "<f4"})
    with pytest.raises(bp.DeviceError, match="device='cuda'"):
        NumpyBackend().asarray(on_gpu, np.dtype("float32"))


def test_synchronize_waits_for_nothing_that_is_done(backend):
    backend.synchronize()


# ---- the steps -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 1, 1), (1, 1025, 1), (2, 1, 31), (31, 33, 2), (33, 257, 31), (257, 31, 33), (2, 33, 1025)],
)
@pytest.mark.parametrize("transposed", ["", "A", "B", "AB"])
def test_gemm(m, k, n, transposed, backend, dtype, numbers):
    A, B = numbers(m, k), numbers(k, n)
    a = given(backend, A.T).T if "A" in transposed else given(backend, A)
    b = given(backend, B.T).T if "B" in transposed else given(backend, B)
    out = backend.empty((m, n), dtype)
    with backend.computing():
        backend.gemm(a, b, out)
    A, B = A.astype(float), B.astype(float)
    close(backend.to_numpy(out), A @ B, dtype, scale=(np.abs(A) @ np.abs(B)).max())


@pytest.mark.parametrize(  # the emulated one does not descend
    "backend", ["numpy", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)
@pytest.mark.parametrize(("nodes", "inputs"), SOME_MATRICES)
def test_descend(nodes, inputs, backend, dtype, numbers):
    delta, a, W = numbers(33, nodes), numbers(33, inputs), numbers(nodes, inputs)
    ours = given(backend, W)
    with backend.computing():
        factors = given(backend, np.array([0.1, 0.5, -0.1, 0.95], dtype))
        backend.descend(given(backend, delta).T, given(backend, a), ours, factors)
    delta, a, W = (array.astype(float) for array in (delta, a, W))
    scale = (np.abs(delta.T) @ np.abs(a) + np.abs(W)).max()
    close(backend.to_numpy(ours), W - 0.1 * (delta.T @ a + 0.5 * W), dtype, scale=scale)


@pytest.mark.parametrize("size", SIZES)
def test_penalize(size, blocks, backend, dtype, numbers):
    weights = numbers(size)
    C = given(backend, np.array([0.25], dtype))
    with backend.computing():
        factors = given(backend, np.array([9, 0.3, 9, 9], dtype))
        backend.penalize(C, given(backend, weights), factors)
    expected = 0.25 + 0.3 / 2 * (weights.astype(float) ** 2).sum(keepdims=True)
    close(backend.to_numpy(C), expected, dtype, 16)


@pytest.mark.parametrize("limit", [0.5, 1e300])
@pytest.mark.parametrize("size", SIZES)
def test_clip_values(size, limit, blocks, backend, dtype, numbers):
    gradient = numbers(size)
    clipped = given(backend, gradient)
    backend.clip_values(clipped, limit)
    expected = gradient.astype(float).clip(-limit, limit)
    np.testing.assert_array_equal(backend.to_numpy(clipped), expected)


@pytest.mark.parametrize("magnitude", [1, 1e-30, 1e30, 4e37])
@pytest.mark.parametrize("size", SIZES)
def test_clip_norm(size, magnitude, blocks, backend, dtype, numbers):
    """Squares may be beyond the range of float32, and the limit over the norm, too."""
    gradient = numbers(size) * dtype.type(magnitude)
    norm = np.linalg.norm(gradient.astype(float))
    limits = [limit for limit in (0.3 * norm, 2 * norm, 1e-5) if limit < np.finfo(dtype).max]
    for limit in limits:
        clipped = given(backend, gradient)
        with backend.computing():
            backend.clip_norm(clipped, limit)
        expected = gradient.astype(float) * min(1.0, limit / norm)
        close(backend.to_numpy(clipped), expected, dtype, 40)


@pytest.mark.parametrize("size", [1, 33, 1025])
def test_nothing_is_clipped_to_nothing(size, blocks, backend, dtype):
    gradient = given(backend, np.zeros(size, dtype))
    with backend.computing():
        for limit in (1.0, 1e-300):
            backend.clip_values(gradient, limit)
            backend.clip_norm(gradient, limit)
    assert not backend.to_numpy(gradient).any()


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_makes_all_so(bad, others, backend, dtype, numbers):
    gradient = others * numbers(1025)
    gradient[700] = bad
    clipped = given(backend, gradient)
    with backend.computing():
        backend.clip_norm(clipped, 1.0)
    assert not np.isfinite(backend.to_numpy(clipped)).any()


@pytest.mark.parametrize(("rows", "columns"), MATRICES)
def test_column_sum(rows, columns, backend, dtype, numbers):
    array = numbers(rows, columns)
    outs = [given(backend, np.full(columns, np.nan, dtype)) for _ in range(2)]
    with backend.computing():
        for out in outs:
            backend.column_sum(given(backend, array), out)
    terms = np.abs(array).sum(0).max()  # which may cancel
    close(backend.to_numpy(outs[0]), array.astype(float).sum(0), dtype, scale=terms)
    assert backend.to_numpy(outs[0]).tobytes() == backend.to_numpy(outs[1]).tobytes()


@pytest.mark.parametrize("columns", [1, 31])
def test_column_sums_lose_little_over_many_rows(columns, backend):
    rows = 100_000
    array = np.random.default_rng(1).uniform(size=(rows, columns)).astype("float32")
    out = backend.empty((columns,), array.dtype)
    with backend.computing():
        backend.column_sum(given(backend, array), out)
    close(backend.to_numpy(out), array.astype(float).sum(0), array.dtype, rounding=16)


@pytest.mark.parametrize("n", [*SIZES, 5000])
@pytest.mark.parametrize("seeds", [[7], [0, 2**64 - 1, 2**70 + 5]], ids=["one", "three"])
def test_shuffle(seeds, n, backend):
    out = backend.empty((len(seeds), 3, n), np.dtype("int64"))
    with backend.computing():
        backend.shuffle(as_keys(seeds), 2**40, out)
    expected = [[shuffled(n, 2**40 + epoch, seed) for epoch in range(3)] for seed in seeds]
    np.testing.assert_array_equal(backend.to_numpy(out), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_what_is_finite_is_copied(worst, size, backend, dtype, numbers):
    loss, good = given(backend, numbers(1), numbers(size))
    finite, out = given(backend, numbers(1), np.zeros(size, dtype))
    for place in {0, size // 2, size - 1}:
        bad = good.copy()
        bad[place] = worst
        for arrays in ([loss, bad], [bad, loss]):
            with backend.computing():
                backend.all_finite(arrays, finite)
                backend.copy_if(finite, good, out)
            assert backend.to_numpy(finite)[0] == 0
            assert not backend.to_numpy(out).any()
    with backend.computing():
        backend.all_finite([loss, good], finite)
        backend.copy_if(finite, good, out)
    assert backend.to_numpy(finite)[0] == 1
    np.testing.assert_array_equal(backend.to_numpy(out), backend.to_numpy(good))


def test_what_is_written_is_there(backend, dtype, numbers):
    values, out = numbers(3, 2), backend.empty((4, 2), dtype)
    with backend.computing():
        backend.write(values, out[1:])
    np.testing.assert_array_equal(backend.to_numpy(out[1:]), values)


@pytest.mark.parametrize(("rows", "columns"), MATRICES)
def test_gather(rows, columns, backend, dtype, numbers):
    array = numbers(rows, columns)
    index = np.random.default_rng(2).integers(0, rows, 33)
    index[0], index[1] = 0, rows - 1
    out = backend.empty((33, columns), dtype)
    with backend.computing():
        backend.gather(given(backend, array), given(backend, index), out)
    np.testing.assert_array_equal(backend.to_numpy(out), array[index])


@pytest.mark.parametrize(("rows", "columns"), MATRICES)
@pytest.mark.parametrize("g", ["tanh", "softmax"])
def test_layers_of_every_size(g, rows, columns, backend, dtype, numbers):
    check_layer(find_activation(g), rows, columns, backend, dtype, numbers)


@pytest.mark.parametrize(("rows", "columns"), SOME_MATRICES)
@pytest.mark.parametrize("g", EVERY, ids=str)
def test_layers_of_every_activation(g, rows, columns, backend, dtype, numbers):
    check_layer(find_activation(g), rows, columns, backend, dtype, numbers)


def check_layer(g, rows, columns, backend, dtype, numbers):
    Z, b, dC_dA = numbers(rows, columns), numbers(columns), numbers(rows, columns)
    exact_z = (Z + b).astype(float)  # a sum in the dtype, as z is
    exact_a = g.function(np, exact_z)
    reference = exact_z if g.derivative_from == "z" else exact_a
    exact_delta = np.empty_like(exact_z)
    g.delta(np, dC_dA.astype(float), reference, exact_delta)
    exact_dC_db = exact_delta.sum(0)

    z, bias, dC_da = given(backend, Z, b, dC_dA)
    a, delta = (backend.empty(Z.shape, dtype) for _ in range(2))
    dC_db = backend.empty((columns,), dtype)
    with backend.computing():
        backend.bias_activation(z, bias, g, a)
        known = z if g.derivative_from == "z" else a
        backend.delta(dC_da, g, known, delta, dC_db)
    np.testing.assert_array_equal(backend.to_numpy(z), Z + b)
    close(backend.to_numpy(a), exact_a, dtype)
    parts = dC_dA * (exact_a if g.jacobian_product else 0)  # of a difference, which may cancel
    close(backend.to_numpy(delta), exact_delta, dtype, scale=np.abs([exact_delta, parts]).max())
    terms = np.abs(exact_delta).sum(0).max()  # which may cancel in the sum
    close(backend.to_numpy(dC_db), exact_dC_db, dtype, scale=terms)
    np.testing.assert_array_equal(backend.to_numpy(dC_da), dC_dA)

    # The same where results take the place of what they are made from, as in training.
    in_place, error = given(backend, Z, dC_dA)
    with backend.computing():
        backend.bias_activation(in_place, bias, g, in_place)
        backend.delta(error, g, known, error, backend.empty((columns,), dtype))
    for one, other in ((in_place, a), (error, delta)):
        np.testing.assert_array_equal(*map(backend.to_numpy, (one, other)))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("g", EVERY, ids=str)
def test_output_delta_of_every_pair(g, loss, backend, dtype):
    check_output(find_activation(g), LOSSES[loss], 33, 5, backend, dtype)


@pytest.mark.parametrize(("rows", "columns"), [*SOME_MATRICES, (257, 1025)])
@pytest.mark.parametrize(
    ("g", "loss"),
    [
        ("sigmoid", "mse"),
        ("sigmoid", "binary_cross_entropy"),
        ("softmax", "categorical_cross_entropy"),
    ],
)
def test_output_delta_of_every_size(g, loss, rows, columns, backend, dtype):
    check_output(find_activation(g), LOSSES[loss], rows, columns, backend, dtype)


def check_output(g, loss, rows, columns, backend, dtype):
    random = np.random.default_rng(3)
    Z = random.normal(size=(rows, columns)).astype(dtype)
    A = g.function(np, Z)
    if loss.output_range is not None and not loss.is_canonical_for(g):
        A = np.clip(A, dtype.type(0.05), dtype.type(0.95))  # for activations it does not go with
    Y = np.abs(random.normal(size=Z.shape)) + 0.1
    Y = (Y / Y.sum(1, keepdims=True)).astype(dtype)
    n = rows
    exact_z, exact_a, exact_y = (array.astype(float) for array in (Z, A, Y))
    gradient = loss.gradient(np, exact_a, exact_y)
    if loss.is_canonical_for(g) and loss.canonical_gradient is not None:
        gradient = loss.canonical_gradient(np, exact_z, exact_y)
    exact_dC_da = gradient / n
    canonical = (loss.canonical, g) in (
        (name, find_activation(name)) for name in ("sigmoid", "softmax")
    )
    if canonical:
        exact_C = loss.canonical_value(np, exact_z, exact_y).sum() / n
        exact_delta = (exact_a - exact_y) / n
    else:
        exact_C = loss.value(np, exact_a, exact_y).sum() / n
        exact_delta = np.empty_like(exact_a)
        g.delta(np, exact_dC_da, exact_z if g.derivative_from == "z" else exact_a, exact_delta)

    z, a, y = given(backend, Z, A, Y)

    def run(dC_da=None, delta=None):
        C = given(backend, np.full(1, np.nan, dtype))
        with backend.computing():
            backend.output_delta(loss, g, z, a, y, C, dC_da, delta)
        return backend.to_numpy(C)

    def empty():
        return backend.empty(Z.shape, dtype)

    dC_da, delta = empty(), empty()
    C = run(dC_da, delta)
    close(C, np.array([exact_C]), dtype, 64)
    close(backend.to_numpy(dC_da), exact_dC_da, dtype)
    close(backend.to_numpy(delta), exact_delta, dtype, 32)

    # What is not asked for changes nothing, and delta may take the place of dC/da.
    alone, only, shared = empty(), empty(), empty()
    for other in (run(), run(delta=alone), run(dC_da=only), run(shared, shared)):
        assert other.tobytes() == C.tobytes()
    for one, other in ((alone, delta), (only, dC_da), (shared, delta)):
        np.testing.assert_array_equal(*map(backend.to_numpy, (one, other)))
    for kept, original in ((z, Z), (a, A), (y, Y)):
        np.testing.assert_array_equal(backend.to_numpy(kept), original)


def sgd(p, g, s, rate, step, o):
    return p - rate * g


def momentum(p, g, s, rate, step, o):
    s[0][...] = o.momentum * s[0] - rate * g
    return p + (o.momentum * s[0] - rate * g if o.nesterov else s[0])


def adam(p, g, s, rate, step, o):
    s[0][...] = o.beta1 * s[0] + (1 - o.beta1) * g
    s[1][...] = o.beta2 * s[1] + (1 - o.beta2) * g**2
    m, v = s[0] / (1 - o.beta1**step), s[1] / (1 - o.beta2**step)
    return p - rate * m / (np.sqrt(v) + o.epsilon)


@pytest.mark.parametrize("size", [*SIZES, 70_001])
@pytest.mark.parametrize(
    ("optimizer", "formula"),
    [
        (bp.SGD(0.1), sgd),
        (bp.SGD(0.1, weight_decay=0.5), sgd),
        (bp.SGD(0.1, momentum=0.9, weight_decay=0.5), momentum),
        (bp.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.5), momentum),
        (bp.Adam(0.1, weight_decay=0.5), adam),
        (bp.AdamW(0.1, weight_decay=0.5), adam),
    ],
    ids=["SGD", "decay", "momentum", "Nesterov", "Adam", "AdamW"],
)
def test_update(optimizer, formula, size, backend, dtype, numbers):
    P = numbers(size)
    decayed = size - size // 3  # the first two thirds are weights
    p = given(backend, P)
    state = [given(backend, np.zeros(size, dtype)) for _ in range(optimizer.slots)]
    exact, exact_state = P.astype(float), [np.zeros(size) for _ in state]
    is_weight = np.arange(size) < decayed
    for step in (1, 2, 3):
        G = numbers(size)
        rate = 0.1 / step
        with backend.computing():
            values = given(backend, update_numbers(optimizer, rate, step, dtype))
            backend.update(optimizer, p, given(backend, G), state, values, decayed)
        g, decay = G.astype(float), optimizer.weight_decay * is_weight * exact
        if isinstance(optimizer, bp.AdamW):
            exact = exact - rate * decay
        else:
            g = g + decay
        exact = formula(exact, g, exact_state, rate, step, optimizer)
        close(backend.to_numpy(p), exact, dtype, 64)
    for slot, exact_slot in zip(state, exact_state, strict=True):
        close(backend.to_numpy(slot), exact_slot, dtype, 64)


# ---- choosing ------------------------------------------------------------------------------------


def test_the_cpu_is_always_there():
    backend, reason = choose_backend("cpu")
    assert isinstance(backend, NumpyBackend)
    assert "asked for" in reason


def test_a_backend_may_be_given(backend):
    assert choose_backend(backend)[0] is backend
    assert bp.MLP([2, 1], device=backend).device == backend.device


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_backend_of_the_cpu_is_copied_and_pickled_with_its_threads(again):
    assert again(NumpyBackend(threads=3)).threads == 3
    assert again(NumpyBackend()).threads is None


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:", "cuda:-1", "cuda0", "auto:1", ""])
def test_unknown_devices_are_refused(device):
    with pytest.raises(bp.DeviceError, match="choose"):
        choose_backend(device)


def test_a_gpu_that_is_not_there_is_refused_and_auto_says_why_it_took_the_cpu(monkeypatch):
    def unusable(index=0):
        return f"GPU {index} is in the mind"

    monkeypatch.setattr("backprop_gpu.backends.cupy_device.unusable", unusable)
    for device in ("cuda", "cuda:0", "cuda:99"):
        with pytest.raises(bp.DeviceError, match=r"GPU \d+ is in the mind"):
            choose_backend(device)
    backend, reason = choose_backend("auto")
    assert isinstance(backend, NumpyBackend)
    assert "GPU 0 is in the mind" in reason
    assert bp.MLP([2, 1]).device_reason == reason


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["gpu"], indirect=True)
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_a_gpu_that_is_there_is_taken(device, backend):
    assert choose_backend(device)[0] is backend


def test_overlapping_trainings_leave_blas_as_it_was():
    pytest.importorskip("threadpoolctl")

    def threads():
        return [library.get_num_threads() for library in numpy_backend._blas()]

    before = threads()
    first, second = NumpyBackend().computing(1e6), NumpyBackend().computing(1e6)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(threads()) == {1}
    second.__exit__(None, None, None)
    assert threads() == before

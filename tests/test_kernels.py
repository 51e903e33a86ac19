"""The CUDA sources: compiled for every GPU, and run on the CPU against NumPy in float64."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from itertools import product

import numpy as np
import pytest
from host import launcher, nvrtc
from host.backend import emulated_backend, update_numbers
from host.mutants import MutantLauncher
from host.needs import needs_gpp, needs_nvrtc
from host.programs import OPTIMIZERS, Recorder, built_in_activations, programs

import backprop_gpu as bp
from backprop_gpu import kernels
from backprop_gpu.activations import find_activation
from backprop_gpu.backends import NumpyBackend, cuda_backend
from backprop_gpu.backends.cuda_backend import CudaBackend
from backprop_gpu.errors import DomainError
from backprop_gpu.losses import LOSSES
from backprop_gpu.shuffle import as_keys, shuffled

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
OLDEST, NEWEST = ARCHITECTURES[0], ARCHITECTURES[-1]

# A block is 256 threads, a warp 32, a block of rows of a column sum at least 64.
SHAPES = [
    (1, 1),
    (1, 5),
    (2, 2),
    (3, 1),
    (31, 33),
    (33, 31),
    (257, 1),
    (1, 257),
    (70, 257),
    (1025, 3),
]
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
activations = pytest.mark.parametrize("g", [*built_in_activations()], ids=str)

numpy_backend = NumpyBackend()


@pytest.fixture(params=[None, 1], ids=["in order", "shuffled"])
def backend(request):
    """The CUDA backend, its threads and blocks in order, and in a random one."""
    return emulated_backend(request.param)


def matrix(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def assert_close(result, expected, dtype, scale=1.0):
    assert result.dtype == np.dtype(dtype)
    limit = TOLERANCE[dtype] * scale * max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=0, atol=limit)


@needs_nvrtc
@dtypes
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_program_compiles_without_spills_or_stack_frames(arch, dtype):
    sources = programs(dtype, typical=arch not in (OLDEST, NEWEST))
    with ThreadPoolExecutor() as pool:
        logs = pool.map(lambda source: nvrtc.compile_for(source, arch, sources[source][0]), sources)
        assert all("0 bytes stack frame" in log for log in logs)


def test_typical_programs_are_every_kernel():
    def names(sources):
        return {name for kernel_names in sources.values() for name in kernel_names}

    everything = {
        name
        for path in kernels.files("backprop_gpu.kernels").iterdir()
        if path.name.endswith(".cu") and not path.name.startswith("train_")
        for name in re.findall(r"__global__ void (\w+)", path.read_text())
    }
    assert names(programs("float32", typical=True)) == names(programs("float32"))
    assert everything == names(programs("float32"))


@needs_gpp
@dtypes
@activations
def test_bias_activation(g, dtype, backend):
    for shape in SHAPES:
        z, b = matrix(shape, dtype), matrix(shape[1], dtype, seed=1)
        expected_z = z.astype(np.float64) + b
        expected = g.function(np, expected_z)
        a = np.full(shape, np.nan, dtype)
        in_place = z.copy()
        backend.bias_activation(z, b, g, a)
        assert_close(z, expected_z, dtype)
        assert_close(a, expected, dtype)
        backend.bias_activation(in_place, b, g, in_place)
        np.testing.assert_array_equal(in_place, a)


@needs_gpp
@dtypes
@activations
def test_delta_and_bias_gradient(g, dtype, backend):
    for shape in SHAPES:
        dC_da, z = matrix(shape, dtype), matrix(shape, dtype, seed=1)
        reference = z if g.derivative_from == "z" else g.function(np, z)
        expected = np.empty(shape)
        g.delta(np, dC_da.astype(np.float64), reference.astype(np.float64), expected)
        delta, dC_db = np.full(shape, np.nan, dtype), np.full(shape[1], np.nan, dtype)
        backend.delta(dC_da, g, reference, delta, dC_db)
        assert_close(delta, expected, dtype, scale=4)
        backend.delta(dC_da, g, reference, dC_da, np.empty_like(dC_db))  # in place
        np.testing.assert_array_equal(dC_da, delta)
        assert_close(dC_db, expected.sum(axis=0), dtype, scale=4 * np.sqrt(shape[0]))


@needs_gpp
@dtypes
@shapes
def test_column_sum(shape, dtype, backend):
    array, out = matrix(shape, dtype), np.full(shape[1], np.nan, dtype)
    backend.column_sum(array, out)
    assert_close(out, array.astype(np.float64).sum(axis=0), dtype, scale=np.sqrt(shape[0]))


def pairs():
    for loss, g in product(LOSSES.values(), built_in_activations()):
        with suppress(DomainError):
            loss.check_output(g)
            yield pytest.param(loss, g, id=f"{loss.name} of {g}")


@needs_gpp
@dtypes
@pytest.mark.parametrize(("loss", "g"), [*pairs()])
def test_loss_and_output_delta(loss, g, dtype):
    backend = emulated_backend()
    for shape in ((1, 1), (2, 5), (33, 31), (300, 2)):
        z = matrix(shape, dtype)
        a = g.function(np, z)
        y = np.abs(matrix(shape, dtype, seed=2))
        y /= y.sum(axis=1, keepdims=True)
        exact = [array.astype(np.float64) for array in (z, a, y)]
        expected = [np.empty(size) for size in (1, shape, shape)]
        C, dC_da, delta = (np.full_like(array, np.nan, dtype=dtype) for array in expected)
        alone, shared = np.full(1, np.nan, dtype), np.full(shape, np.nan, dtype)

        with backend.computing():
            numpy_backend.output_delta(loss, g, *exact, *expected)
            backend.output_delta(loss, g, z, a, y, C, dC_da, delta)
            backend.output_delta(loss, g, z, a, y, alone)
            backend.output_delta(loss, g, z, a, y, np.empty(1, dtype), shared, shared)
        for result, reference in zip((C, dC_da, delta), expected, strict=True):
            assert_close(result, reference, dtype, scale=8)
        np.testing.assert_array_equal(alone, C)
        np.testing.assert_array_equal(shared, delta)


@needs_gpp
@dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("size", [1, 31, 257, 1025])
def test_update(size, optimizer, dtype, backend):
    p = matrix(size, dtype)
    state = [np.zeros(size, dtype) for _ in range(optimizer.slots)]
    exact = p.astype(np.float64)
    exact_state = [np.zeros(size) for _ in range(optimizer.slots)]
    for step in (1, 2, 3):
        g = matrix(size, dtype, seed=step)
        numbers = update_numbers(optimizer, 0.1 / step, step, dtype)
        backend.update(optimizer, p, g, state, numbers, size * 2 // 3)
        g = g.astype(np.float64)
        numpy_backend.update(optimizer, exact, g, exact_state, numbers, size * 2 // 3)
    assert_close(p, exact, dtype, scale=8)


def test_orders_of_many_samples_are_sorted():
    n = cuda_backend.MOST_COUNTED + 1
    found = np.full((1, 1, n), -1)
    CudaBackend(np, None, "cuda:0", nullcontext).shuffle(as_keys([3]), 4, found)
    np.testing.assert_array_equal(found[0, 0], shuffled(n, 4, 3))


@needs_gpp
def test_grids_of_many_blocks_walk_on(monkeypatch, backend):
    monkeypatch.setattr(kernels, "MAX_BLOCKS", 3)
    monkeypatch.setattr(kernels, "MAX_ROW_BLOCKS", 2)
    sigmoid = find_activation("sigmoid")
    z, b = matrix((700, 7), "float64"), matrix(7, "float64", seed=1)
    expected = sigmoid.function(np, z + b)
    a, sums, C = np.empty_like(z), np.empty(7), np.empty(1)
    backend.bias_activation(z, b, sigmoid, a)
    assert_close(a, expected, "float64")
    backend.column_sum(a, sums)
    assert_close(sums, expected.sum(axis=0), "float64", scale=10)
    backend.output_delta(LOSSES["sse"], sigmoid, z, a, np.zeros_like(a), C)
    assert_close(C, [(expected**2).sum() / 700], "float64", scale=10)
    a[-1, -1], copied = np.nan, np.zeros_like(a)
    backend.copy_if(C, a, copied)
    np.testing.assert_array_equal(copied, a)
    backend.all_finite([a], C)
    assert C[0] == 0


@pytest.mark.parametrize("rows", [1, 2, 31, 33, 257, 1025, 16_384, 10**7, 2**33])
@pytest.mark.parametrize("columns", [1, 2, 31, 33, 257, 1025, 100_000])
def test_launches_cover_every_entry_within_the_limits_of_a_gpu(rows, columns):
    launch, rows_per_block = kernels.column_tiles(rows, columns)
    assert launch.grid[0] * launch.block[0] >= columns
    assert launch.grid[1] * rows_per_block >= rows > (launch.grid[1] - 1) * rows_per_block
    assert launch.grid[1] <= kernels.MAX_ROW_BLOCKS
    for some in (launch, kernels.elementwise(rows * columns), kernels.columns(columns)):
        launcher.check_limits(some.grid, some.block, 0)
        assert np.prod(some.block) <= kernels.THREADS
    if rows <= 10**7:
        launch, parts = kernels.parts_of(columns, rows)
        assert launch.grid[0] == parts * rows
        assert parts * launch.block[0] >= columns
        rows_launch = kernels.warp_rows(rows)
        launcher.check_limits(rows_launch.grid, rows_launch.block, 0)
        assert rows_launch.grid[0] * rows_launch.block[1] >= rows


@needs_gpp
@dtypes
def test_saturated_and_non_finite_values_are_numpys(dtype, backend):
    z = np.array([[1e4, -1e4, 0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 30]], dtype)
    for g in built_in_activations():
        if g.cuda_rows is not None:
            continue
        a = np.empty_like(z)
        with np.errstate(all="ignore"):
            backend.bias_activation(z.copy(), np.zeros(10, dtype), g, a)
            expected = g.function(np, z)
        np.testing.assert_allclose(a, expected, rtol=1e-6, atol=1e-44, err_msg=str(g))
        reference = z if g.derivative_from == "z" else a
        delta = np.empty_like(z)
        backend.delta(np.ones_like(z), g, reference, delta, np.empty_like(z[0]))
        with np.errstate(all="ignore"):
            expected = g.derivative(np, reference)
        np.testing.assert_allclose(delta, expected, rtol=1e-6, atol=1e-7, err_msg=str(g))


@needs_gpp
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "categorical_cross_entropy"])
def test_saturated_outputs_have_finite_losses_and_exact_deltas(loss, backend):
    entry = LOSSES[loss]
    g = find_activation(entry.canonical)
    z = np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32)
    y = np.array([[0, 1], [0, 1]], np.float32)
    with numpy_backend.computing():
        a = g.function(np, z)
    C, delta = np.empty(1, np.float32), np.empty_like(z)
    backend.output_delta(entry, g, z, a, y, C, None, delta)
    assert C[0] == 1e4  # one row is right, the other off by 20,000
    np.testing.assert_array_equal(delta, (a - y) / 2)


# What the kernels can't do takes the generated path: an entry's functions, on device arrays.


def custom_activation(**cuda):
    return bp.Activation(
        "softsign",
        function=lambda xp, z: z / (1 + xp.abs(z)),
        derivative=lambda xp, z: 1 / (1 + xp.abs(z)) ** 2,
        derivative_from="z",
        **cuda,
    )


CUDA_SOFTSIGN = {
    "cuda": "z / (real(1) + fabs(z))",
    "cuda_derivative": "real(1) / ((real(1) + fabs(z)) * (real(1) + fabs(z)))",
}
ABSOLUTE = bp.Loss(
    "absolute",
    value=lambda xp, a, y: xp.abs(a - y).sum(axis=1),
    gradient=lambda xp, a, y: xp.sign(a - y),
)


@needs_gpp
@dtypes
@pytest.mark.parametrize("loss", ["mse", ABSOLUTE], ids=["built-in loss", "own loss"])
@pytest.mark.parametrize("output", ["own", "sigmoid", "softmax"])
@pytest.mark.parametrize("cuda", [{}, CUDA_SOFTSIGN], ids=["functions", "with CUDA"])
def test_own_activations_and_losses(cuda, output, loss, dtype):
    own = custom_activation(**cuda)
    net = bp.MLP([3, 4, 2], [own, own if output == "own" else output], device="cpu", dtype=dtype)
    twin = net.copy(device=emulated_backend())
    x, y = matrix((5, 3), dtype), matrix((5, 2), dtype, seed=1)
    expected, result = (n.backward(n.forward(x), y, loss) for n in (net, twin))
    assert result.loss == pytest.approx(expected.loss, rel=1e-5)
    for name in ("weights", "biases", "deltas", "activations"):
        for mine, reference in zip(getattr(result, name), getattr(expected, name), strict=True):
            assert_close(mine, reference.astype(np.float64), dtype, scale=4)


@needs_gpp
def test_an_own_activation_with_a_built_in_name_is_not_taken_for_it():
    own = bp.Activation("sigmoid", lambda xp, z: 3 * z, lambda xp, a: 3 * xp.ones_like(a), "a")
    net = bp.MLP([2, 2], [own], device=emulated_backend(), dtype="float64")
    x = matrix((4, 2), "float64")
    np.testing.assert_allclose(net(x), 3 * x @ net.weights[0].T)


# Whole training on the CUDA backend.


@needs_gpp
@dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_training_follows_numpy(optimizer, dtype):
    net = bp.MLP([3, 5, 4, 2], [bp.LeakyReLU(0.1), "gelu", "sigmoid"], device="cpu", dtype=dtype)
    twin = net.copy(device=emulated_backend())
    x, y = matrix((11, 3), dtype), np.abs(matrix((11, 2), dtype, seed=1)) % 1
    options = {"optimizer": optimizer, "epochs": 4, "batch_size": 4, "clip_norm": 0.5}
    expected, result = (bp.train(n, x, y, **options) for n in (net, twin))
    assert_close(twin.parameters, net.parameters.astype(np.float64), dtype, scale=50)
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-5)


@needs_gpp
def test_two_runs_are_equal_to_the_bit_in_whatever_order_threads_run():
    def run(seed):
        net = bp.MLP([4, 33, 3], ["tanh", "softmax"], device=emulated_backend(seed), seed=5)
        x, y = matrix((70, 4), "float32"), bp.one_hot(np.arange(70) % 3)
        history = bp.train(net, x, y, loss="cce", epochs=3, batch_size=32, optimizer=bp.Adam())
        return net.parameters, history.loss

    first, other = run(None), run(7)
    np.testing.assert_array_equal(first[0], other[0])
    assert first[1] == other[1]


@needs_gpp
def test_divergence_on_the_device_gives_back_good_parameters():
    net = bp.MLP([1, 1], ["identity"], device=emulated_backend(), seed=3)
    with pytest.raises(bp.TrainingDiverged) as caught:
        bp.train(net, [[1e6]], [[1.0]], optimizer=bp.SGD(1.0), epochs=100)
    assert np.isfinite(net.parameters).all()
    assert np.isfinite(caught.value.history.loss).all()
    assert np.isfinite(net.loss([[1e6]], [[1.0]]))


# Mutants: a test that passes without a barrier does not test for races.


def sums(backend):
    array = matrix((300, 33), "float64")
    out, C = np.empty(33), np.empty(1)
    backend.column_sum(array, out)
    backend.output_delta(LOSSES["sse"], find_activation("tanh"), array, array, 0 * array, C)
    return np.array([*out, *C])


def orders(backend):
    found = np.empty((1, 2, 600), np.int64)
    backend.shuffle(as_keys([1]), 0, found)
    return found


def norms(backend):
    gradient = matrix((1000,), "float64")
    gradient[700] = 1e200  # its square would be infinite
    backend.clip_norm(gradient, 0.5)
    return gradient


def softmaxes(backend):
    """What the kernels of softmax make of rows that are longer than a warp."""
    softmax, loss = find_activation("softmax"), LOSSES["categorical_cross_entropy"]
    z, y = matrix((3, 70), "float64"), matrix((3, 70), "float64", seed=1) ** 2
    a, delta, C = np.empty_like(z), np.empty_like(z), np.empty(1)
    backend.bias_activation(z, np.zeros(70), softmax, a)
    backend.delta(y, softmax, a, delta, np.empty(70))
    backend.output_delta(loss, softmax, z, a, y, C)
    return np.array([*a.flat, *delta.flat, *C])


MUTANTS = [
    *[(sums, "__syncthreads();", "", which) for which in range(4)],
    *[(orders, "__syncthreads();", "", which) for which in (2, 3)],  # after those of common.cuh
    *[(norms, "__syncthreads();", "", which) for which in (0, 1)],
    *[(softmaxes, "__shfl_xor_sync(0xffffffffu, mine, lanes)", "mine", which) for which in (0, 1)],
    *[(softmaxes, "top = warp_max(top);", "", which) for which in (0, 1)],
    (softmaxes, "sum = warp_sum(sum);", "", 0),
    (softmaxes, "dot = warp_sum(dot);", "", 0),
    (softmaxes, "log(warp_sum(sum))", "log(sum)", 0),
    (softmaxes, "loss = warp_sum(loss);", "", 0),
]


@needs_gpp
@pytest.mark.parametrize(("compute", "old", "new", "which"), MUTANTS)
def test_no_barrier_and_no_shuffle_can_be_removed(compute, old, new, which):
    expected = compute(emulated_backend())
    wrong = 0
    for seed in range(6):
        mutant = MutantLauncher(seed, old, new, which)
        broken = CudaBackend(np, mutant, "cuda:0", nullcontext)
        wrong += not np.array_equal(compute(broken), expected)
    assert wrong, "the result is right in every order of threads without this"


def test_launching_a_program_twice_builds_its_source_once():
    recorder = Recorder()
    backend = CudaBackend(np, recorder, "cuda:0", nullcontext)
    for _ in range(2):
        backend.column_sum(np.zeros((2, 2)), np.zeros(2))
    (source, _), *_ = recorder.kernels
    assert len(recorder.kernels) == 2
    assert all(source is other for other, _ in recorder.kernels)

"""Training in one launch, with products on tensor cores: NumPy's numbers, but for rounding."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from host import launcher, nvrtc
from host.backend import emulated_backend
from host.mutants import MutantLauncher
from host.needs import needs_gpp, needs_nvrtc
from host.one_launch import Case

import backprop_gpu as bp
from backprop_gpu.losses import find_loss
from backprop_gpu.training.paths import one_launch
from backprop_gpu.training.paths.one_launch import Gpu, OneLaunch, choose, gpu_of

ARCHITECTURES = (80, 86, 89, 90, 100, 120)  # 75 has no TF32
TOLERANCE = 3e-3
HOPPER = 227 << 10


@pytest.fixture(autouse=True)
def much_shared_memory(monkeypatch):
    monkeypatch.setattr(one_launch, "gpu_of", lambda backend: Gpu(HOPPER))


def tf32(seed=None, **options):
    return emulated_backend(seed, precision="tf32", **options)


def error(ours, exact):
    return np.linalg.norm(ours - exact) / np.linalg.norm(exact)


def changes(case):
    """Return how training changes the parameters, in TF32 and in float64."""
    ours, exact = case.in_one_launch(tf32())[1], case.by_numpy("float64")[1]
    return ours.astype("float64") - case.net.parameters, exact - case.net.parameters


SIZES = [
    ((1, 1), 1, 1),
    ((2, 1, 2), 17, 17),
    ((31, 33, 2), 40, 17),
    ((33, 31, 1), 5, 2),
    ((100, 128, 3), 20, 17),  # large parts of a gradient, and small ones
    ((128, 128, 10), 300, 256),  # two of them for each warp; a last batch of 44
    ((2, 100, 33, 31), 70, 70),  # a tile, and 6 samples
    ((3, 129, 100, 5), 9, 9),
]


@needs_gpp
@pytest.mark.parametrize(("sizes", "n", "batch_size"), SIZES)
def test_sizes(sizes, n, batch_size):
    activations = [*["tanh"] * (len(sizes) - 2), "sigmoid"]
    options = {"dtype": "float32", "n": n, "batch_size": batch_size}
    gradient = Case(sizes, activations, optimizer=bp.SGD(1.0), steps=1, **options)
    few_steps = Case(sizes, activations, optimizer=bp.SGD(1.0), steps=4, **options)
    assert error(*changes(gradient)) < TOLERANCE
    assert error(*changes(few_steps)) < TOLERANCE


@needs_gpp
@pytest.mark.parametrize(
    ("activations", "loss", "optimizer"),
    [
        (["gelu", "relu", "softmax"], "cce", bp.AdamW(0.01, weight_decay=0.1)),  # some keep z
        (["silu", bp.LeakyReLU(0.1), "identity"], "mse", bp.SGD(0.1, momentum=0.9)),
    ],
)
def test_entries(activations, loss, optimizer):
    options = {"n": 30, "batch_size": 19, "seed": 5, "dtype": "float32", "steps": 5}
    case = Case((9, 20, 40, 5), activations, loss, optimizer, **options)
    for ours, exact in zip(case.in_one_launch(tf32()), case.by_numpy("float64"), strict=True):
        assert error(ours, exact) < TOLERANCE


def one_layer(width):
    """A step of gradient descent, whose change of W is the product of delta and x, and no more."""
    options = {"n": 8, "batch_size": 8, "steps": 1, "dtype": "float32"}
    case = Case((width, width), ["identity"], "sse", bp.SGD(1.0), **options)
    case.net.parameters[...] = 0
    return case


@needs_gpp
def test_factors_are_rounded_to_11_bits_and_sums_are_not():
    """What one product is made of can be told exactly: with zero weights, delta is -2 y / n."""
    case = one_layer(40)
    delta, x = (rounded(array).astype("float64") for array in (-case.y / 4, case.x))
    dC_dW = -case.in_one_launch(tf32())[1][: 40 * 40].reshape(40, 40)
    np.testing.assert_allclose(dC_dW, delta.T @ x, rtol=0, atol=1e-6)
    assert np.abs(dC_dW - case.y.T @ case.x / -4).max() > 1e-5


def rounded(x):
    return ((x.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32)


@needs_gpp
def test_the_order_of_threads_does_not_matter():
    case = Case((9, 40, 20, 3), ["gelu", "tanh", "softmax"], "cce", dtype="float32", n=70)
    for one, other in zip(case.in_one_launch(tf32()), case.in_one_launch(tf32(5)), strict=True):
        np.testing.assert_array_equal(one, other)


@needs_gpp
def test_training_by_name():
    backend, (x, y) = tf32(), np.random.default_rng(0).normal(size=(2, 40, 3))
    nets = [bp.MLP([3, 20, 3], ["tanh", "identity"], device=backend, seed=i) for i in (1, 2)]
    exact = [net.copy(device="cpu", dtype="float64") for net in nets]
    options = {"epochs": 6, "batch_size": 16, "optimizers": [bp.Adam(0.01)] * 2}
    expected = bp.train_many(exact, x, y, **options)
    for history, other in zip(
        bp.train_many(nets, x, y, path="one launch", **options), expected, strict=True
    ):
        assert history.path == "one launch"
        np.testing.assert_allclose(history.loss, other.loss, rtol=TOLERANCE)


# Mutants: what must not be missing, and the layout of fragments, which a wrong index must show.

MUTANTS = [
    *[("__syncthreads();", "", which) for which in range(8)],
    ("g[e] = 0;", "", 0),
    ("a[i / 2][i % 2], a[i / 2][i % 2 + 2]", "a[i / 2][i % 2 + 2], a[i / 2][i % 2]", 0),
    ("a[i / 2][i % 2], a[i / 2][i % 2 + 2]", "a[i / 2][i % 2 * 2], a[i / 2][i % 2 * 2 + 1]", 0),
    ("SOME_ARE>(b[0], b[1]", "SOME_ARE>(b[1], b[0]", 0),
    ("8 * j + 2 * t", "8 * j + t", 0),
    ("8 * c + g", "8 * c", 0),
    ("first < count", "true", 0),
    ("second < count", "true", 0),
    ("first >= count", "false", 0),
    ("second >= count", "false", 0),
    ("swaps ? both.y : both.x", "both.x", 0),
    ("swaps ? both.x : both.y", "both.y", 0),
    ("(row + 8 * i + g)", "(row + 8 * i)", 0),
    ("(column + 8 * j + g)", "(column + 8 * j)", 0),
]


@needs_gpp
@pytest.mark.parametrize(("old", "new", "which"), MUTANTS)
def test_nothing_can_be_removed_or_swapped(old, new, which, monkeypatch):
    monkeypatch.setattr(one_launch, "TILE", 12)
    options = {"n": 27, "batch_size": 27, "seed": 1, "steps": 6, "dtype": "float32"}
    case = Case((9, 35, 6), ["tanh", "softmax"], "cce", bp.Adam(0.01), **options)
    expected = case.in_one_launch(tf32())
    wrong = 0
    for seed in range(4):
        mutant = MutantLauncher(seed, old, new, which, "train")
        try:
            results = case.in_one_launch(tf32(launcher=mutant), finite=False)
            wrong += not all(map(np.array_equal, results, expected))
        except launcher.KernelError:  # a sample that is nowhere
            wrong += 1
    assert wrong, "the result is right in every order of threads with this"


# What the instructions do, as the PTX manual has it, where g++ stands for them.

HEADER = """
typedef float real;
constexpr int WARP = 32;
#define INLINE static __device__ __forceinline__
"""
ROUNDING = (
    HEADER
    + """
extern "C" __global__ void rounded(const float* x, unsigned* bits) {
    bits[threadIdx.x] = to_tf32(x[threadIdx.x]);
}
"""
)
PRODUCT = (
    HEADER
    + """
extern "C" __global__ void product(const float* A, const float* B, float* C) {
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    const unsigned a[4] = {to_tf32(A[g * 8 + t]), to_tf32(A[(g + 8) * 8 + t]),
                           to_tf32(A[g * 8 + t + 4]), to_tf32(A[(g + 8) * 8 + t + 4])};
    const unsigned b[2] = {to_tf32(B[t * 8 + g]), to_tf32(B[(t + 4) * 8 + g])};
    float sum[4] = {C[g * 8 + 2 * t], C[g * 8 + 2 * t + 1], C[(g + 8) * 8 + 2 * t],
                    C[(g + 8) * 8 + 2 * t + 1]};
    mma_m16n8k8(sum, a, b);
    for (int i = 0; i < 4; ++i) C[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}
"""
)


@needs_gpp
def test_rounding_is_to_the_nearest_and_away_from_zero_in_the_middle():
    ulp, inf = 2.0**-10, np.inf
    given = [1, 1 + 0.49 * ulp, 1 + ulp / 2, -1 - ulp / 2, 1 + 1.5 * ulp, 2.0**-130, inf, 3.4028e38]
    expected = [1, 1, 1 + ulp, -1 - ulp, 1 + 2 * ulp, 2.0**-130, inf, inf]
    x, bits = np.array(given, np.float32), np.empty(8, np.uint32)
    launcher.HostLauncher().launch(ROUNDING, "rounded", (1, 1, 1), (8, 1, 1), [x, bits])
    assert bits.view(np.float32).tolist() == expected


def multiply(source):
    A, B, C = (np.arange(n).reshape(-1, 8).astype(np.float32) % 13 for n in (128, 64, 128))
    expected = A @ B + C
    launcher.HostLauncher(1).launch(source, "product", (1, 1, 1), (32, 1, 1), [A, B, C])
    return C, expected


@needs_gpp
def test_a_fragment_is_where_the_manual_says():
    np.testing.assert_array_equal(*multiply(PRODUCT))


@needs_gpp
def test_what_a_tensor_core_would_answer_with_garbage_is_an_error():
    unrounded = PRODUCT.replace("to_tf32(B[t * 8 + g])", "__float_as_int(B[t * 8 + g] / 3)")
    with pytest.raises(launcher.KernelError, match="not rounded to TF32"):
        multiply(unrounded)
    with pytest.raises(launcher.KernelError, match=r"diverge|returned"):
        multiply(PRODUCT.replace("mma_m", "if (threadIdx.x < 31) mma_m"))


# Who gets it.


def chosen(sizes, optimizer=None, batch_size=64, gpu=None, precision="tf32", activation="tanh"):
    net = bp.MLP(sizes, [activation] * (len(sizes) - 2) + ["softmax"], device="cpu")
    entries = net.layer_sizes, net.activations, find_loss("cce"), optimizer or bp.SGD()
    kernel = choose(*entries, precision, batch_size, gpu or Gpu(HOPPER))
    if isinstance(kernel, str):
        return kernel, None
    return kernel, one_launch.source(*entries, "float32", kernel)


def test_it_is_always_a_block():
    assert chosen((5, 3, 5, 4), batch_size=1)[0][:3] == ("train_block", 256, 1)
    assert chosen((5, 3, 5, 4), batch_size=1, precision="float32")[0].file == "train_warp"
    kernel, _ = chosen((64, 128, 128, 10))
    assert (kernel.tile, kernel.tf32) == (64, True)


def test_why_there_is_none():
    assert "older than sm_80" in chosen((5, 3, 4), gpu=Gpu(HOPPER, tf32=False))[0]
    assert "precision is 'bf16'" in chosen((5, 3, 4), precision="bf16")[0]
    assert "registers of a block" in chosen((128, 128, 128, 128))[0]
    assert "can share" in chosen((64, 128, 128, 10), gpu=Gpu(99 << 10))[0]


@pytest.mark.parametrize(("capability", "has"), [("75", False), ("80", True), ("120", True)])
def test_a_gpu_is_asked_what_it_has(capability, has):
    device = SimpleNamespace(
        compute_capability=capability,
        attributes={"MaxSharedMemoryPerBlockOptin": 65536, "MultiProcessorCount": 40},
    )
    backend = emulated_backend()
    backend.xp = SimpleNamespace(cuda=SimpleNamespace(Device=lambda: device))
    assert gpu_of(backend) == Gpu(65536, has, 40)


def test_plans_say_what_products_are_computed_in(monkeypatch):
    options = {"samples": 1000, "batch_size": 64, "epochs": 10_000}
    for backend, precision in ((tf32(), "tf32"), (emulated_backend(), "float32")):
        plan = bp.plan(bp.MLP([64, 40, 10], device=backend), **options)
        assert plan.path == "one launch"
        assert plan.why.endswith(f"; one block computes its products in {precision}")
    net = bp.MLP([5, 40, 4], device=emulated_backend(precision="bf16"))
    assert "precision is 'bf16'; " in bp.plan(net, **options).why
    monkeypatch.setattr(one_launch, "gpu_of", lambda backend: Gpu(HOPPER, tf32=False))
    net = bp.MLP([5, 40, 4], device=tf32())
    assert bp.plan(net, **options).path == "steps"
    with pytest.raises(bp.DomainError, match=r"can't run this training: .*older than sm_80"):
        bp.plan(net, **options, path="one launch")
    with pytest.raises(bp.DomainError, match=r"more than one launch: .*older than sm_80"):
        OneLaunch(net, find_loss("mse"), bp.SGD(), 64)


PROGRAMS = [
    ((33, 20, 2), bp.SGD(0.1), "gelu"),
    ((128, 128, 128), bp.AdamW(0.1), "gelu"),
    ((100, 100, 100), bp.Adam(0.1, weight_decay=0.1), "tanh"),
    ((64, 128, 128, 10), bp.SGD(0.1, momentum=0.9, nesterov=True), "gelu"),
    ((128, 96, 128, 10), bp.AdamW(0.1), "gelu"),
    ((*[64] * 8,), bp.SGD(0.1), "tanh"),
]


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_they_compile_without_spills_or_stack_frames(arch):
    """A small one for every architecture, and each of the largest for one of them."""

    def log(sizes, optimizer, activation):
        kernel, text = chosen(sizes, optimizer, activation=activation)
        return nvrtc.compile_for(text, arch, kernel.file)

    programs = [PROGRAMS[0], *PROGRAMS[1 + ARCHITECTURES.index(arch) :: len(ARCHITECTURES)]]
    with ThreadPoolExecutor() as pool:
        logs = list(pool.map(log, *zip(*programs, strict=True)))
    assert all("0 bytes stack frame" in text for text in logs)


@needs_nvrtc
def test_an_older_gpu_could_not_compile_it():
    with pytest.raises(nvrtc.CompileError, match=r"requires \.target sm_80 or higher"):
        nvrtc.compile_for(chosen((3, 2))[1], 75)

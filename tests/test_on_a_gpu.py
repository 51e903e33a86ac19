"""Small networks on a GPU, each path by itself: few launches, for tools that watch each of them.

``make bench-gpu`` runs these under compute-sanitizer. Without a GPU, the shim runs the kernels.
"""

import numpy as np
import pytest

import backprop_gpu as bp

WARP, BLOCK = (5, 3, 5, 4), (33, 20, 3)
OPTIMIZERS = (bp.SGD(0.1, momentum=0.9), bp.Adam(0.01))
on_both = pytest.mark.parametrize(
    "backend", ["emulated", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)


def trained(device, sizes, path, *, dtype="float32", precision="float32", **options):
    activations = ["tanh"] * (len(sizes) - 2) + ["softmax"]
    net = bp.MLP(sizes, activations, device=device, dtype=dtype, precision=precision)
    random = np.random.default_rng(0)
    x = random.normal(size=(11, sizes[0]))
    y = np.eye(sizes[-1])[random.integers(0, sizes[-1], 11)]
    options = {"loss": "cce", "epochs": 6, "batch_size": 4, "path": path} | options
    history = bp.train(net, x, y, **options)
    assert history.path == path
    return net.backend.to_numpy(net.parameters), history.loss


def check(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@on_both
@pytest.mark.parametrize("path", ["steps", "one launch"])
@pytest.mark.parametrize("sizes", [WARP, BLOCK], ids=["a warp", "a block"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["SGD", "Adam"])
def test_small_networks_train_as_numpy_does(optimizer, sizes, path, backend, dtype):
    found = trained(backend, sizes, path, dtype=dtype, optimizer=optimizer)
    expected = trained("cpu", sizes, "steps", dtype="float64", optimizer=optimizer)
    check(found, expected, {"float32": 1e-4, "float64": 1e-10}[dtype.name])


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["gpu"], indirect=True)
@pytest.mark.parametrize(
    ("path", "precision"), [("steps", "tf32"), ("steps", "bf16"), ("one launch", "tf32")]
)
def test_small_networks_in_less_precision(path, precision, backend):
    try:
        found = trained("cuda", BLOCK, path, precision=precision)
    except bp.DomainError as reason:  # an old GPU
        pytest.skip(str(reason))
    expected = trained("cpu", BLOCK, "steps", dtype="float64")
    check(found, expected, {"tf32": 3e-3, "bf16": 2e-2}[precision])


@on_both
def test_many_small_networks_share_a_launch(backend):
    x, y = np.random.default_rng(0).normal(size=(2, 9, 2))
    together, alone = ([bp.MLP([2, 5, 2], device=backend, seed=i) for i in range(5)] for _ in "12")
    options = {"epochs": 3, "batch_size": 4, "path": "one launch"}
    bp.train_many(together, x, y, **options)
    for seed, (one, other) in enumerate(zip(together, alone, strict=True)):
        bp.train(other, x, y, seed=seed, **options)
        to_numpy = backend.to_numpy
        np.testing.assert_array_equal(to_numpy(one.parameters), to_numpy(other.parameters))

"""Small networks on a GPU, each path by itself: few launches, for tools that watch each of them.

``make bench-gpu`` runs these under compute-sanitizer. Without a GPU, the shim runs the kernels.
"""

from copy import copy

import numpy as np
import pytest
from host.device import StandInDevice, stand_in_cublas

import backprop_gpu as bp
from backprop_gpu.data import StreamedBatches

WARP, BLOCK = (5, 3, 5, 4), (33, 20, 3)
OPTIMIZERS = (bp.SGD(0.1, momentum=0.9), bp.Adam(0.01))
on_both = pytest.mark.parametrize(
    "backend", ["emulated", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)


class Sliced:
    """The least that is streamed."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __getitem__(self, rows):
        return self.values[rows]


def in_batches(x, y):
    return [(x[i : i + 2], y[i : i + 2]) for i in range(0, len(x), 2)]


def trained(
    device,
    sizes,
    path,
    *,
    dtype="float32",
    precision="float32",
    source=lambda x, y: (x, y),
    **options,
):
    activations = ["tanh"] * (len(sizes) - 2) + ["softmax"]
    net = bp.MLP(sizes, activations, device=device, dtype=dtype, precision=precision)
    random = np.random.default_rng(0)
    x = random.normal(size=(11, sizes[0]))
    y = np.eye(sizes[-1])[random.integers(0, sizes[-1], 11)]
    options = {"loss": "cce", "epochs": 6, "batch_size": 4, "path": path} | options
    history = bp.train(net, *source(x, y), **options)
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


@on_both
@pytest.mark.parametrize("path", ["steps", "one launch"])
@pytest.mark.parametrize("sizes", [WARP, BLOCK], ids=["a warp", "a block"])
def test_gradients_of_small_networks_are_clipped(sizes, path, backend):
    options = {"clip_value": 0.05, "clip_norm": 0.1, "optimizer": bp.SGD(0.5)}
    found = trained(backend, sizes, path, **options)
    check(found, trained("cpu", sizes, "steps", dtype="float64", **options), 1e-4)


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
@pytest.mark.parametrize("batch_size", [None, 4], ids=str)
def test_small_networks_in_graphs_get_the_bits_of_single_launches(batch_size, backend):
    """Plain gradient descent, which cuBLAS does with numbers that it reads on the device."""
    if backend.xp is np:
        products = stand_in_cublas()
        backend = StandInDevice().backend(products.gemm, descend=products.descend)
    graphs, in_graphs, singly = [], copy(backend), copy(backend)
    in_graphs._capture = lambda calls: graphs.append(len(calls)) or backend._capture(calls)
    singly._capture = None
    options = {"batch_size": batch_size, "epochs": 20, "optimizer": bp.SGD(0.1)}
    found, expected = (trained(b, BLOCK, "steps", **options) for b in (in_graphs, singly))
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert max(graphs) > min(graphs) > 0  # of many steps, of one


@on_both
@pytest.mark.parametrize(
    ("source", "options"),
    [
        (lambda x, y: (Sliced(x), Sliced(y)), {}),
        (lambda x, y: (lambda epoch: in_batches(x, y),), {"batch_size": None}),
    ],
    ids=["windows", "batches"],
)
def test_small_networks_on_streamed_data(source, options, backend, monkeypatch):
    """Each batch is copied on a stream of its own, to memory that others were in."""
    monkeypatch.setitem(StreamedBatches.__init__.__kwdefaults__, "window_bytes", 1)
    options = {"source": source, "optimizer": bp.SGD(0.1, momentum=0.9), **options}
    found = trained(backend, BLOCK, "steps", **options)
    check(found, trained("cpu", BLOCK, "steps", dtype="float64", **options), 1e-4)


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

"""What the library asks of CuPy, on a GPU or a simulated one; see `make test-gpu`."""

import ctypes
import pickle
import sys
from functools import partial
from itertools import count
from threading import Barrier, Thread
from types import SimpleNamespace

import numpy as np
import pytest
from host import simulated_gpu

import backprop_gpu as bp
from backprop_gpu import kernels, passes
from backprop_gpu.backends import cublas, cupy_device
from backprop_gpu.training import run

on_gpu = pytest.mark.parametrize(
    "backend", [pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)
FLOAT32 = np.dtype("float32")
SHARING = """
extern "C" __global__ void reversed_row(const float* row, float* out, int n) {
    extern __shared__ float shared[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) shared[i] = row[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = shared[n - 1 - i];
}
"""


def matrices(backend, seed=0):
    random = np.random.default_rng(seed)
    A, B = (random.normal(size=(33, 33)).astype(FLOAT32) for _ in range(2))
    return backend.asarray(A, FLOAT32), backend.asarray(B, FLOAT32), A.astype(float) @ B


@on_gpu
def test_a_graph_is_launched_on_the_current_stream(backend):
    A, B, expected = matrices(backend)
    out, ones = backend.empty((33, 33), FLOAT32), backend.asarray(np.ones(33), FLOAT32)
    relu, work = bp.activations.find_activation("relu"), []
    work.append(lambda: backend.gemm(A, B, out))
    work.append(lambda: backend.bias_activation(out, ones, relu, out))
    for call in work:  # compiles
        call()
    launch = cupy_device.capture(work)
    out.fill(7)
    with backend.xp.cuda.Stream(non_blocking=True) as stream:
        backend.xp.cuda.Device().synchronize()
        launch()
        found = out.get(stream)
    np.testing.assert_allclose(found, np.maximum(expected + 1, 0), rtol=1e-5, atol=1e-5)


@on_gpu
def test_what_is_captured_is_not_done(backend):
    A, B, expected = matrices(backend)
    out = backend.asarray(np.full((33, 33), 7), FLOAT32)
    launch = cupy_device.capture([lambda: backend.gemm(A, B, out)])
    assert (out == 7).all()
    launch()
    np.testing.assert_allclose(backend.to_numpy(out), expected, rtol=1e-4, atol=1e-5)


@on_gpu
def test_a_capture_ends_when_a_call_fails(backend):
    A, B, expected = matrices(backend)
    out = backend.empty((33, 33), FLOAT32)
    with pytest.raises(ZeroDivisionError):
        cupy_device.capture([lambda: backend.gemm(A, B, out), lambda: 1 / 0])
    with pytest.raises(Exception, match=r"(?i)captur|cudaError"):
        cupy_device.capture([backend.xp.cuda.Device().synchronize])
    launch = cupy_device.capture([lambda: backend.gemm(A, B, out)])
    launch()
    np.testing.assert_allclose(backend.to_numpy(out), expected, rtol=1e-4, atol=1e-5)


@on_gpu
def test_what_a_graph_reads_may_change_between_launches(backend):
    A, B, _ = matrices(backend)
    numbers = backend.asarray([0, 0, 1, 0], FLOAT32)
    W = backend.asarray(np.zeros((33, 33)), FLOAT32)
    launch = cupy_device.capture([lambda: backend.descend(A, B, W, numbers)])
    for alpha, beta in ((1, 0), (-0.5, 1), (2, -1)):
        expected = beta * backend.to_numpy(W) + alpha * (backend.to_numpy(A) @ backend.to_numpy(B))
        numbers[2:] = backend.asarray([alpha, beta], FLOAT32)
        launch()
        np.testing.assert_allclose(backend.to_numpy(W), expected, rtol=1e-4, atol=1e-4)


@on_gpu
def test_products_on_several_streams_do_not_meet(backend, random_streams):
    """cuBLAS works in a part of memory that it is given, and may do so on two streams at once."""
    streams = [backend.xp.cuda.Stream(non_blocking=True) for _ in range(3)]
    pairs = [matrices(backend, seed) for seed in range(3)]
    outs = [backend.empty((33, 33), FLOAT32) for _ in pairs]
    graphs = []
    for stream, (A, B, _), out in zip(streams, pairs, outs, strict=True):
        with stream:
            graphs.append(cupy_device.capture([partial(backend.gemm, A, B, out)]))
    backend.synchronize()
    for _ in range(10):
        for launch, stream, (A, B, _), out in zip(graphs, streams, pairs, outs, strict=True):
            out.fill(0)
            backend.synchronize()
            with stream:
                launch()
                backend.gemm(A, B, out)
        backend.xp.cuda.Device().synchronize()
        for (_, _, expected), out in zip(pairs, outs, strict=True):
            np.testing.assert_allclose(backend.to_numpy(out), expected, rtol=1e-4, atol=1e-5)


@on_gpu
def test_a_networks_outputs_on_several_streams_do_not_meet(backend, random_streams):
    net = bp.MLP([33, 20, 5], device=backend)
    streams = [backend.xp.cuda.Stream(non_blocking=True) for _ in range(3)]
    inputs = [matrices(backend, seed)[0] for seed in range(3)]
    expected = [net.copy(device="cpu")(backend.to_numpy(x)) for x in inputs]
    backend.synchronize()
    for _ in range(10):
        found = []
        for stream, x in zip(streams, inputs, strict=True):
            with stream:
                found.append(net(x))
        backend.xp.cuda.Device().synchronize()
        for a, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(backend.to_numpy(a), wanted, rtol=1e-4, atol=1e-5)


@on_gpu
def test_a_new_network_is_there_for_every_stream(backend, late_streams):
    x, _, _ = matrices(backend)
    on_cpu = bp.MLP([33, 20, 5], device="cpu", seed=0)
    expected, pickled = on_cpu(backend.to_numpy(x)), pickle.dumps(on_cpu.copy(device=backend))
    backend.synchronize()
    for make in (
        lambda: bp.MLP([33, 20, 5], device=backend, seed=0),
        partial(pickle.loads, pickled),
    ):
        net = make()
        with backend.xp.cuda.Stream(non_blocking=True):
            np.testing.assert_allclose(backend.to_numpy(net(x)), expected, rtol=1e-4, atol=1e-5)


def stopped_early(net, x, y, **options):
    held_out = {"validation": (x[:10] + 1, -y[:10]), "early_stopping": bp.EarlyStopping(2)}
    bp.train(net, x, y, epochs=30, optimizer=bp.SGD(0.5), **held_out, **options)


def diverged(net, x, y, **options):
    with pytest.raises(bp.TrainingDiverged):
        bp.train(net, 100 * x, y, epochs=30, optimizer=bp.SGD(1e9), **options)


def trained_together(net, x, y, **options):
    bp.train_many([net, net.copy()], x, y, epochs=3, **options)


@on_gpu
@pytest.mark.parametrize("train", [stopped_early, diverged, trained_together])
def test_what_training_leaves_is_there_for_every_stream(train, backend, late_streams):
    x = np.random.default_rng(0).normal(size=(40, 3))
    on_cpu = bp.MLP([3, 8, 1], device="cpu", seed=1)
    net = on_cpu.copy(device=backend)
    train(on_cpu, x, np.sin(x[:, :1]), batch_size=10, path="steps")
    with backend.xp.cuda.Stream(non_blocking=True):
        train(net, x, np.sin(x[:, :1]), batch_size=10, path="one launch")
    with backend.xp.cuda.Stream(non_blocking=True):
        found = backend.to_numpy(net.parameters)
    np.testing.assert_allclose(found, on_cpu.parameters, rtol=1e-3, atol=1e-5)


@on_gpu
def test_arrays_in_a_list_are_to_be_made_one(backend):
    with pytest.raises(bp.DtypeError, match=r"make one, cupy\.stack\(x\)$"):
        bp.MLP([3, 2], device=backend)([backend.xp.ones(3), backend.xp.ones(3)])


def another_gpu():
    if reason := cupy_device.unusable(1):
        pytest.skip(reason)
    return cupy_device.open_gpu(1, "float32")


@on_gpu
def test_arrays_on_another_gpu_are_brought_here(backend, late_streams):
    x, other = np.random.default_rng(0).normal(size=(6, 8)), another_gpu()
    expected = bp.MLP([4, 5, 2], device="cpu")(x[::2, ::-2])
    with backend.xp.cuda.Device(0):
        given = backend.xp.asarray(x)[::2, ::-2]
    found = bp.MLP([4, 5, 2], device=other)(given)
    assert found.device.id == 1
    np.testing.assert_allclose(other.to_numpy(found), expected, rtol=1e-5)


@on_gpu
@pytest.mark.parametrize("path", ["steps", "one launch"])
def test_a_network_on_another_gpu_trains_there(path, backend, late_streams):
    other = another_gpu()
    x, y = np.random.default_rng(0).normal(size=(2, 40, 3))
    options = {"batch_size": 7, "epochs": 20, "validation": (x, y), "optimizer": bp.Adam(0.01)}
    options["early_stopping"] = bp.EarlyStopping(3)
    nets = [bp.MLP([3, 6, 3], device=device) for device in ("cpu", other)]
    histories = [bp.train(nets[0], x, y, path="steps", **options)]
    histories += [bp.train(nets[1], backend.xp.asarray(x), y, path=path, **options)]
    np.testing.assert_allclose(histories[1].loss, histories[0].loss, rtol=1e-4)
    np.testing.assert_allclose(other.to_numpy(nets[1](x)), nets[0](x), rtol=1e-3, atol=1e-5)


@on_gpu
def test_what_takes_numbers_takes_them_from_a_gpu(backend, tmp_path):
    net = bp.MLP([3, 4, 2], device=backend, dtype="float64")
    x, y = backend.xp.ones((5, 3)), backend.xp.zeros((5, 2))
    assert bp.check_gradients(net, x, y).largest_error < 1e-6
    labels = backend.xp.asarray([0, 2])
    np.testing.assert_array_equal(bp.one_hot(labels), bp.one_hot([0, 2]))
    bp.train_many([net], x, y, rows=[labels], epochs=1)
    bp.save(net.copy(device="cpu"), tmp_path / "net.safetensors", arrays={"labels": labels})
    assert bp.saving.read(tmp_path / "net.safetensors").arrays["labels"].tolist() == [0, 2]


@on_gpu
def test_a_trace_from_elsewhere_is_refused(backend):
    net = bp.MLP([3, 2], device=backend)
    twin = net.copy(device="cpu")
    for one, other in ((net, twin), (twin, net)):
        with pytest.raises(bp.DeviceError, match="the trace is on"):
            one.backward(other.forward(np.ones((4, 3))), np.ones((4, 2)))


@on_gpu
def test_a_graph_works_where_its_stream_does(backend):
    """It takes no memory of its own, that is, but that of the stream it is captured for."""
    A, B, _ = matrices(backend)
    out = backend.empty((33, 33), FLOAT32)
    pool = backend.xp.get_default_memory_pool()
    with backend.xp.cuda.Stream(non_blocking=True):
        backend.gemm(A, B, out)
        before = pool.used_bytes()
        graphs = [cupy_device.capture([partial(backend.gemm, A, B, out)]) for _ in range(3)]
        assert pool.used_bytes() - before < cublas.WORKSPACE
    assert len(graphs) == 3


def test_streams_of_each_threads_own_have_one_name_and_several_turns(monkeypatch):
    stream = SimpleNamespace(ptr=cupy_device.OF_EACH_THREAD)
    cuda = SimpleNamespace(get_current_stream=lambda: stream)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    together, found = Barrier(2), []

    def work():
        together.wait()  # or the second could be given the number of the first
        found.append(cupy_device._streams())
        together.wait()

    threads = [Thread(target=work) for _ in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (one, first), (other, second) = found
    assert one == other == stream.ptr
    assert first != second


@on_gpu
@pytest.mark.parametrize(("precision", "bits"), [("float32", 24), ("tf32", 11), ("bf16", 8)])
def test_a_precision_is_how_many_bits_of_a_factor_count(precision, bits, backend, request):
    if precision != "float32" and int(backend.xp.cuda.Device().compute_capability) < 80:
        pytest.skip("a GPU older than sm_80 has float32 only")
    opened = cupy_device.open_gpu(0, precision)
    out = opened.empty((16, 16), FLOAT32)
    one = opened.asarray(np.eye(16), FLOAT32)
    for power in (bits - 1, bits):
        A = np.full((16, 16), 1 + 2.0**-power, FLOAT32)
        opened.gemm(opened.asarray(A, FLOAT32), one, out)
        exact = (opened.to_numpy(out) == A).all()
        assert exact or power == bits  # cuBLAS may take more bits than it has to
        assert not (exact and power == bits < 24 and request.config.option.simulate_gpu)


@on_gpu
@pytest.mark.parametrize("share", ["a little", "all there is"])
def test_dynamic_shared_memory_is_asked_for(share, backend):
    most = backend.xp.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]
    n = 100 if share == "a little" else most // 4
    row, out = backend.asarray(np.arange(n), FLOAT32), backend.empty((n,), FLOAT32)
    launch = kernels.Launch((1, 1, 1), (256, 1, 1))
    backend.launch(SHARING, "reversed_row", launch, [row, out, np.int32(n)], 4 * n)
    np.testing.assert_array_equal(backend.to_numpy(out), np.arange(n)[::-1])
    if share == "all there is":
        with pytest.raises(Exception, match=r"INVALID_VALUE|simulated"):
            backend.launch(SHARING, "reversed_row", launch, [row, out, np.int32(n)], most + 4)


class Allocations:
    """CuPy's requests for memory, meanwhile: those that its pool can fulfil, too."""

    def __init__(self, cupy):
        counted = self

        class Hook(cupy.cuda.MemoryHook):
            name = "counted"

            def malloc_preprocess(self, **_):
                counted.count += 1

        self.hook, self.count = Hook(), 0

    def __enter__(self):
        self.hook.__enter__()
        return self

    def __exit__(self, *error):
        self.hook.__exit__(*error)


@on_gpu
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": bp.Adam(0.01)}, {"clip_norm": 0.1}, {"batch_size": None, "epochs": 1400}],
    ids=["SGD", "Adam", "clipped", "one batch"],
)
def test_steps_take_no_memory_and_a_chunk_of_them_is_read_once(
    options, shuffle, backend, late_streams, monkeypatch
):
    clock = SimpleNamespace(perf_counter=partial(next, count(step=0.6 * run.CHUNK_SECONDS)))
    monkeypatch.setattr(run, "time", clock)  # each chunk is twice as long as the last
    net, y = bp.MLP([3, 5, 2], device=backend), np.zeros((23, 2))
    chunks = []

    def look(run):
        chunks.append((run.step, allocations.count, *simulated_gpu.counts().values()))

    with Allocations(backend.xp) as allocations:
        options = {"batch_size": 4, "epochs": 700, "path": "steps"} | options
        bp.train(net, np.ones((23, 3)), y, shuffle=shuffle, progress=look, **options)
    steps, allocated, reads, waits, *_ = np.diff(chunks, axis=0).T
    assert len(reads) >= 4
    assert set(reads) == set(waits) == {1}
    grew = steps > np.maximum.accumulate([0, *steps[:-1]])  # then its report needs room
    assert (allocated[-3:] <= grew[-3:]).all()


@on_gpu
@pytest.mark.parametrize("piece", [None, 64], ids=["at once", "in pieces"])
def test_epochs_with_validation_take_no_memory_and_are_read_twice(
    piece, backend, late_streams, monkeypatch
):
    if piece:
        monkeypatch.setattr(passes, "PIECE", piece)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(48, 3)), random.normal(size=(48, 2))
    options = {"validation": (x[:30] / 2, y[:30]), "early_stopping": bp.EarlyStopping(patience=20)}
    options |= {"epochs": 12, "batch_size": 8, "optimizer": bp.SGD(0.1), "path": "steps"}
    epochs = []

    def look(epoch):
        epochs.append((allocations.count, *simulated_gpu.counts().values()))

    with Allocations(backend.xp) as allocations:
        net = bp.MLP([3, 5, 2], device=backend)
        found = bp.train(net, x, y, callbacks=[look], **options)
    expected = bp.train(bp.MLP([3, 5, 2], device="cpu"), x, y, **options)
    np.testing.assert_allclose(found.validation_loss, expected.validation_loss, rtol=1e-4)
    allocated, reads, waits, *_ = np.diff(epochs, axis=0)[3:].T
    assert set(allocated) == {0}
    assert set(reads) == set(waits) == {2}  # the report, and the loss of the validation data


@on_gpu
def test_null_pointers_and_scalars_arrive(backend):
    source = """
    extern "C" __global__ void told(const float* none, double x, long long n, float* out) {
        out[0] = none == nullptr;
        out[1] = x;
        out[2] = n >> 32;
    }
    """
    out = backend.empty((3,), FLOAT32)
    one = kernels.Launch((1, 1, 1), (1, 1, 1))
    backend.launch(source, "told", one, [None, np.float64(0.5), np.int64(5 << 32), out])
    assert backend.to_numpy(out).tolist() == [1, 0.5, 5]


@pytest.mark.parametrize(
    ("platform", "name"), [("linux", "libcublas.so.13"), ("win32", "cublas64_13.dll")]
)
def test_cublas_is_the_one_that_cupy_has_loaded(platform, name, monkeypatch):
    asked = []
    runtime = SimpleNamespace(runtimeGetVersion=lambda: 13020)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    loaded = SimpleNamespace(cublas=asked.append("cublas by CuPy"))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", loaded)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: path)
    assert cupy_device._libcublas() == name

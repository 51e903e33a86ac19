"""Who is timed on a GPU, and how: each contestant's results are checked before its time counts."""

import json
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from host.device import StandInDevice, stand_in_cublas
from host.needs import needs_gpp
from tiny_case import ROW, TINY

from backprop_gpu.backends.cupy_device import unusable
from backprop_gpu.benchmark.speed import Network
from benchmarks.gpu import contestants, peers, race
from benchmarks.gpu.contestants import OWN, Contestant, Entry
from benchmarks.gpu.peers import PEERS
from benchmarks.gpu.race import CONTESTANTS
from benchmarks.gpu.rows import BLOCK, GEMM, GRAPHS, MANY, SINGLY, TRAIN, WARP, Case, Row

TOGETHER = replace(TINY, networks=3)
HERE = [*(name for name in OWN if name != MANY), "CuPy script"]
OPEN_BACKEND = contestants.open_backend


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Time for a moment only, and on what stands for a GPU."""
    monkeypatch.setattr(race, "BLOCKS", 3)
    for name in ("BLOCK_SECONDS", "LONG_SECONDS"):
        monkeypatch.setattr(race, name, 1e-3)
    monkeypatch.setattr(contestants, "MOST", 2)
    monkeypatch.setattr(contestants, "LONG_MANY", 2)
    monkeypatch.setattr(contestants, "open_backend", lambda _: StandInDevice().backend())


def raced(name, case):
    return race.race(name, [case], race.references_of([case]))


# ---- the library ---------------------------------------------------------------------------------


@needs_gpp
@pytest.mark.parametrize(
    ("name", "case"),
    [*((name, TINY) for name in HERE), *((name, TOGETHER) for name in (WARP, BLOCK, MANY))],
)
def test_the_librarys_ways_are_checked_and_timed(name, case):
    (row,) = raced(name, case)
    assert (row.implementation, row.network, row.batch, row.note) == (name, "tiny", 5, "")
    assert 0 < row.asked <= row.seconds < row.first
    assert row.on_device is None
    assert (row.error is None) == (name == GEMM)
    assert row.error is None or row.error < 1e-6
    record = json.loads(json.dumps(row.record()))
    assert Row.of_record(record) == replace(row, layer_sizes=[3, 4, 2])
    assert record["throughput"] == pytest.approx(5 / row.seconds)


@needs_gpp
def test_each_path_is_the_one_that_it_says(monkeypatch):
    def way(name, **changes):
        device = StandInDevice()
        monkeypatch.setattr(contestants, "open_backend", lambda _: device.backend())
        contestant = CONTESTANTS[name].build(replace(TINY, **changes))
        contestant.ask(2)
        before = device.launches
        contestant.ask(8)
        return contestant.plan, device.launches - before, device.graphs

    assert way(GRAPHS, window=2)[:2] == ("CUDA graphs of up to 2 steps", 0)
    plan, launches, graphs = way(SINGLY)
    assert plan == "each kernel launched from Python"
    assert launches > 8 * 5
    assert graphs == []
    assert way(WARP) == ("one launch: train_warp", 1, [])
    assert way(BLOCK) == ("one launch: train_block", 1, [])
    assert way(TRAIN)[0].startswith("one launch: small products")


@needs_gpp
def test_a_network_that_a_kernel_does_not_take_is_told_and_the_next_one_timed():
    wide = Case(Network("wide", (3, 40, 2), 5), "float32")
    refused, row = race.race(WARP, [wide, TINY], {})
    assert refused.note == "train_warp can't train this network; train_block can"
    assert refused.seconds is None
    assert row.seconds


@needs_gpp
def test_products_are_of_numbers_not_of_zeros(monkeypatch):
    """Zeros take a GPU less power, and so less time."""
    factors = []

    def multiply(A, B, out):
        factors.extend([A.copy(), B.copy()])
        np.dot(A, B, out)

    backend = StandInDevice().backend(multiply)
    monkeypatch.setattr(backend, "empty", np.zeros)
    monkeypatch.setattr(contestants, "open_backend", lambda _: backend)
    contestant = CONTESTANTS[GEMM].build(TINY)
    factors.clear()
    contestant.ask(2)
    assert len(factors) == 2 * 2 * 5  # of two steps: two layers forward, one back, two gradients
    assert all(np.any(factor) for factor in factors)


# ---- what a user could take instead --------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PEERS if name not in HERE])
def test_peers_that_find_no_gpu_say_so(name, monkeypatch):
    module = pytest.importorskip(PEERS[name].module)
    if module.__name__ == "torch":
        monkeypatch.setattr(module.cuda, "is_available", lambda: False)
    monkeypatch.setattr(peers, "JAX_PLATFORM", "of another kind")
    (row,) = raced(name, TINY)
    assert row.seconds is None
    assert row.note.startswith("RuntimeError: this")


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Let peers compute on the CPU, where they take TF32 for float32."""
    monkeypatch.setattr(peers, "TORCH_DEVICE", "cpu")
    monkeypatch.setattr(peers, "JAX_PLATFORM", "cpu")
    monkeypatch.setattr(peers, "EPOCH", 4)


def tiny_in(precision, networks=1):
    dtype = "float64" if precision == "float64" else "float32"
    return Case(replace(TINY.network, dtype=dtype), precision, networks=networks)


@pytest.mark.parametrize("precision", ["float64", "float32", "tf32", "bf16"])
@pytest.mark.parametrize("name", ["PyTorch", "PyTorch, vmap", "JAX, scan"])
def test_peers_compute_the_same(name, precision, on_the_cpu):
    pytest.importorskip(PEERS[name].module)
    for networks in (1, 3):
        (row,) = raced(name, tiny_in(precision, networks))
        assert row.note == ""
        assert row.error < race.TOLERANCE[precision]
        assert (row.error > 1e-4) == (precision == "bf16")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own
def test_torch_compiles_as_many_networks_as_there_are(on_the_cpu, monkeypatch):
    torch = pytest.importorskip("torch")
    compile, compiled = torch.compile, []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    def quickly(function, mode=None, **options):
        return compile(function, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", quickly)
    limit = torch._dynamo.config.recompile_limit
    for nodes in range(1, limit + 3):
        compiled.clear()
        (row,) = raced("torch.compile", replace(TINY, network=Network("t", (3, nodes, 2), 5)))
        assert row.note == ""
        assert len(compiled) >= 2, nodes  # the loss, and the update


class Replayed:
    """Stands for a CUDA graph: what PyTorch does in its context is done again, in place."""

    def __init__(self):
        self.calls = []

    @contextmanager
    def recorded(self):
        from torch.utils._python_dispatch import TorchDispatchMode

        calls = self.calls

        class Recording(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                kwargs = kwargs or {}
                out = function(*args, **kwargs)
                calls.append((function, args, kwargs, out))
                return out

        with Recording():
            yield

    def replay(self):
        import torch

        with torch.no_grad():
            for function, args, kwargs, out in self.calls:
                again = function(*args, **kwargs)
                for old, new in zip(
                    *map(torch.utils._pytree.tree_leaves, (out, again)), strict=True
                ):
                    if old is not new and isinstance(old, torch.Tensor):
                        old.copy_(new)


@pytest.mark.parametrize("precision", ["float64", "float32", "bf16"])
def test_torchs_graph_begins_with_the_parameters_that_are_given(precision, on_the_cpu, monkeypatch):
    """Its kernels write to where they wrote when they were recorded, so nothing may have moved."""
    torch = pytest.importorskip("torch")
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, stand_in in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": nullcontext,
        "CUDAGraph": Replayed,
        "graph": Replayed.recorded,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    (row,) = raced("PyTorch, CUDA graph", tiny_in(precision))
    assert row.note == ""
    assert row.error < race.TOLERANCE[precision]


# ---- what is right -------------------------------------------------------------------------------


def test_references_are_numpys_losses_in_double():
    (losses,) = race.references_of([TINY, TOGETHER]).values()
    other = replace(TINY, network=replace(TINY.network, dtype="float64"))  # has data of its own
    assert len(race.references_of([TINY, other])) == 2
    net, x, y = TINY.network.build("cpu", 5)
    assert losses[0] == pytest.approx(net.copy(dtype="float64").loss(x, y), rel=1e-12)
    assert np.all(np.diff(losses) < 0)


@needs_gpp
def test_what_is_wrong_is_not_timed():
    wrong = {TINY.key: [1.0, 1.0, 1.0]}
    (row,) = race.race(GRAPHS, [TINY], wrong)
    assert row.seconds is None
    assert "wrong" in row.note
    assert row.error > 0.1


def test_not_a_number_is_wrong():
    nothing = Contestant(lambda times: [float("nan")] * times, lambda: None)
    assert "wrong" in race.timed(lambda: nothing, ROW, [1.0] * 3).note


def test_what_fails_is_the_last_of_its_process(monkeypatch):
    monkeypatch.setitem(CONTESTANTS, "new", Entry(lambda case: 1 / 0, [TINY]))
    (row,) = race.race("new", [TINY, TINY], {})
    assert row.note == "ZeroDivisionError: division by zero"


# ---- what is timed -------------------------------------------------------------------------------


def test_everybody_is_timed_on_what_the_goals_are_about():
    def keys(name):
        return {(c.network.name, c.network.batch, c.precision) for c in CONTESTANTS[name].cases}

    for name in (TRAIN, GRAPHS, SINGLY, GEMM, "PyTorch, CUDA graph", "JAX, scan", "torch.compile"):
        assert {("textbook", 1, "float64"), ("small", 64, "tf32")} <= keys(name)
        for precision in ("float32", "tf32", "bf16"):
            assert {("wide", 1024, precision), ("large", 16384, precision)} <= keys(name)
    assert {case.networks for case in CONTESTANTS[MANY].cases} >= {1, 8192}


class Clock:
    """Time passes only where a test says so."""

    now = 0.0

    def passes(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(race.time, "perf_counter", lambda: clock.now)
    return clock


def test_the_host_and_the_device_are_timed_apart(clock):
    contestant = Contestant(
        ask=lambda times: clock.passes(2 * times),
        wait=lambda: clock.passes(3),
        mark=lambda: clock.now,
        between=lambda one, other: 1000 * (other - one),
    )
    assert race.block(contestant, 5) == (13, 10, 10)
    row = race.timed(lambda: contestant, replace(ROW, networks=2), None)
    assert row.seconds == pytest.approx(2.5, abs=1)  # of one of the networks
    assert row.asked == row.on_device == 1


def test_blocks_are_as_long_as_they_have_to_be(clock, monkeypatch):
    monkeypatch.setattr(race, "BLOCK_SECONDS", 50)
    monkeypatch.setattr(race, "LONG_SECONDS", 150)
    monkeypatch.setattr(race, "LONG", 120)

    def size(least, **options):
        return race.block_size(Contestant(clock.passes, lambda: None, least=least, **options))

    assert size(1) == (50, race.BLOCKS)
    assert size(1, long=True) == (150, race.LONG_BLOCKS)
    assert size(20) == (40, race.BLOCKS)
    assert size(100) == (100, race.BLOCKS)
    assert size(200) == (200, race.LONG_BLOCKS)


@pytest.fixture
def rates(monkeypatch):
    """What finds the rates, by small products."""
    monkeypatch.setattr(race, "SIDES", dict.fromkeys(race.SIDES, 16))
    return race.rates


@needs_gpp
def test_rates_are_of_products_in_each_precision_and_of_a_copy(rates, monkeypatch):
    factors = {}

    def opened(precision):
        products = stand_in_cublas("float32" if precision == "float64" else precision)

        def multiply(A, B, out):
            factors[precision] = A.dtype.name, out.dtype.name
            products.gemm(A, B, out)

        return StandInDevice().backend(multiply)

    monkeypatch.setattr(contestants, "open_backend", opened)
    found = rates()
    kinds = ("float32", "tf32", "bf16", "float64")
    assert set(found) == {*(f"FLOP/s, {kind}" for kind in kinds), "bytes/s, copied"}
    assert min(found.values()) > 0
    assert factors == {
        **dict.fromkeys(("float32", "tf32"), ("float32", "float32")),
        "bf16": ("uint16", "float32"),
        "float64": ("float64", "float64"),
    }


def test_bf16_is_rounded_to_the_nearest():
    ulp = 2.0**-7
    given = [1, 1 + 0.49 * ulp, 1 + ulp / 2, 1 + 0.51 * ulp, 1 + 1.5 * ulp, -3 - ulp, 2.0**-130]
    expected = [1, 1, 1, 1 + ulp, 1 + 2 * ulp, -3, 2.0**-130]
    bits = race.bfloat16_bits(np.array(given, np.float32)).astype(np.uint32)
    assert (bits << 16).view(np.float32).tolist() == expected


# ---- on a GPU ------------------------------------------------------------------------------------


@pytest.fixture
def on_a_gpu(monkeypatch):
    if reason := unusable():
        pytest.skip(reason)
    monkeypatch.setattr(contestants, "open_backend", OPEN_BACKEND)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "case"),
    [
        *product(HERE, (TINY, replace(TINY, precision="tf32"))),
        *product((WARP, BLOCK, MANY), [TOGETHER]),
    ],
)
def test_on_a_gpu_events_time_the_device_apart(name, case, on_a_gpu):
    (row,) = raced(name, case)
    if case.precision == "tf32" and name == WARP:
        assert row.note == "train_warp can't train this network; train_block can"
        return
    assert row.note == ""
    assert row.on_device > 0
    assert row.error is None or row.error < race.TOLERANCE[case.precision]


@pytest.mark.gpu
def test_rates_of_a_gpu(on_a_gpu, rates):
    assert min(rates().values()) > 0

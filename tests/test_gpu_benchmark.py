"""What checks and times the library on a GPU: its logic, where there is none."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from host.device import StandInDevice, stand_in_cublas
from host.needs import needs_gpp

from backprop_gpu import crossovers as own_crossovers
from backprop_gpu.backends.cupy_device import unusable
from backprop_gpu.benchmark import Network
from backprop_gpu.crossovers import CROSSOVERS, Crossover
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import contestants, measure, page, peers, race
from benchmarks.gpu.contestants import OWN, Contestant, Entry
from benchmarks.gpu.crossovers import crossovers_of, limit
from benchmarks.gpu.peers import PEERS
from benchmarks.gpu.race import CONTESTANTS
from benchmarks.gpu.roofline import step_bytes, svg
from benchmarks.gpu.rows import BLOCK, GEMM, GRAPHS, MANY, SINGLY, TRAIN, WARP, Case, Found, Row

ROOT = Path(__file__).resolve().parents[1]
TINY = Case(Network("tiny", (3, 4, 2), 5), "float32")
TOGETHER = replace(TINY, networks=3)
ROW = Row.of("one", TINY)
HERE = [*(name for name in OWN if name != MANY), "CuPy script"]
OPEN_BACKEND = contestants.open_backend


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(race, "BLOCKS", 3)
    for name in ("BLOCK_SECONDS", "LONG_SECONDS"):
        monkeypatch.setattr(race, name, 1e-3)
    monkeypatch.setattr(contestants, "MOST", 2)
    monkeypatch.setattr(contestants, "LONG_MANY", 2)
    monkeypatch.setattr(contestants, "open_backend", lambda _: StandInDevice().backend())


def raced(name, case):
    return race.race(name, [case], race.references_of([case]))


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
def test_rates_of_a_gpu(on_a_gpu, monkeypatch):
    monkeypatch.setattr(race, "SIDES", dict.fromkeys(race.SIDES, 16))
    assert min(race.rates().values()) > 0


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


def test_what_fails_is_the_last_of_its_process(monkeypatch):
    monkeypatch.setitem(CONTESTANTS, "new", Entry(lambda case: 1 / 0, [TINY]))
    (row,) = race.race("new", [TINY, TINY], {})
    assert row.note == "ZeroDivisionError: division by zero"


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


@pytest.mark.parametrize("precision", ["float64", "float32", "tf32", "bf16"])
@pytest.mark.parametrize("name", ["PyTorch", "PyTorch, vmap", "JAX, scan"])
def test_peers_compute_the_same(name, precision, on_the_cpu):
    pytest.importorskip(PEERS[name].module)
    dtype = "float64" if precision == "float64" else "float32"
    case = Case(replace(TINY.network, dtype=dtype), precision)
    for networks in (1, 3):
        (row,) = raced(name, replace(case, networks=networks))
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
    dtype = "float64" if precision == "float64" else "float32"
    (row,) = raced("PyTorch, CUDA graph", Case(replace(TINY.network, dtype=dtype), precision))
    assert row.note == ""
    assert row.error < race.TOLERANCE[precision]


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


def test_everybody_is_timed_on_what_the_goals_are_about():
    def keys(name):
        return {(c.network.name, c.network.batch, c.precision) for c in CONTESTANTS[name].cases}

    for name in (TRAIN, GRAPHS, SINGLY, GEMM, "PyTorch, CUDA graph", "JAX, scan", "torch.compile"):
        assert {("textbook", 1, "float64"), ("small", 64, "tf32")} <= keys(name)
        for precision in ("float32", "tf32", "bf16"):
            assert {("wide", 1024, precision), ("large", 16384, precision)} <= keys(name)
    assert {case.networks for case in CONTESTANTS[MANY].cases} >= {1, 8192}


def test_the_host_and_the_device_are_timed_apart(monkeypatch):
    now = [0.0]

    def passes(seconds):
        now[0] += seconds

    monkeypatch.setattr(race.time, "perf_counter", lambda: now[0])
    contestant = Contestant(
        ask=lambda times: passes(2 * times),
        wait=lambda: passes(3),
        mark=lambda: now[0],
        between=lambda one, other: 1000 * (other - one),
    )
    assert race.block(contestant, 5) == (13, 10, 10)
    row = race.timed(lambda: contestant, replace(ROW, networks=2), None)
    assert row.seconds == pytest.approx(2.5, abs=1)  # of one of the networks
    assert row.asked == row.on_device == 1


def test_blocks_are_as_long_as_they_have_to_be(monkeypatch):
    monkeypatch.setattr(race, "BLOCK_SECONDS", 50)
    monkeypatch.setattr(race, "LONG_SECONDS", 150)
    monkeypatch.setattr(race, "LONG", 120)
    now = [0.0]

    def ask(times):
        now[0] += times

    monkeypatch.setattr(race.time, "perf_counter", lambda: now[0])

    def size(least, **options):
        return race.block_size(Contestant(ask, lambda: None, least=least, **options))

    assert size(1) == (50, race.BLOCKS)
    assert size(1, long=True) == (150, race.LONG_BLOCKS)
    assert size(20) == (40, race.BLOCKS)
    assert size(100) == (100, race.BLOCKS)
    assert size(200) == (200, race.LONG_BLOCKS)


@needs_gpp
def test_rates_are_of_products_in_each_precision_and_of_a_copy(monkeypatch):
    factors = {}

    def opened(precision):
        products = stand_in_cublas("float32" if precision == "float64" else precision)

        def multiply(A, B, out):
            factors[precision] = A.dtype.name, out.dtype.name
            products.gemm(A, B, out)

        return StandInDevice().backend(multiply)

    monkeypatch.setattr(race, "SIDES", dict.fromkeys(race.SIDES, 16))
    monkeypatch.setattr(contestants, "open_backend", opened)
    found = race.rates()
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


# The process that starts the others.


@pytest.fixture
def processes(monkeypatch, tmp_path):
    """Make what a contestant's processes print and end with; return its rows, and their starts."""
    monkeypatch.setitem(CONTESTANTS, "one", Entry(None, [TINY] * 4, "json"))
    line = json.dumps(replace(ROW, seconds=1.0).record())

    def rows_of(*ends):
        starts, left = [], list(ends)

        def run(command, seconds):
            starts.append(int(command[command.index("--first") + 1]))
            count, rest, status = left.pop(0)
            return "\n".join([line] * count + [rest]), status

        monkeypatch.setattr(measure, "run", run)
        return measure.contestants_rows("one", tmp_path, 9), starts

    return rows_of


def test_a_contestant_that_dies_goes_on_with_the_next_case(processes):
    found, starts = processes((1, "Segmentation fault", -11), (2, "", 0))
    assert [row.note for row in found] == ["", "ended with -11: Segmentation fault", "", ""]
    assert starts == [0, 2]


def test_a_process_that_is_stopped_leaves_what_it_has_found(processes):
    found, starts = processes((3, "", None))
    assert [row.note for row in found] == ["", "", "", "stopped, for time ran out"]
    assert starts == [0]


def test_a_contestant_that_never_gets_anywhere_is_given_up(processes):
    found, starts = processes((0, "no GPU", 1), (0, "no GPU", 1))
    assert [row.note[:10] for row in found] == ["ended with", "ended with", "given up, "]
    assert starts == [0, 1]


def test_a_contestant_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(CONTESTANTS, "one", Entry(None, [TINY], "not_there"))
    (row,) = measure.contestants_rows("one", tmp_path, 9)
    assert (row.implementation, row.note) == ("one", "not_there is not installed")


def test_commands_are_stopped_when_their_time_is_over_and_what_they_started_too(tmp_path):
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(2); open({str(alive)!r}, 'w')"
    code = (
        "import subprocess, sys, time; print('first', flush=True);"
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    assert measure.run([sys.executable, "-c", code], 1) == ("first\n", None)
    assert measure.run([sys.executable, "-c", "raise SystemExit(3)"], 60) == ("", 3)
    assert measure.run([sys.executable, "-c", "import time; time.sleep(1.5)"], 60) == ("", 0)
    assert not alive.exists()


def test_the_head_says_on_what(monkeypatch):
    monkeypatch.setattr(measure.shutil, "which", lambda name: name)
    monkeypatch.setattr(measure, "run", lambda *_: ("a GPU, 580.1\n", 0))
    about = measure.about_gpu()
    assert {"date", "device", "GPU", "driver", "cupy", "torch", "jax", "NumPy"} <= set(about)
    assert about["driver"].startswith("a GPU, 580.1 (name,driver_version")
    assert measure.version("numpy") == f"numpy {np.__version__}"
    assert measure.version("not_there") == "not installed"


def test_the_tests_that_tools_watch_are_there_with_those_of_one_launch(monkeypatch):
    monkeypatch.setattr(measure.shutil, "which", lambda name, path: f"/there/{name}")
    monkeypatch.setattr(measure, "checked", lambda name, command, seconds: (name, command))
    (_, tests), (memcheck, command), (racecheck, filtered) = measure.checks(1.0)
    assert (memcheck, racecheck) == ("memcheck", "racecheck")
    assert command[:2] == ["/there/compute-sanitizer", "--tool=memcheck"]
    listed, status = measure.run([*command[command.index(sys.executable) :], "--collect-only"], 60)
    assert status == 0
    watched = ("a warp-one launch-gpu", "a block-one launch-gpu", "in_less_precision", "33-31")
    for name in (*watched, "in_graphs_get_the_bits", "on_streamed_data"):
        assert name in listed
    assert {"--kernel-name=kne=train", "--kernel-name=kne=loss_delta"} <= {*filtered} - {*command}
    assert {*measure.TESTS, "tests/test_gradients.py", "tests/test_data_uploads.py"} <= {*tests}
    assert all((ROOT / name).exists() for name in measure.TESTS)


def test_where_there_is_no_sanitizer_that_is_said(monkeypatch):
    monkeypatch.setattr(measure.shutil, "which", lambda name, path: None)
    monkeypatch.setattr(measure, "checked", lambda *_: {})
    assert [check.get("note") for check in measure.checks(1.0)][1:] == [
        "there is no compute-sanitizer"
    ] * 2


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Let all be found in so many minutes; return it, and the file that was written."""
    timed = replace(ROW, seconds=2e-5, asked=1e-6, on_device=1e-5, spread=0.01, error=1e-7)
    failed = {"check": "tests", "passed": False, "note": "", "output": ["1 failed"]}
    given, cases = [], 2

    def rows_of(name, references, seconds, done):
        given.append(seconds)
        if name == "two" and not done:
            return [replace(timed, implementation=name), Row.about(name, measure.OUT_OF_TIME)]
        return [replace(timed, implementation=name)] * (cases - done)

    names = ("one", "two", "three")
    for name in names:
        monkeypatch.setitem(CONTESTANTS, name, Entry(None, [TINY] * cases))
    monkeypatch.setattr(measure, "about_gpu", lambda: {"GPU": "none"})
    missing = {"check": "memcheck", "passed": None, "note": "", "output": []}
    monkeypatch.setattr(
        measure,
        "checks",
        lambda _, known: [c for c in (failed, missing) if c["check"] not in known],
    )
    monkeypatch.setattr(measure, "run", lambda *_: ('{"FLOP/s, float32": 1e12}\n', 0))
    monkeypatch.setattr(measure, "contestants_rows", rows_of)
    for name in measure.CACHES:
        monkeypatch.setenv(name, "")
    output = tmp_path / "new" / "gpu.json"
    return lambda *how: (measure.measure(output, how[0], names, *how[1:]), output, given)


def test_everything_that_was_found_is_written_and_shown(measured):
    found, output, _ = measured(1)
    assert Found.of_json(output.read_text()).to_json() == found.to_json()
    assert [row.implementation for row in found.rows] == ["one"] * 2 + ["two"] * 2 + ["three"] * 2
    text = page.report(found)
    for piece in ("FAILED", "1.000e+12", "20", "10", "tiny"):
        assert piece in text


def test_each_contestant_may_take_up_to_twice_its_share_and_the_last_one_all_that_is_left(measured):
    assert measured(1)[2] == pytest.approx([60 * 2 / 4, 60 * 2 / 3, 60], rel=0.1)


def test_a_run_goes_on_with_what_there_was_no_time_for(measured):
    measured(1)
    found, _, given = measured(1, True)
    assert len(given) == 3 + 1  # the second contestant's second case
    assert [row.implementation for row in found.rows] == ["one"] * 2 + [
        "two",
        "three",
        "three",
        "two",
    ]
    assert [check["check"] for check in found.checks] == ["tests", "memcheck"]
    assert all(row.seconds for row in found.rows)


def test_a_run_goes_on_only_on_the_same_gpu(measured, monkeypatch, capsys):
    _, output, _ = measured(1)
    before = output.read_text()
    monkeypatch.setattr(measure, "about_gpu", lambda: {"GPU": "another"})
    monkeypatch.setattr("backprop_gpu.backends.cupy_device.unusable", lambda: None)
    assert gpu.main([f"--output={output}", "--go-on"]) == 1
    assert "the results are of none, and here is another" in capsys.readouterr().err
    assert output.read_text() == before


def test_rates_that_are_not_found_are_named(measured, monkeypatch):
    monkeypatch.setattr(measure, "run", lambda *_: ("cudaErrorLaunchFailure", 1))
    found, _, _ = measured(1)
    assert found.rates == {}
    assert found.checks[-1]["output"] == ["cudaErrorLaunchFailure"]


@pytest.mark.parametrize(
    ("printed", "status", "passed", "note"),
    [
        ("...\n3 passed in 2.71s", 0, True, "3 passed in 2.71s"),
        ("sss\n3 skipped in 2.71s", 0, False, "3 skipped in 2.71s"),
        ("..F\n1 failed, 2 passed in 2.71s", 1, False, "1 failed, 2 passed in 2.71s"),
        ("...\n!! session-timeout: 1.0 sec exceeded !!\n3 passed in 2.71s", 1, None, "3 passed in"),
        (
            "..F\n!! session-timeout: 1.0 sec exceeded !!\n1 failed in 2.71s",
            1,
            False,
            "1 failed in",
        ),
        ("===== Invalid __global__ read\n3 passed in 2.71s", 9, False, "3 passed in 2.71s"),
        ("...", None, None, "..., stopped, for time ran out"),
        ("No module named pytest", 1, False, "No module named pytest"),
    ],
)
def test_tests_that_are_not_done_in_time_have_no_verdict(
    printed, status, passed, note, monkeypatch
):
    monkeypatch.setattr(measure, "run", lambda *_: (printed, status))
    check = measure.checked("tests", ["pytest"], 60)
    assert check["passed"] is passed
    assert check["note"].startswith(note)
    assert (measure.OUT_OF_TIME in check["note"]) == (passed is None)
    assert check["output"] == printed.splitlines()


def test_of_a_long_output_the_beginning_and_the_end_are_kept(monkeypatch):
    lines = [str(i) for i in range(1000)]
    monkeypatch.setattr(measure, "run", lambda *_: ("\n".join(lines), 1))
    kept = measure.checked("tests", ["pytest"], 60)["output"]
    assert (kept[0], kept[-1], len(kept)) == ("0", "999", measure.HEAD + 1 + measure.TAIL)


def test_a_record_that_a_process_was_stopped_in_is_left_out():
    assert measure.lines_of('{"a": 1}\nnoise\n{"b": 2') == [{"a": 1}]


def test_without_a_gpu_nothing_is_measured_and_nothing_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("backprop_gpu.backends.cupy_device.unusable", lambda: "there is none")
    output = tmp_path / "gpu.json"
    assert gpu.main([f"--output={output}"]) == 1
    assert capsys.readouterr().err == "nothing is measured: there is none\n"
    assert not output.exists()


def test_references_are_numpys_losses_in_double():
    (losses,) = race.references_of([TINY, TOGETHER]).values()
    other = replace(TINY, network=replace(TINY.network, dtype="float64"))  # has data of its own
    assert len(race.references_of([TINY, other])) == 2
    net, x, y = TINY.network.build("cpu", 5)
    assert losses[0] == pytest.approx(net.copy(dtype="float64").loss(x, y), rel=1e-12)
    assert np.all(np.diff(losses) < 0)


# What is made of the results. The figures are invented, and go nowhere but into tmp_path.

INVENTED = "invented-no-gpu.json"


def seconds_of(name, case):
    """A time for each: one launch pays up to some size, windows up to 16 steps, threads never."""
    network = case.network
    work = network.batch * sum(a * b for a, b in pairwise(network.layer_sizes))
    graph = 3e-5 + work * 1e-11 + 1e-6 * 16 / min(16, case.window or 16)
    return {
        WARP: 1e-6 * network.batch,
        BLOCK: 6e-6 + work * 5e-11 * (2 if case.precision == "float32" else 1),
        GRAPHS: graph,
        TRAIN: graph,
        GEMM: 0.9 * graph,
        MANY: 1e-6 / case.networks,
        "PyTorch, CUDA graph": 1.2 * graph,
    }.get(name, 2 * graph)


@pytest.fixture
def invented():
    timed = [
        replace(
            Row.of(name, case),
            plan="one launch: invented" if name == TRAIN else "invented",
            seconds=seconds_of(name, case),
            first=1.5 if name in (WARP, BLOCK) else 0.5,
        )
        for name, entry in CONTESTANTS.items()
        for case in entry.cases
        if name != "torch.compile" and (name != WARP or max(case.network.layer_sizes) <= 32)
    ]
    left_out = Row.about("torch.compile", "torch is not installed")
    rates = {"FLOP/s, float32": 5e13, "FLOP/s, tf32": 4e14, "bytes/s, copied": 2e12}
    checked = {"check": "memcheck", "passed": None, "note": "there is no compute-sanitizer"}
    return Found({"GPU": "invented | none"}, [checked], rates, [*timed, left_out])


@pytest.fixture
def published(invented, tmp_path):
    """A copy of the page, with a part that is made of invented figures."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "backprop_gpu").mkdir()
    (tmp_path / page.PAGE).write_text((ROOT / page.PAGE).read_text())
    results = tmp_path / INVENTED
    results.write_text(invented.to_json())
    assert gpu.main(["--report", str(results), "--crossovers", str(results)], tmp_path) == 0
    return tmp_path


def test_the_page_has_markers_around_what_a_run_writes_and_says_if_there_was_none(published):
    text, new = (ROOT / page.PAGE).read_text(), (published / page.PAGE).read_text()
    before, part = text.split(page.BEGIN)
    part, after = part.split(page.END)
    assert new.startswith(before)
    assert new.endswith(after)
    results = ROOT / "benchmarks" / "results"
    named = re.findall(r"benchmarks/results/([\w.-]+\.json)", part)
    assert "Nothing has been measured" in part or (results / named[0]).exists()
    again = (page.markdown(Found.of_json((published / INVENTED).read_text()), INVENTED),)
    assert new == before + page.BEGIN + again[0] + page.END + after


def test_the_page_tells_what_a_run_found(published):
    text = (published / page.PAGE).read_text()
    for line in (
        "| GPU | `invented \\| none` |",
        "| memcheck | no verdict | there is no compute-sanitizer |",
        "| wide | 1,024 | tf32 | 19,100 | one launch | 90% | ",
        "| large | 4,096 | float32 | 1,370,000 | one launch | 90% | 1% | 85% | ",  # 1% of 5e13
        " | PyTorch, CUDA graph | 22,900 | 1.2 | 1.3 |",
        "| 5-3-5-4 | 1 | float32 | 62 | 31 | **1** | 6 |",
        "| textbook | 1 | float32 | 8,192 | 0.122 | ",
    ):
        assert line in text
    assert "torch is not installed" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


def test_the_roofline_is_a_picture_of_the_same_bytes_again(published, invented):
    content = (published / page.PICTURE).read_text()
    assert ET.fromstring(content).tag.endswith("}svg")
    assert content.count("://") == 1
    for piece in ("large, 16,384", "tf32", "FLOP/s"):
        assert piece in content
    assert svg(invented) == svg(invented)


def test_the_bytes_of_a_step_are_those_of_weights_and_of_every_node():
    assert step_bytes((5, 3), 1, 4) == 4 * (4 * 15 + 2 * 5 + 11 * 3)
    assert step_bytes((5, 3), 7, 8) == 8 * (4 * 15 + 7 * (2 * 5 + 11 * 3))


def test_crossovers_are_where_the_invented_times_cross(published):
    written = own_crossovers.of_json((published / "backprop_gpu/crossovers.json").read_text())
    values = {name: entry.value for name, entry in written.items()}
    assert {entry.source for entry in written.values()} == {INVENTED}
    assert values["warp_batch"] == 4  # 16 us for 16 samples, and at most 15.5 in a block
    assert values["warp_alone_batch"] == 16
    assert values["block_work"] < values["block_work_tf32"] < 700_000
    assert values["seconds_compiling"] == 1
    assert 1e-5 < values["seconds_saved"] < 3.1e-5
    assert values["graph_steps"] == 16


def test_what_was_not_measured_stays_what_it_was():
    assert crossovers_of(Found({}, [], {}, [ROW]), CROSSOVERS, "run.json") == CROSSOVERS
    assert own_crossovers.of_json(own_crossovers.to_json(CROSSOVERS)) == CROSSOVERS
    assert str(Crossover(1, "estimate")) == "an estimate"
    assert str(Crossover(1, "run.json")) == "measured: run.json"


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], None),
        ([(1, 1.0, 2.0), (4, 1.0, 2.0)], 4),
        ([(1, 2.0, 1.0), (4, 2.0, 1.0)], 0),
        ([(1, 1.0, 2.0), (4, 2.0, 1.0)], 1),
        # Between them one wins, the other wins, and one wins again: what loses less decides.
        ([(1, 1.0, 2.0), (2, 1.1, 1.0), (4, 1.0, 3.0), (8, 2.0, 1.0)], 4),
        ([(1, 1.0, 2.0), (2, 9.0, 1.0), (4, 1.0, 1.1), (8, 2.0, 1.0)], 1),
    ],
)
def test_a_limit_loses_the_least_time(points, expected):
    assert limit(points) == expected

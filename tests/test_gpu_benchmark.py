"""What checks and times the library on a GPU: its logic, where there is none."""

import json
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from host.device import StandInDevice
from host.launcher import unavailable_reason

from backprop_gpu.benchmark import Network
from benchmarks import gpu, gpu_contestants
from benchmarks.gpu import Row
from benchmarks.gpu_contestants import CONTESTANTS, Contestant

TINY = Network("tiny", (3, 4, 2), 5)
OWN = [name for name in CONTESTANTS if name.startswith(("backprop_gpu", "matrix", "CuPy"))]
ROW = Row("one", "tiny", 5, "float32")

needs_gpp = pytest.mark.skipif(unavailable_reason() is not None, reason=str(unavailable_reason()))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(gpu, "BLOCK_SECONDS", 1e-3)
    monkeypatch.setattr(gpu, "BLOCKS", 3)
    monkeypatch.setattr(gpu_contestants, "MOST", 2)
    monkeypatch.setattr(gpu_contestants, "open_backend", lambda _: StandInDevice().backend())


@needs_gpp
@pytest.mark.parametrize("name", OWN)
def test_the_librarys_ways_are_checked_and_timed(name):
    (row,) = gpu.race(name, [TINY], gpu.references_of([TINY]))
    assert (row.contestant, row.network, row.batch, row.note) == (name, "tiny", 5, "")
    assert 0 < row.asked <= row.seconds
    assert row.on_device is None
    assert (row.error is None) == name.startswith("matrix")
    assert row.error is None or row.error < 1e-6
    json.dumps(asdict(row))


@pytest.mark.parametrize("name", [name for name in CONTESTANTS if name not in OWN])
def test_peers_that_find_no_gpu_say_so(name):
    (row,) = gpu.race(name, [TINY], {})
    assert row.seconds is None
    assert row.note.startswith(("RuntimeError: this", "ModuleNotFoundError"))


@needs_gpp
def test_what_is_wrong_is_not_timed():
    wrong = {gpu.key(TINY): [1.0, 1.0, 1.0]}
    (row,) = gpu.race("backprop_gpu, graphs", [TINY], wrong)
    assert row.seconds is None
    assert "wrong" in row.note
    assert row.error > 0.1


def test_not_a_number_is_wrong():
    nothing = Contestant(lambda times: [float("nan")] * times, lambda: None)
    assert "wrong" in gpu.timed(nothing, ROW, [1.0] * 3).note


def test_large_networks_are_timed_in_every_precision_and_small_ones_in_one():
    assert gpu.precisions_of("backprop_gpu, graphs", (2048, 4096), "float32") == (
        *("float32", "tf32", "bf16"),
    )
    assert gpu.precisions_of("PyTorch", (2048, 4096), "float32") == ("float32", "tf32")
    assert gpu.precisions_of("PyTorch", (5, 3), "float64") == ("float64",)


def test_the_host_and_the_device_are_timed_apart(monkeypatch):
    now = [0.0]

    def passes(seconds):
        now[0] += seconds

    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])
    contestant = Contestant(
        ask=lambda times: passes(2 * times),
        wait=lambda: passes(3),
        mark=lambda: now[0],
        between=lambda one, other: 1000 * (other - one),
    )
    assert gpu.block(contestant, 5) == (13, 10, 10)


def test_blocks_are_as_long_as_they_have_to_be(monkeypatch):
    monkeypatch.setattr(gpu, "BLOCK_SECONDS", 50)
    now = [0.0]

    def ask(times):
        now[0] += times

    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])
    assert gpu.block_size(Contestant(ask, lambda: None)) == 50
    assert gpu.block_size(Contestant(ask, lambda: None, least=20)) == 40
    assert gpu.block_size(Contestant(ask, lambda: None, least=100)) == 100


@needs_gpp
def test_rates_are_of_a_product_and_of_a_copy():
    found = dict(gpu.rates(StandInDevice().backend(), side=16))
    assert set(found) == {"FLOP/s", "bytes/s"}
    assert min(found.values()) > 0


def test_a_process_that_ends_early_leaves_what_it_has_found(monkeypatch, tmp_path):
    printed = json.dumps(asdict(ROW)) + "\nSegmentation fault"
    for status, note in ((None, "stopped, for time ran out"), (-11, "ended with -11: Segm")):
        monkeypatch.setattr(gpu, "run", lambda *_, s=status: (printed, s))
        first, last = gpu.contestants_rows("one", tmp_path, 1)
        assert first == asdict(ROW)
        assert last["note"].startswith(note)


def test_commands_are_stopped_when_their_time_is_over():
    code = "import time; print('first', flush=True); time.sleep(60)"
    output, status = gpu.run([sys.executable, "-c", code], 1)
    assert (output.strip(), status) == ("first", None)
    assert gpu.run([sys.executable, "-c", "raise SystemExit(3)"], 60) == ("", 3)


def test_everything_that_was_found_is_written_and_shown(monkeypatch, tmp_path):
    timed = replace(ROW, seconds=2e-5, asked=1e-6, on_device=1e-5, spread=0.01, error=1e-7)
    failed = {"check": "tests", "passed": False, "note": "", "output": ["1 failed"]}
    monkeypatch.setattr(gpu, "references_of", lambda _: {})
    monkeypatch.setattr(gpu, "about_gpu", lambda: {"GPU": "none"})
    monkeypatch.setattr(gpu, "checks", lambda _: [failed])
    monkeypatch.setattr(gpu, "run", lambda *_: ('{"FLOP/s of a float32 product": 1e12}\n', 0))
    monkeypatch.setattr(gpu, "contestants_rows", lambda *_: [asdict(timed)])
    output = tmp_path / "new" / "gpu.json"
    found = gpu.measure(output, 1, ["one"])
    assert json.loads(output.read_text()) == found
    text = gpu.report(found)
    for piece in ("FAILED", "1.000e+12", "20.00", "10.00", "tiny"):
        assert piece in text

    late = gpu.measure(output, 0, ["one"])
    assert [row["note"] for row in late["rows"]] == ["no time was left"]
    assert "no time was left" in gpu.report(late)


def test_without_a_gpu_nothing_is_measured_and_nothing_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("backprop_gpu.backends.cupy_device.unusable", lambda: "there is none")
    output = tmp_path / "gpu.json"
    assert gpu.main([f"--output={output}"]) == 1
    assert capsys.readouterr().err == "nothing is measured: there is none\n"
    assert not output.exists()


def test_references_are_numpys_losses_in_double():
    (losses,) = gpu.references_of([TINY]).values()
    net, x, y = TINY.build("cpu", 5)
    assert losses[0] == pytest.approx(net.copy(dtype="float64").loss(x, y), rel=1e-12)
    assert np.all(np.diff(losses) < 0)

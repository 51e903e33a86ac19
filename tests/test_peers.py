"""The race against what a user could take instead: the same work, in turn, and told as it was."""

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from backprop_gpu.benchmark import timing
from backprop_gpu.benchmark.speed import NETWORKS, Network
from backprop_gpu.benchmark.table import of_json, to_json
from benchmarks.peers import __main__ as peers
from benchmarks.peers import race
from benchmarks.peers.contestants import CONTESTANTS, OWN, Entry, Skipped, plain
from benchmarks.peers.picture import svg
from benchmarks.peers.rows import GEMM, Row, Timed, floor, report, times

ROOT = Path(__file__).resolve().parents[1]
HERE = [name for name, entry in CONTESTANTS.items() if entry.module in ("numpy", "sklearn")]
ABOUT = {"date": "2026-01-01", "CPU": "one"}
ROWS = [
    Row("small", OWN, "", Timed(1e-4, 0.1, 9, 80, 1.0), Timed(5e-5, 0, 9, 9, 1.0), 2**20),
    Row("small", "scikit-learn", "", Timed(3e-4, 0, 9, 9, 1.5), Timed(2e-5, 0, 9, 9, 1.5)),
    Row("small", "JAX, whole loop", "", Timed(5e-5, 0, 9, 9, 1.0)),
    Row("small", "PyTorch", "ModuleNotFoundError: torch is not installed"),
    Row("small", GEMM, "", Timed(2.5e-5, 0, 9, 9, 2.0), Timed(1e-5, 0, 9, 9, 2.0)),
]


@pytest.fixture
def enter(monkeypatch):
    """Make something a contestant, named "new"."""

    def enter(build, **needs):
        monkeypatch.setitem(CONTESTANTS, "new", Entry(build, **needs))

    return enter


def raced(*names):
    return {row.contestant: row for row in race.race(NETWORKS["textbook"], names, 0.001)}


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("network", [Network("a", (5, 3, 4, 1), 7), NETWORKS["textbook"]])
def test_contestants_compute_what_the_library_does(name, network):
    net, x, y = network.build("cpu", network.batch)
    parameters = net.parameters.copy()
    try:
        contestant = race.checked(name, net, x, y)
    except Skipped as reason:
        pytest.skip(str(reason))
    losses = contestant.train(5, 0.1)
    assert len(losses) == 5
    assert losses[4] < losses[0]
    assert {array.dtype for array in contestant.parameters()} == {net.dtype}
    np.testing.assert_array_equal(net.parameters, parameters)  # its own are what it changes


def twice_the_step(contestant):
    return replace(contestant, train=lambda times, rate: contestant.train(times, 2 * rate))


def half_the_loss(contestant):
    def train(times, rate):
        return [loss / 2 for loss in contestant.train(times, rate)]

    return replace(contestant, train=train)


def no_loss(contestant):
    return replace(contestant, train=lambda times, rate: contestant.train(times, rate)[1:])


def biases_that_stay(contestant):
    start = contestant.parameters()[3:]
    return replace(contestant, parameters=lambda: contestant.parameters()[:3] + start)


def other_predictions(contestant):
    return replace(contestant, predict=lambda: contestant.predict() + 1e-6)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (twice_the_step, "dC/dW of layer 1 is off"),
        (half_the_loss, "loss is off by 5.0e-01"),
        (no_loss, "loss has shape (0,) instead of (1,)"),
        (biases_that_stay, "dC/db of layer 1 is off"),
        (other_predictions, "prediction is off"),
    ],
)
def test_who_disagrees_is_named_and_not_timed(enter, spoil, said):
    enter(lambda net, x, y: spoil(plain(net, x, y)))
    found = raced(OWN, "new")
    assert found["new"].step is found["new"].inference is None
    assert found["new"].note.startswith(f"Disagreement: {said}")
    assert found[OWN].step.seconds > 0
    assert "new is left out of textbook: Disagreement" in report(ABOUT, list(found.values()))


def test_who_is_not_installed_or_fails_is_named_and_the_others_go_on(enter):
    enter(plain, package="no-such-package", module="no_such_module")
    assert raced("new")["new"].note == "ModuleNotFoundError: no-such-package is not installed"
    enter(lambda net, x, y: 1 / 0)
    found = raced("new", "plain NumPy")
    assert found["new"].note == "ZeroDivisionError: division by zero"
    assert found["plain NumPy"].step.seconds > 0


def test_who_only_trains_has_no_time_for_inference(enter):
    enter(lambda net, x, y: replace(plain(net, x, y), predict=None))
    found = raced("new")["new"]
    assert found.step.seconds > 0
    assert found.inference is None


def test_each_is_timed_in_turn_when_all_is_quiet(monkeypatch):
    now, log = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(race, "settle", lambda: log.append("settle"))

    def call(name, seconds):
        def repeat(times):
            log.append((name, times))
            now[0] += seconds * times

        return repeat

    found = race.in_turn({"a": call("a", 1e-3), "slow": call("slow", 2.0)}, 0.1, least=10)
    assert log[-12:] == ["settle", ("a", 20), "settle", ("slow", 3)] * 3
    assert found["a"].seconds == pytest.approx(1e-3)
    assert found["slow"].seconds == pytest.approx(2)
    assert (found["a"].calls, found["slow"].calls, found["a"].blocks) == (20, 3, 3)


def test_threads_that_spin_are_waited_for(monkeypatch):
    work = iter([0.02, 0.015, 0.0])  # of all threads, while this one sleeps
    busy = [0.0]
    monkeypatch.setattr(race.time, "process_time", lambda: busy[0])

    def sleep(seconds):
        busy[0] += next(work)

    monkeypatch.setattr(race.time, "sleep", sleep)
    race.settle()
    assert list(work) == []


def test_cores_are_those_that_are_busy():
    def work(times):
        end = time.process_time() + 0.02 * times
        while time.process_time() < end:
            pass

    found = race.in_turn({"works": work, "sleeps": lambda times: time.sleep(0.02)}, 0.1)
    assert found["works"].cores > found["sleeps"].cores


def test_memory_is_what_training_takes(monkeypatch):
    size = 64 << 20

    def train(*args, **kwargs):
        np.ones(size, np.uint8)

    monkeypatch.setattr(race.bp, "train", train)
    found = race.peak_memory(NETWORKS["textbook"])
    if found is None:
        pytest.skip("the kernel keeps no high-water mark that can be set back")
    assert found == pytest.approx(size, abs=8 << 20)


def test_floor_is_parameters_gradients_activations_and_deltas():
    parameters, nodes = 5 * 3 + 3 + 3 * 5 + 5 + 5 * 4 + 4, 3 + 5 + 4
    assert floor(NETWORKS["textbook"]) == 8 * (2 * parameters + 2 * nodes)
    net, x, y = NETWORKS["small"].build("cpu", 64)
    trace = net.forward(x)
    gradients = net.backward(trace, y)
    arrays = [net.parameters, gradients.flat, *trace.a[1:], *gradients.deltas]
    assert floor(NETWORKS["small"]) == sum(array.nbytes for array in arrays)


def test_rates_and_ratios():
    heading, _, *lines = times(ROWS).splitlines()
    assert heading.split()[:3] == ["network", "batch", "us/step"]
    own, scikit_learn, jax, torch, gemm = (line[32:].split() for line in lines)
    flops = NETWORKS["small"].flops("step", 64)
    assert own[:2] == ["100", "10%"]
    assert float(own[3]) == pytest.approx(flops / 1e-4 / 1e9, rel=1e-2)
    assert own[4:] == ["25%", "1.0", "50", "0%", "1", "20%"]
    assert scikit_learn[2] == "3"
    assert scikit_learn[8] == "0.4"
    assert jax[2] == "0.5"
    assert jax[6:] == ["-"] * 4
    assert torch == ["-"] * 10
    assert gemm[4] == "100%"


def test_report_says_what_the_figures_do_not():
    text = report(ABOUT, ROWS)
    assert "PyTorch is left out of small: ModuleNotFoundError: torch is not installed" in text
    assert "scikit-learn * has relu in all hidden layers, identity in the last" in text
    assert "JAX, whole loop *" not in text
    assert f"{2**20 / floor(NETWORKS['small']):.3g}" in text.splitlines()[-1]


def test_json_holds_the_rows():
    text = to_json(ABOUT, ROWS)
    assert of_json(text, Row) == (ABOUT, ROWS)
    assert len(text.splitlines()) == len(ROWS) + len(ABOUT) + 6
    first = json.loads(text)["rows"][0]
    assert first["step"]["gflops"] == pytest.approx(88.8, rel=1e-2)


def test_picture_is_the_same_again_and_shows_who_took_part():
    content = svg(ROWS)
    assert content == svg(list(ROWS))
    texts = [element.text for element in ET.fromstring(content).iter() if element.text]
    assert {OWN, "scikit-learn *", "JAX, whole loop", "small: 100 us", "3", "0.5"} <= set(texts)
    assert "PyTorch" not in texts
    assert content.count("://") == 1  # SVG's own name


def test_a_run_is_printed_and_published(tmp_path, capsys):
    for folder in ("docs", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
    page = tmp_path / "docs" / "performance.md"
    page.write_text("before\n" + peers.BEGIN + "old\n" + peers.END + "\nafter\n")
    arguments = ["--quick", "--networks", "textbook", "--publish", "now", "--contestants"]
    peers.main([*arguments, *HERE], tmp_path)

    about, rows = of_json((tmp_path / "benchmarks/results/peers-now.json").read_text(), Row)
    assert [row.contestant for row in rows] == [*HERE, GEMM]
    assert all(row.step.seconds > 0 for row in rows if not row.note)
    assert [row.contestant for row in rows if row.memory] == [OWN]
    assert about["scikit-learn"] == version("scikit-learn")
    assert "torch" not in about
    printed = capsys.readouterr().out
    assert printed == report(about, rows) + "\n"
    expected = "before\n" + peers.BEGIN + printed + peers.END + "\nafter\n"
    assert page.read_text() == expected
    assert (tmp_path / "docs/performance.svg").read_text() == svg(rows)


def test_the_command_says_whom_it_knows():
    command = [sys.executable, "-m", "benchmarks.peers", "--contestants", "nobody"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "torch.compile" in done.stderr


def test_the_page_shows_what_was_measured():
    page = (ROOT / "docs" / "performance.md").read_text()
    shown = page.split(peers.BEGIN)[1].split(peers.END)[0]
    found = (ROOT / "benchmarks/results").glob("peers-*.json")
    runs = [of_json(path.read_text(), Row) for path in found]
    [(_, rows)] = [run for run in runs if report(*run) + "\n" == shown]
    pinned = (ROOT / "constraints.txt").read_text()
    if f"\nmatplotlib=={version('matplotlib')}\n" in pinned:  # another one may draw otherwise
        assert (ROOT / "docs" / "performance.svg").read_text() == svg(rows)

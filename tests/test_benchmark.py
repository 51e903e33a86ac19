"""The benchmarks measure what they say: the same work, counted right, and no GPU where none is."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.backends.cupy_device import unusable
from backprop_gpu.benchmark import speed, timing
from backprop_gpu.benchmark.speed import NETWORKS, Case, library, products, run_benchmark
from backprop_gpu.benchmark.table import PARTS, Row, of_json, report, table, to_json
from benchmarks import __main__ as suite
from benchmarks import plain_numpy as plain

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    replace(network, layer_sizes=tuple(min(m, 7 + i) for i, m in enumerate(network.layer_sizes)))
    for network in NETWORKS.values()
]
ROWS = [
    Row("small", 64, "step", "cpu", 8_000_000, 2e-4, 0.05, 20, 100, 1e-4, {"plain": 4e-4}),
    Row("small", 64, "step", "cuda:0", 8_000_000, 1e-5, 0.01, 20, 1000, 2e-6),
    Row("small", 64, "forward", "cpu", 3_000_000, 1e-4, 0.05, 20, 100, 5e-5, {"plain": 1.5e-4}),
]


def cells(text):
    """The cells of a table's lines, by network, batch, pass and device."""
    lines = [line.split() for line in text.splitlines()]
    heading = text.splitlines()[0].replace("of GEMM", "of-GEMM").replace("vs plain", "vs-plain")
    names = heading.split()
    return {tuple(line[:4]): dict(zip(names, line, strict=False)) for line in lines[2:]}


@pytest.fixture
def no_gpu(monkeypatch):
    def choose(device):
        if device == "cpu":
            return bp.backends.NumpyBackend(), ""
        raise bp.DeviceError(device)

    monkeypatch.setattr(speed, "choose_backend", choose)


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
def test_the_plain_script_computes_what_the_library_does(network, n):
    net, x, y = network.build("cpu", n)
    assert {layer.g.name for layer in net.layers[1:]} == {"sigmoid"}
    biases = [np.linspace(-1, 1, b.size) for b in net.biases]
    net.set_parameters(net.weights, biases)
    trace = net.forward(x)
    grads = net.backward(trace, y)

    weights, biases = [W.copy() for W in net.weights], [b[:, None].copy() for b in net.biases]
    z, a = plain.forward(weights, biases, x.T)
    grad_W, grad_b = plain.backward(weights, z, a, y.T)
    tolerance = {"rtol": 1e-4, "atol": 1e-7} if net.dtype == "float32" else {"rtol": 1e-12}
    assert plain.mse(y.T, a[-1]) == pytest.approx(grads.loss, rel=tolerance["rtol"])
    for l in range(len(weights)):
        np.testing.assert_allclose(z[l].T, trace.z[l], **tolerance)
        np.testing.assert_allclose(a[l + 1].T, trace.a[l + 1], **tolerance)
        np.testing.assert_allclose(grad_W[l], grads.weights[l], **tolerance)
        np.testing.assert_allclose(grad_b[l][:, 0], grads.biases[l], **tolerance)

    losses = plain.train(weights, biases, x.T, y.T, epochs=5)
    history = bp.train(net, x, y, epochs=5)
    np.testing.assert_allclose(losses, history.loss, rtol=1e-5)
    for W, own in zip(weights, net.weights, strict=True):
        assert W.dtype == net.dtype
        np.testing.assert_allclose(W, own, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", SMALL, ids=lambda network: network.name)
def test_flops_are_those_of_the_products(network):
    n = 5
    net, x, y = network.build(bp.backends.NumpyBackend(), n)
    for part, multiply in products(net, x, y).items():
        counted = 2 * sum(A.shape[0] * A.shape[1] * B.shape[1] for A, B, _ in operands(multiply))
        assert network.flops(part, n) == counted


def operands(multiply):
    """The matrices of the calls that NumPy's backend has recorded."""
    (calls,) = multiply.args[0].args
    return [(call.func.__self__, *call.args) for call in calls]


def test_products_are_on_real_numbers():
    net, x, y = NETWORKS["textbook"].build("cpu", 1)
    repeat = products(net, x, y)["step"]
    results = [out.copy() for *_, out in operands(repeat)]
    repeat(1)
    for A, B, out in operands(repeat):
        assert np.isfinite(A).all()
        assert np.isfinite(B).all()
        np.testing.assert_array_equal(out, A @ B)
    assert any(result.any() for result in results)


def test_every_pass_is_made_so_many_times(monkeypatch):
    net, x, y = NETWORKS["textbook"].build("cpu", 1)
    made = []
    for name, part in (("feed_forward", "forward"), ("propagate_back", "backward")):
        monkeypatch.setattr(speed, name, lambda b, *_, part=part: b._call(made.append, part))
    monkeypatch.setattr(speed, "train", lambda *_, epochs, **__: made.append(epochs))
    passes = library(net, x, y)
    made.clear()
    for part in PARTS:
        passes[part](3)
    assert made == ["forward"] * 3 + ["backward"] * 3 + [3]


def test_what_is_compared_is_timed_in_turn_and_waited_for(monkeypatch):
    now, log = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call(name, seconds):
        def repeat(times):
            log.append(name)
            now[0] += seconds * times

        return repeat

    def synchronize():
        log.append("wait")
        now[0] += 1e-4

    calls = {"a": call("a", 1e-3), "b": call("b", 3e-3), "slow": call("slow", 2.0)}
    blocks = timing.measure(calls, 0.1, synchronize)
    assert set(log[1::2]) == {"wait"}
    assert log[-18::2] == ["b", "slow", "a"] * 3
    assert [block.calls for block in blocks.values()] == [16, 4, 1]
    assert blocks["a"].seconds == pytest.approx(1e-3 + 1e-4 / 16)
    assert blocks["slow"].spread == pytest.approx(0)
    assert len(blocks["slow"].times) == timing.LEAST_BLOCKS
    assert now[0] < 9  # the slow call: once to warm up, and three times


def test_a_training_run_is_long_enough_to_be_started():
    made = []

    def repeat(times):
        made.append(times)
        time.sleep(1e-4 * times)

    blocks = timing.measure(dict.fromkeys("ab", repeat), 0.001, lambda: None, least=3)
    assert blocks["a"].calls % 3 == 0
    assert blocks["b"].calls % 3 != 0
    assert set(made) >= {1, 3}


def test_a_median_is_not_moved_by_one_slow_block():
    block = timing.Block(lambda times: None, 1e-6, lambda: None)
    block.calls, block.times = 10, [1.0, 1.1, 50.0, 0.9, 1.0]
    assert block.seconds == pytest.approx(0.1)
    assert block.spread == pytest.approx(0.1)


def test_rates_and_ratios():
    found = cells(table(ROWS))
    own = found["small", "64", "step", "cpu"]
    assert own["us/call"] == "200"
    assert own["samples/s"] == "320,000"
    assert own["GFLOP/s"] == "40.0"
    assert own["spread"] == "5%"
    assert own["of-GEMM"] == "50%"
    assert own["vs-plain"] == "2.00"
    assert own["cupy/numpy"] == "-"
    gpu = found["small", "64", "step", "cuda:0"]
    assert gpu["us/call"] == "10.0"
    assert gpu["of-GEMM"] == "20%"
    assert gpu["vs-plain"] == "40.00"
    assert gpu["cupy/numpy"] == "20.00"
    assert next(iter(found)) == ("small", "64", "forward", "cpu")


def test_a_gpu_that_is_not_there_has_no_numbers(no_gpu, tmp_path):
    path = tmp_path / "times.json"
    text = run_benchmark(["textbook"], [1, 2], ("cpu", "cuda"), 0.001, path)
    [line] = [line for line in text.splitlines() if line.startswith("textbook") and "cuda" in line]
    assert "cuda: no GPU" in line
    assert not any(character.isdigit() for character in line)
    _, rows = of_json(path.read_text())
    missing = [row for row in rows if row.device == "cuda"]
    assert [(row.batch, row.part) for row in missing] == [(n, p) for n in (1, 2) for p in PARTS]
    for row in missing:
        assert row.seconds is row.gemm_seconds is None
        assert "gflops" not in row.record()


def test_json_holds_the_rows(tmp_path):
    about = {"CPU": "one", "NumPy": '2, "fast"'}
    text = to_json(about, ROWS)
    assert of_json(text) == (about, ROWS)
    assert len(text.splitlines()) == len(ROWS) + len(about) + 6
    first = json.loads(text)["rows"][0]
    assert first["samples_per_second"] == 320_000
    assert first["gflops"] == 40
    assert first["gemm_gflops"] == 80
    assert first["gemm_fraction"] == 0.5


def test_every_measurement_is_told_as_it_starts(monkeypatch):
    told = []

    class Quick(Case):
        def measure(self, part, seconds):
            told.append("started")
            return replace(ROWS[0], part=part)

    small = {name: replace(network, layer_sizes=(2, 2)) for name, network in NETWORKS.items()}
    monkeypatch.setattr(speed, "NETWORKS", small)
    monkeypatch.setattr(speed, "Case", Quick)
    run_benchmark(None, [1], ("cpu",), say=told.append)
    usual = [name for name in NETWORKS if name != "large"]
    lines = [f"timing {name}, batch 1, {part}, on cpu" for name in usual for part in PARTS]
    assert told[::2] == lines
    assert set(told[1::2]) == {"started"}


def test_run_benchmark(tmp_path):
    path = tmp_path / "times.json"
    text = run_benchmark(["textbook", "small"], None, ("cpu", "cuda"), 0.01, path)
    about, rows = of_json(path.read_text())
    assert {"date", "CPU", "NumPy", "Python", "GPU"} <= set(about)
    assert table(rows) == text.split("\n\n")[1]
    measured = [row for row in rows if row.device == "cpu"]
    assert [(row.network, row.batch) for row in measured] == [("textbook", 1)] * 3 + [
        ("small", 64)
    ] * 3
    assert all(row.seconds > 0 and row.gemm_seconds > 0 and row.blocks >= 3 for row in measured)
    assert all((row.seconds is None) == bool(unusable()) for row in rows if row.device == "cuda")


@pytest.mark.parametrize("part", PARTS)
def test_every_backend_is_measured(backend, part):
    network = replace(NETWORKS["textbook"], dtype="float32")
    case = Case(network, 2, backend, {"plain": plain.plain, "none": lambda *_: {}})
    row = case.measure(part, 0.001)
    assert (row.device, row.batch) == (backend.device, 2)
    assert row.seconds > 0
    assert row.gemm_seconds > 0
    assert row.rivals.keys() == ({"plain"} if backend.device == "cpu" else set())
    assert row.flops == network.flops(part, 2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"networks": ["smal"]}, bp.UnknownNameError),
        ({"batches": [0]}, bp.DomainError),
        ({"devices": ["gpu"]}, bp.DeviceError),
        ({"seconds": 0.0}, bp.DomainError),
    ],
)
def test_what_cannot_be_measured_is_refused(options, error):
    with pytest.raises(error):
        run_benchmark(**({"networks": ["textbook"], "seconds": 0.001} | options))


def test_the_suite_runs(tmp_path):
    output = tmp_path / "latest.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--networks", "textbook"]
    done = subprocess.run(
        [*command, "--output", output],
        cwd=ROOT,
        env={name: os.environ[name] for name in os.environ if not name.startswith("PYTEST_XDIST")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(output.read_text())
    about, rows = suite.rows_of(content)
    assert report(*of_json(to_json(about, rows))) in done.stdout
    assert [row.part for row in rows if row.device == "cpu"] == list(PARTS)
    assert any(row.device.startswith("cuda") for row in rows)
    first = content["benchmarks"][0]
    assert first["group"] == "textbook, batch 1, forward"
    assert first["stats"]["median"] / rows[0].calls == pytest.approx(rows[0].seconds)
    assert rows[0].rivals.keys() == {"plain"}


def test_the_page_shows_what_was_measured():
    page = suite.PAGE.read_text()
    shown = page.split(suite.BEGIN)[1].split(suite.END)[0]
    runs = [of_json(path.read_text()) for path in suite.RESULTS.glob("2*.json")]
    assert shown.strip() in [report(about, rows) for about, rows in runs]

"""The process that checks and times on a GPU: whatever happens to those it starts, it goes on."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny_case import ROW, TINY

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import measure, page
from benchmarks.gpu.contestants import Entry
from benchmarks.gpu.race import CONTESTANTS
from benchmarks.gpu.rows import Found, Row

# ---- commands ------------------------------------------------------------------------------------


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


def test_a_record_that_a_process_was_stopped_in_is_left_out():
    assert measure.lines_of('{"a": 1}\nnoise\n{"b": 2') == [{"a": 1}]


# ---- a contestant --------------------------------------------------------------------------------


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


# ---- checks --------------------------------------------------------------------------------------


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
    assert {*command} - {*filtered} == {"--tool=memcheck", "--report-api-errors=no"}
    assert {*measure.TESTS, "tests/test_gradients.py", "tests/test_data_uploads.py"} <= {*tests}
    assert all((measure.ROOT / name).exists() for name in measure.TESTS)


def test_where_there_is_no_sanitizer_that_is_said(monkeypatch):
    monkeypatch.setattr(measure.shutil, "which", lambda name, path: None)
    monkeypatch.setattr(measure, "checked", lambda *_: {})
    assert [check.get("note") for check in measure.checks(1.0)][1:] == [
        "there is no compute-sanitizer"
    ] * 2


STOPPED = "!! session-timeout: 1.0 sec exceeded !!"


@pytest.mark.parametrize(
    ("printed", "status", "passed", "note"),
    [
        ("...\n3 passed in 2.71s", 0, True, "3 passed in 2.71s"),
        ("sss\n3 skipped in 2.71s", 0, False, "3 skipped in 2.71s"),
        ("..F\n1 failed, 2 passed in 2.71s", 1, False, "1 failed, 2 passed in 2.71s"),
        (f"...\n{STOPPED}\n3 passed in 2.71s", 1, None, "3 passed in"),
        (f"...\n{STOPPED}\n3 passed in 2.71s", 2, None, "3 passed in"),  # of several processes
        (f"..F\n{STOPPED}\n1 failed in 2.71s", 1, False, "1 failed in"),
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


@pytest.mark.parametrize("options", [[], measure.SIDE_BY_SIDE], ids=["one by one", "side by side"])
def test_tests_are_stopped_in_time_to_say_what_they_found(options, monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "SUMMARY_SECONDS", 60.0)
    slow = "import pytest, time\n@pytest.mark.gpu\n@pytest.mark.parametrize('i', range(1000))\n"
    (tmp_path / "test_slow.py").write_text(f"{slow}def test_slow(i): time.sleep(0.1)\n")
    check = measure.checked("tests", [*measure.PYTEST, *options, str(tmp_path)], 61)
    assert check["passed"] is None
    assert re.match(r"\d+ passed", check["note"])


def test_of_a_long_output_the_beginning_and_the_end_are_kept(monkeypatch):
    lines = [str(i) for i in range(1000)]
    monkeypatch.setattr(measure, "run", lambda *_: ("\n".join(lines), 1))
    kept = measure.checked("tests", ["pytest"], 60)["output"]
    assert (kept[0], kept[-1], len(kept)) == ("0", "999", measure.HEAD + 1 + measure.TAIL)


# ---- a run ---------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Let all be found in a minute; return it, the file, and the seconds that each was given."""
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
    return lambda **how: (measure.measure(output, 1, names, **how), output, given)


def test_everything_that_was_found_is_written_and_shown(measured):
    found, output, _ = measured()
    assert Found.of_json(output.read_text()).to_json() == found.to_json()
    assert [row.implementation for row in found.rows] == ["one"] * 2 + ["two"] * 2 + ["three"] * 2
    text = page.report(found)
    for piece in ("FAILED", "1.000e+12", "20", "10", "tiny"):
        assert piece in text


def test_each_contestant_may_take_up_to_twice_its_share_and_the_last_one_all_that_is_left(measured):
    assert measured()[2] == pytest.approx([60 * 2 / 4, 60 * 2 / 3, 60], rel=0.1)


def test_a_run_goes_on_with_what_there_was_no_time_for(measured):
    measured()
    found, _, given = measured(go_on=True)
    assert len(given) == 3 + 1  # the second contestant's second case
    names = [row.implementation for row in found.rows]
    assert names == ["one", "one", "two", "three", "three", "two"]
    assert [check["check"] for check in found.checks] == ["tests", "memcheck"]
    assert all(row.seconds for row in found.rows)


def test_a_run_goes_on_only_on_the_same_gpu(measured, monkeypatch, capsys):
    _, output, _ = measured()
    before = output.read_text()
    monkeypatch.setattr(measure, "about_gpu", lambda: {"GPU": "another"})
    monkeypatch.setattr("backprop_gpu.backends.cupy_device.unusable", lambda: None)
    assert gpu.main([f"--output={output}", "--go-on"]) == 1
    assert "the results are of none, and here is another" in capsys.readouterr().err
    assert output.read_text() == before


def test_rates_that_are_not_found_are_named(measured, monkeypatch):
    monkeypatch.setattr(measure, "run", lambda *_: ("cudaErrorLaunchFailure", 1))
    found, _, _ = measured()
    assert found.rates == {}
    assert found.checks[-1]["output"] == ["cudaErrorLaunchFailure"]


def test_the_head_says_on_what(monkeypatch):
    monkeypatch.setattr(measure.shutil, "which", lambda name: name)
    monkeypatch.setattr(measure, "run", lambda *_: ("a GPU, 580.1\n", 0))
    about = measure.about_gpu()
    assert {"date", "device", "GPU", "driver", "cupy", "torch", "jax", "NumPy"} <= set(about)
    assert about["driver"].startswith("a GPU, 580.1 (name,driver_version")
    assert measure.version("numpy") == f"numpy {np.__version__}"
    assert measure.version("not_there") == "not installed"


def test_without_a_gpu_nothing_is_measured_and_nothing_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("backprop_gpu.backends.cupy_device.unusable", lambda: "there is none")
    output = tmp_path / "gpu.json"
    assert gpu.main([f"--output={output}"]) == 1
    assert capsys.readouterr().err == "nothing is measured: there is none\n"
    assert not output.exists()

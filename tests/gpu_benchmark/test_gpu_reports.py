"""What is made of the results: a part of a page, a picture, and crossovers.

The figures are invented, and go nowhere but into tmp_path.
"""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tiny_case import ROW

from backprop_gpu.training import crossovers as own_crossovers
from backprop_gpu.training.crossovers import CROSSOVERS, Crossover
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import page
from benchmarks.gpu.crossovers import crossovers_of, limit
from benchmarks.gpu.race import CONTESTANTS
from benchmarks.gpu.roofline import step_bytes, svg
from benchmarks.gpu.rows import BLOCK, GEMM, GRAPHS, MANY, TRAIN, WARP, Found, Row

ROOT = Path(__file__).resolve().parents[2]
INVENTED = "invented-no-gpu.json"
OWN_CROSSOVERS = "backprop_gpu/training/crossovers.json"


def seconds_of(name, case):
    """A time for each: one launch pays up to some size, windows up to 16 steps, threads never."""
    network = case.network
    if name == WARP and max(network.layer_sizes) > 32:
        return None  # it can't train them
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
        if name != "torch.compile"
    ]
    left_out = Row.about("torch.compile", "torch is not installed")
    rates = {"FLOP/s, float32": 5e13, "FLOP/s, tf32": 4e14, "bytes/s, copied": 2e12}
    checked = {"check": "memcheck", "passed": None, "note": "there is no compute-sanitizer"}
    return Found({"GPU": "invented | none"}, [checked], rates, [*timed, left_out])


@pytest.fixture
def published(invented, tmp_path):
    """A copy of the page, with a part that is made of invented figures."""
    (tmp_path / "docs").mkdir()
    (tmp_path / OWN_CROSSOVERS).parent.mkdir(parents=True)
    (tmp_path / page.PAGE).write_text((ROOT / page.PAGE).read_text())
    results = tmp_path / INVENTED
    results.write_text(invented.to_json())
    assert gpu.main(["--report", str(results), "--crossovers", str(results)], tmp_path) == 0
    return tmp_path


# ---- the page ------------------------------------------------------------------------------------


def test_the_page_has_markers_around_what_a_run_writes_and_says_if_there_was_none(published):
    text, new = (ROOT / page.PAGE).read_text(), (published / page.PAGE).read_text()
    before, part = text.split(page.BEGIN)
    part, after = part.split(page.END)
    assert new.startswith(before)
    assert new.endswith(after)
    results = ROOT / "benchmarks" / "results"
    named = re.findall(r"benchmarks/results/([\w.-]+\.json)", part)
    assert "Nothing has been measured" in part or (results / named[0]).exists()
    again = page.markdown(Found.of_json((published / INVENTED).read_text()), INVENTED)
    assert new == before + page.BEGIN + again + page.END + after


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


# ---- crossovers ----------------------------------------------------------------------------------


def test_crossovers_are_where_the_invented_times_cross(published):
    written = own_crossovers.of_json((published / OWN_CROSSOVERS).read_text())
    values = {name: entry.value for name, entry in written.items()}
    assert own_crossovers.FILE.samefile(ROOT / OWN_CROSSOVERS)  # the library reads what is written
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
    ("stopped", "stay"),
    [
        (WARP, {"warp_batch", "warp_alone_batch"}),
        (BLOCK, {"warp_batch", "block_work", "block_work_tf32"}),
        (GRAPHS, {*CROSSOVERS} - {"warp_batch"}),
    ],
)
@pytest.mark.parametrize("rows", [1, 10, 20, 30])
def test_of_what_was_stopped_no_crossover_is_taken(stopped, stay, rows, invented):
    others = [row for row in invented.rows if row.implementation != stopped]
    timed = [row for row in invented.rows if row.implementation == stopped][:rows]
    note = Row.about(stopped, "stopped, for time ran out")
    chosen = crossovers_of(replace(invented, rows=[*others, *timed, note]), CROSSOVERS, "run.json")
    assert {name for name, entry in chosen.items() if entry == CROSSOVERS[name]} == stay


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

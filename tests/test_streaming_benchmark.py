"""The benchmark of streams: every format holds the same, and what was found is shown."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backprop_gpu.benchmark.table import of_json, to_json
from benchmarks import streaming
from benchmarks.streaming import BEGIN, END, FORMATS, PIECE, Row, report

ROOT = Path(__file__).resolve().parents[1]
ABOUT = {"date": "2026-01-01", "CPU": "one"}
ROW = Row(".npy", "cpu", 10_000, 128, 1024, 1e-3, 4e-4, 8e-3, 6e-3, "compiled", 140_000_000)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same_rows(name, tmp_path):
    write, open_again = FORMATS[name]
    rows = PIECE + 100
    write(tmp_path, rows, 3)
    stored = open_again(tmp_path, 3)
    assert [array.shape for array in stored] == [(rows, 3), (rows, 1)]
    for places, *pieces in streaming.pieces(rows, 3):
        for array, piece in zip(stored, pieces, strict=True):
            np.testing.assert_array_equal(array[places].reshape(piece.shape), piece)


def test_json_holds_the_rows():
    rows = [ROW, replace(ROW, format="Zarr")]
    assert of_json(to_json(ABOUT, rows), Row) == (ABOUT, rows)
    assert '"of_in_memory": 0.75' in to_json(ABOUT, rows)


def test_the_table_has_rates_and_ratios():
    *_, row = report(ABOUT, [ROW]).splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == [".npy", "524 MB/s", "0.40 ms", "8.00 ms", "6.00 ms"]
    assert cells[5:] == ["75%", "140 MB"]


def test_a_run_is_printed_and_published(tmp_path, capsys):
    for folder in ("docs", "benchmarks/results"):
        (tmp_path / folder).mkdir(parents=True)
    page = tmp_path / "docs" / "streaming.md"
    page.write_text("before\n" + BEGIN + "old\n" + END + "after\n")
    arguments = ["--formats", "Parquet", "--gigabytes", "0.001", "--device", "cpu"]
    streaming.main([*arguments, "--folder", str(tmp_path), "--publish", "now"], tmp_path)

    about, [row] = of_json((tmp_path / "benchmarks/results/streaming-now.json").read_text(), Row)
    assert (row.format, row.rows, row.features, row.batch) == ("Parquet", 1953, 128, 1024)
    assert min(row.loading, row.loading_cpu, row.streamed, row.in_memory) > 0
    printed = capsys.readouterr().out
    assert printed == report(about, [row]) + "\n"
    assert page.read_text() == "before\n" + BEGIN + printed + END + "after\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmarks", "docs"]


def test_the_page_shows_what_was_measured():
    page = (ROOT / "docs" / "streaming.md").read_text()
    shown = page.split(BEGIN)[1].split(END)[0]
    found = (ROOT / "benchmarks/results").glob("streaming-*.json")
    runs = [of_json(path.read_text(), Row) for path in found]
    assert shown in ["", *(report(*run) + "\n" for run in runs)]

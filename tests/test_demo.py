"""The demonstration: it says what it does, and what it claims is so."""

import re
import subprocess
import sys

import numpy as np
import pytest

from backprop_gpu.backends import NumpyBackend
from backprop_gpu.backends.cupy_device import unusable
from backprop_gpu.cli import demo
from backprop_gpu.errors import MissingExtraError


def shape_of(png):
    """Width and height, from the header."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(demo, "TEXTBOOK_EPOCHS", 30)
    monkeypatch.setattr(demo, "DIGIT_EPOCHS", 2)


def test_the_real_thing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # or there is no progress bar
    lines = []
    picture = tmp_path / "curves.png"
    textbook, digits = demo.run_demo("cpu", picture, say=lines.append)
    text = "\n".join(lines)

    assert text.startswith("Device: cpu\n")
    assert "Loss before training: 0.105963" in text
    assert "Loss after 10,000 epochs: 2.81285e-07" in text
    assert re.search(r"0 +0\.83237553 +0\.21021077 +0\.21000000\n", text)
    assert re.search(r"3 +0\.92904704 +0\.75024401 +0\.75000000\n", text)
    assert textbook.history.loss[0] == textbook.before == pytest.approx(0.1059625955371147)

    assert "1,437 to learn from, 360 to be tested on" in text
    assert digits.right >= 0.97
    assert {g.name for g in digits.net.activations} == {"leaky_relu", "sigmoid"}
    _, _, x, y = demo.load_digits(0)
    assert digits.right == np.mean(digits.net(x).argmax(axis=1) == y)
    assert digits.after < digits.before / 100
    assert re.search(r"textbook +5-3-5-4 +cpu +10,000 .* 0\.106 +2\.81e-07 +-\n", text)
    assert re.search(rf"digits +64-256-128-10 +cpu +60 .* {digits.right:.1%}\n", text)
    assert lines[-1].endswith(f"are in {picture}")
    assert shape_of(picture.read_bytes()) == (2200, 880)

    shown = capsys.readouterr().err
    assert "10000/10000" in shown
    assert "60/60" in shown
    assert "loss" in shown


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_other_splits_and_weights_do_as_well(seed, monkeypatch):
    monkeypatch.setattr(demo, "DIGIT_EPOCHS", 30)
    task = demo.learn_digits(NumpyBackend(), seed, False, lambda text: None)
    assert task.right >= 0.96


def test_split():
    x, y, x_test, y_test = demo.load_digits(0)
    assert (len(x), len(x_test)) == (1437, 360)
    assert (x.min(), x.max()) == (0, 1)
    np.testing.assert_allclose(np.bincount(y_test) / np.bincount(y), 0.25, atol=0.02)
    together = np.concatenate([x, x_test])
    assert len(np.unique(together, axis=0)) == 1797  # no test digit has been seen
    again = demo.load_digits(0)
    assert all(np.array_equal(a, b) for a, b in zip(again, (x, y, x_test, y_test), strict=True))
    assert not np.array_equal(demo.load_digits(1)[3], y_test)


def test_the_same_every_time(quick, tmp_path):
    runs = [
        demo.run_demo("cpu", tmp_path / "a.png", progress=False, say=lambda text: None)
        for _ in range(2)
    ]
    assert runs[0][1].history.loss == runs[1][1].history.loss
    assert runs[0][1].right == runs[1][1].right


def test_the_device_is_said_in_a_line(quick, tmp_path):
    lines = []
    tasks = demo.run_demo("auto", tmp_path / "a.png", progress=False, say=lines.append)
    if unusable():
        assert lines[0] == "Device: cpu (no usable GPU: backprop-gpu info says why)\n"
    else:
        assert lines[0] == "Device: cuda:0\n"
    assert {task.net.device for task in tasks} == {"cpu" if unusable() else "cuda:0"}


@pytest.mark.gpu
def test_on_the_gpu(tmp_path):
    if reason := unusable():
        pytest.skip(reason)
    textbook, digits = demo.run_demo("cuda", tmp_path / "a.png", say=lambda text: None)
    assert textbook.after == pytest.approx(2.81284797e-07, rel=1e-6)
    assert digits.right >= 0.97


@pytest.mark.parametrize("package", ["sklearn", "matplotlib.figure"])
def test_missing_extras_are_found_first(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match="the demo's"):
        demo.run_demo("cpu", tmp_path / "a.png", say=pytest.fail)


def test_importing_it_imports_no_extra():
    script = "import sys, backprop_gpu.cli.demo; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert not {"sklearn", "matplotlib", "pyarrow", "click"} & set(done.stdout.split())

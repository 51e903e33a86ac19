"""What a shell completes, and what a type checker knows."""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import backprop_gpu as bp

ROOT = Path(__file__).resolve().parents[1]
ESTIMATORS = {"MLPClassifier", "MLPRegressor"}


def test_the_public_names_are_listed_and_nothing_else():
    pytest.importorskip("sklearn")
    assert set(dir(bp)) == {*bp.__all__, *ESTIMATORS, "__version__"}
    assert dict(inspect.getmembers(bp))["MLPClassifier"] is bp.MLPClassifier


def test_what_could_not_be_imported_is_not_listed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert ESTIMATORS.isdisjoint(dir(bp))
    assert dict(inspect.getmembers(bp))["MLP"] is bp.MLP


def test_no_other_name_is_there():
    with pytest.raises(AttributeError, match=r"has no attribute 'typo'"):
        _ = bp.typo


def test_a_type_checker_knows_the_names(tmp_path):
    if not importlib.util.find_spec("mypy"):
        pytest.skip("mypy is not installed")
    script = "import backprop_gpu as bp; bp.MLPClassifier(alpha=1.0); bp.MLPRegressor(); bp.typo"
    options = ["--strict", "--follow-imports=silent", f"--cache-dir={tmp_path}"]
    command = [sys.executable, "-m", "mypy", *options, "-c", script]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    (error, _) = checked.stdout.splitlines()
    assert 'Module has no attribute "typo"' in error

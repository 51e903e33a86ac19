"""The command line: its help, every example in it, what it says of machines and networks."""

import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import QUICK, rows, run

import backprop_gpu as bp
from backprop_gpu.backends.cupy_device import unusable
from backprop_gpu.benchmark import machine
from backprop_gpu.benchmark.speed import NETWORKS
from backprop_gpu.cli import demo
from backprop_gpu.cli.commands import commands

NAMES = ["train", "predict", "score", "info", "explain", "benchmark", "demo"]


# Help


def test_help_names_every_command_and_exit_code():
    text = run("--help").stdout
    assert all(f"\n  {name}  " in text for name in NAMES)
    assert re.findall(r"^    (\d+) ", text, re.MULTILINE) == ["0", "1", "2", "3", "4", "130"]
    assert run("--version").stdout.strip().endswith(bp.__version__)
    assert all(len(line) <= 100 for name in NAMES for line in run(name, "-h").stdout.splitlines())


def test_help_names_every_network_that_can_be_timed():
    assert f"{', '.join(NETWORKS)}; repeatable" in run("benchmark", "--help").stdout


@pytest.mark.parametrize("name", ["train", "predict", "score", "explain"])
def test_help_asks_for_a_header_line(name):
    assert ".csv with a header line" in " ".join(run(name, "--help").stdout.split())


def test_no_command_shows_the_help():
    assert "Commands:" in CliRunner().invoke(commands, []).output


def examples():
    for name in ["", *NAMES]:
        text = run(*filter(None, [name]), "--help").stdout
        lines = text.replace("\\\n", "")
        found = re.findall(r"^    backprop-gpu (.*)$", lines, re.MULTILINE)
        assert found, f"{name} has no examples"
        yield from found


EXAMPLES = list(dict.fromkeys(examples()))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A folder with the data and what the examples of `train` leave there."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(data, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for example in EXAMPLES:
            if example.startswith("train"):
                run(*shlex.split(example), "--epochs", 5)
    return folder


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_in_help_run(example, trained, monkeypatch):
    monkeypatch.chdir(trained)
    monkeypatch.setattr(demo, "TEXTBOOK_EPOCHS", 20)
    monkeypatch.setattr(demo, "DIGIT_EPOCHS", 1)
    benchmark = types.SimpleNamespace(
        NETWORKS={"textbook": 0, "small": 0}, run_benchmark=lambda *args: "a table"
    )
    monkeypatch.setitem(sys.modules, "backprop_gpu.benchmark.speed", benchmark)
    args = shlex.split(example)
    assert run(*args).stdout or "-o" in args
    if "-o" in args and args[0] != "benchmark":
        assert Path(args[args.index("-o") + 1]).is_file()


# info


def test_info_about_the_machine():
    table = rows(run("info").stdout)
    assert bp.__version__ in table["backprop_gpu"]
    assert np.__version__ in table["NumPy"]
    assert re.search(r"with \d+ thread", table["NumPy"])
    reason = unusable()
    assert f'"auto" takes {"cpu" if reason else "cuda:0"}: ' in table["device"]
    assert not reason or reason in table["device"]
    assert "click" in table["extra cli"]
    assert "safetensors" in table["extra io"]
    assert "extra peers" not in table


def test_info_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "")
    assert "none: install g++" in rows(run("info").stdout)["C++ compiler"]


def test_info_without_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setattr(machine.metadata, "version", raise_not_found)
    table = rows(run("info").stdout)
    assert "install threadpoolctl" in table["NumPy"]
    assert "click is not installed" in table["extra cli"]
    monkeypatch.setattr(machine.metadata, "requires", raise_not_found)
    assert not any(name.startswith("extra") for name in rows(run("info").stdout))


def raise_not_found(name):
    raise machine.metadata.PackageNotFoundError(name)


def test_info_about_a_network(here):
    run("train", "houses.csv", "--target", "price", "--ignore", "id", "--standardize", *QUICK)
    table = rows(run("info", "net.safetensors").stdout)
    assert "3-64-1; leaky_relu(0.01), identity; float32; 321 parameters" in table["network"]
    assert "3 -> 64, leaky_relu(0.01)" in table["layer 1"]
    assert "3: area, rooms, garden (standardized)" in table["inputs"]
    assert "1: price (standardized)" in table["outputs"]
    assert "mse" in table["loss"]
    bp.save(bp.MLP([2, 3], device="cpu"), "plain.safetensors", notes={"by": "hand"})
    table = rows(run("info", "plain.safetensors").stdout)
    assert "hand" in table["by"]
    assert "classes" not in table

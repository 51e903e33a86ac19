"""The command line, as a user meets it: every option, every example, every mistake."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from click.testing import CliRunner

import backprop_gpu as bp
from backprop_gpu.backends.cupy_device import unusable
from backprop_gpu.checkpoint import read
from backprop_gpu.cli import demo, report
from backprop_gpu.cli.commands import commands
from backprop_gpu.cli.workflow import Plan

NAMES = ["train", "predict", "info", "explain", "benchmark", "demo"]
QUICK = ["--quiet", "--epochs", "2", "-o", "net.safetensors"]
SPECIES = ["setosa", "versicolor", "virginica"]


def run(*args, code=0):
    result = CliRunner().invoke(commands, list(map(str, args)), prog_name="backprop-gpu")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def fails(code, message, *args):
    """Assert that a command ends with an exit code and one or two lines that say why."""
    result = run(*args, code=code)
    assert result.stderr.startswith("Error: ")
    assert 1 <= len(result.stderr.splitlines()) <= 2
    assert re.search(message, result.stderr), result.stderr
    return result


def rows(text):
    """The lines of a table, by their first word."""
    return {line.split("  ")[0]: line for line in text.splitlines()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with data of every kind, named as in the examples."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 4))
    y = x @ [[1.0], [-2], [0], [0.5]] + 0.3
    np.savez(folder / "data.npz", x=x, y=y)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    area, rooms, garden = rng.uniform(3, 20, 90), rng.integers(1, 6, 90), rng.random(90) < 0.5
    houses = {"id": np.arange(90), "area": area, "rooms": rooms, "garden": garden}
    houses["price"] = area + rooms + 3 * garden
    write_both(folder / "houses", houses)
    kind = np.arange(90) % 3
    petals = kind[:, None] * [2, 0.5] + rng.normal(0, 0.3, (90, 2))
    iris = {"length": petals[:, 0], "width": petals[:, 1], "species": np.array(SPECIES)[kind]}
    write_both(folder / "iris", iris)
    np.savez(folder / "iris.npz", x=petals, y=iris["species"])
    return folder


def write_both(path, columns):
    table = pa.table(columns)
    pyarrow.csv.write_csv(table, path.with_suffix(".csv"))
    pyarrow.parquet.write_table(table, path.with_suffix(".parquet"))


@pytest.fixture
def here(data, tmp_path, monkeypatch):
    """A folder with the data, to work in."""
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Help


def test_help_names_every_command_and_exit_code():
    text = run("--help").stdout
    assert all(f"\n  {name}  " in text for name in NAMES)
    assert re.findall(r"^    (\d+) ", text, re.MULTILINE) == ["0", "1", "2", "3", "4", "130"]
    assert run("--version").stdout.strip().endswith(bp.__version__)
    assert all(len(line) <= 100 for name in NAMES for line in run(name, "-h").stdout.splitlines())


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
    monkeypatch.setitem(sys.modules, "backprop_gpu.benchmark", benchmark)
    args = shlex.split(example)
    assert run(*args).stdout or "-o" in args
    if "-o" in args and args[0] != "benchmark":
        assert Path(args[args.index("-o") + 1]).is_file()


# train and predict


@pytest.mark.parametrize("files", [["data.npz"], ["x.npy", "y.npy"]])
def test_numbers_from_arrays(here, files):
    out = run("train", *files, "--layers", "8,4", "--learning-rate", 0.01, "-o", "net.safetensors")
    table = rows(out.stdout)
    assert table["network"].endswith(
        "  4-8-4-1; leaky_relu(0.01), leaky_relu(0.01), identity; float32; 81 parameters"
    )
    assert "90 samples to train on" in table["data"]
    assert re.search(r"s, [\d,]+ samples/s", table["time"])
    assert "net.safetensors" in table["saved"]
    first, last = map(float, re.findall(r"[\d.]+(?:e-\d+)?", table["training loss"]))
    assert last < first / 10
    assert "epoch" not in out.stderr  # no progress bar in a pipe

    net = bp.load("net.safetensors", device="cpu")
    x = np.load("x.npy")
    text = run("predict", "net.safetensors", files[0]).stdout
    assert text.startswith("y\n")
    printed = np.array(text.split()[1:], np.float32)
    np.testing.assert_array_equal(printed, net(x)[:, 0])
    for name in ("out.npy", "out.npz", "out.csv", "out.parquet"):
        assert run("predict", "net.safetensors", "x.npy", "-o", name).output == ""
    np.testing.assert_array_equal(np.load("out.npy"), printed)
    np.testing.assert_array_equal(np.load("out.npz")["y"], printed)
    assert Path("out.csv").read_text() == text
    parquet = pyarrow.parquet.read_table("out.parquet")
    np.testing.assert_array_equal(parquet["y"].to_numpy(), printed)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_numbers_from_columns(here, suffix):
    run(
        *("train", f"houses.{suffix}", "--target", "price", "--target", "rooms", "--ignore", "id"),
        *("--standardize", *QUICK),
    )
    saved = read("net.safetensors", device="cpu")
    assert saved.notes["features"] == ["area", "garden"]
    table = pyarrow.parquet.read_table("houses.parquet")
    x = np.stack([table["area"].to_numpy(), table["garden"].to_numpy()], axis=1)
    np.testing.assert_allclose(saved.arrays["mean"], x.mean(axis=0))
    np.testing.assert_allclose(saved.arrays["deviation"], x.std(axis=0))
    expected = saved.net((x - x.mean(axis=0)) / x.std(axis=0))

    # In any order, with and without targets, from the other kind of file as well.
    shuffled = table.select(["garden", "area"])
    pyarrow.csv.write_csv(shuffled, "shuffled.csv")
    for file in ("houses.csv", "houses.parquet", "shuffled.csv"):
        lines = run("predict", "net.safetensors", file).stdout.splitlines()
        assert lines[0] == "price,rooms"
        printed = np.array([line.split(",") for line in lines[1:]], np.float32)
        np.testing.assert_allclose(printed, expected, rtol=1e-6)
    np.save("rows.npy", x)
    run("predict", "net.safetensors", "rows.npy", "-o", "out.npy")
    np.testing.assert_allclose(np.load("out.npy"), expected, rtol=1e-6)


@pytest.mark.parametrize("file", ["iris.npz", "iris.csv", "iris.parquet"])
def test_labels(here, file):
    target = [] if file == "iris.npz" else ["--target", "species"]
    out = run(
        *("train", file, *target, "--classify", "--standardize", "--validation", 0.2),
        *("--learning-rate", 0.05, "--epochs", 60, "--layers", 8, "-o", "net.safetensors"),
    )
    table = rows(out.stdout)
    assert "2-8-3; leaky_relu(0.01), softmax" in table["network"]
    assert table["classes"].split(maxsplit=1)[1] == "3: setosa, versicolor, virginica"
    assert "72 samples to train on, 18 held out" in table["data"]
    assert "validation loss" in table
    accuracy = float(re.search(r"([\d.]+)% of 18 held out", table["accuracy"])[1])

    header, *labels = run("predict", "net.safetensors", file).stdout.splitlines()
    assert header == (target[1] if target else "label")
    truth = [SPECIES[i % 3] for i in range(90)]
    assert np.mean(np.array(labels) == truth) > 0.9
    assert accuracy > 80

    run("predict", "net.safetensors", file, "-o", "out.npy")
    assert np.load("out.npy").tolist() == labels
    lines = run("predict", "net.safetensors", file, "--probabilities").stdout.splitlines()
    assert lines[0] == "setosa,versicolor,virginica"
    shares = np.array([line.split(",") for line in lines[1:]], float)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert [SPECIES[i] for i in shares.argmax(axis=1)] == labels


@pytest.mark.parametrize("labels", [[7, 3], [True, False], [0.5, 2.5], ["b", "a"]])
def test_labels_of_any_type_come_back(here, labels):
    y = np.array(labels)[np.arange(90) % 2]
    x = np.stack([np.arange(90) % 2, np.zeros(90)], axis=1)
    np.savez("two.npz", x=x, y=y)
    run(
        *("train", "two.npz", "--classify", "--standardize", "--learning-rate", 0.1),
        *("--epochs", 30, "--layers", "none", "-q", "-o", "net.safetensors"),
    )
    run("predict", "net.safetensors", "two.npz", "-o", "out.npz")
    assert np.load("out.npz")["y"].tolist() == y.tolist()


def test_a_constant_column_is_standardized_to_zero(here):
    x = np.load("x.npy")
    x[:, 1] = 0.1
    np.save("c.npy", x)
    run("train", "c.npy", "y.npy", "--standardize", *QUICK)
    saved = read("net.safetensors", device="cpu")
    assert saved.arrays["mean"][1] == 0.1
    assert saved.arrays["deviation"][1] == 1


def test_held_out_samples_are_not_standardized_with(here):
    run("train", "data.npz", "--standardize", "--validation", 0.5, "--seed", 3, *QUICK)
    kept = np.random.default_rng(3).permutation(90)[45:]
    mean = read("net.safetensors", device="cpu").arrays["mean"]
    np.testing.assert_allclose(mean, np.load("x.npy")[kept].mean(axis=0))


def train_as(**options):
    """What `bp.train` makes of the data with the same options."""
    x, y = np.load("x.npy"), np.load("y.npy")
    settings = {"optimizer": bp.Adam(), "epochs": 2, "batch_size": 32, "seed": 0, **options}
    activations, dtype = settings.pop("activations", None), settings.pop("dtype", "float32")
    net = bp.MLP([4, 64, 1], activations, device="cpu", dtype=dtype, seed=settings["seed"])
    bp.train(net, x, y, **settings)
    return net


@pytest.mark.parametrize(
    ("args", "options"),
    [
        ("", {}),
        ("--epochs 3", {"epochs": 3}),
        ("--batch-size 7", {"batch_size": 7}),
        ("--batch-size 1000", {"batch_size": None}),
        ("--seed 5", {"seed": 5}),
        ("--dtype float64", {"dtype": "float64"}),
        ("--loss sse", {"loss": "sse"}),
        ("--clip-norm 0.1", {"clip_norm": 0.1}),
        ("--activations tanh", {"activations": ["tanh", "identity"]}),
        ("--activations tanh,softplus", {"activations": ["tanh", "softplus"]}),
        ("--activations leaky_relu:0.3", {"activations": [bp.LeakyReLU(0.3), "identity"]}),
        ("--learning-rate 0.1", {"optimizer": bp.Adam(0.1)}),
        ("--weight-decay 0.5", {"optimizer": bp.Adam(weight_decay=0.5)}),
        ("--optimizer sgd", {"optimizer": bp.SGD()}),
        ("--optimizer adamw", {"optimizer": bp.AdamW()}),
        (
            "--optimizer sgd --learning-rate 0.02 --momentum 0.8 --nesterov --weight-decay 0.1",
            {"optimizer": bp.SGD(0.02, momentum=0.8, nesterov=True, weight_decay=0.1)},
        ),
    ],
)
def test_options_mean_what_they_say(here, args, options):
    run("train", "data.npz", "--device", "cpu", *QUICK, *args.split())
    net, expected = bp.load("net.safetensors", device="cpu"), train_as(**options)
    assert net.dtype == expected.dtype
    np.testing.assert_array_equal(net.parameters, expected.parameters)


@pytest.mark.parametrize(
    ("args", "last"),
    [
        ("--classify", "softmax"),
        ("--classify --loss mse", "softmax"),
        ("--classify --loss bce", "sigmoid"),
        ("--classify --layers none --activations sigmoid --loss bce", "sigmoid"),
        ("--classify --layers 4,3 --activations tanh,relu", "softmax"),
    ],
)
def test_last_activation_suits_the_loss(here, args, last):
    run("train", "iris.npz", *QUICK, *args.split())
    assert bp.load("net.safetensors", device="cpu").activations[-1].name == last


def test_early_stopping(here):
    options = ["--validation", 0.3, "--patience", 3, "--learning-rate", 0.1, "--epochs", 5000]
    out = run("train", "data.npz", *options, "-o", "net.safetensors").stdout
    found = re.search(r"epochs +(\S+), ended by early stopping; .* best epoch's, number (\S+)", out)
    epochs, best = (int(number.replace(",", "")) for number in found.groups())
    assert epochs == best + 3


def test_quiet(here):
    assert run("train", "data.npz", *QUICK).output == ""


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


def test_info_without_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setattr(report.metadata, "version", raise_not_found)
    table = rows(run("info").stdout)
    assert "install threadpoolctl" in table["NumPy"]
    assert "click is not installed" in table["extra cli"]
    monkeypatch.setattr(report.metadata, "requires", raise_not_found)
    assert not any(name.startswith("extra") for name in rows(run("info").stdout))


def raise_not_found(name):
    raise report.metadata.PackageNotFoundError(name)


def test_info_about_a_network(here):
    run("train", "houses.csv", "--target", "price", "--ignore", "id", "--standardize", *QUICK)
    table = rows(run("info", "net.safetensors").stdout)
    assert "3-64-1; leaky_relu(0.01), identity; float32; 321 parameters" in table["network"]
    assert "3 -> 64, leaky_relu(0.01)" in table["layer 1"]
    assert "3: area, rooms, garden (standardized)" in table["inputs"]
    assert "1: price" in table["outputs"]
    assert "mse" in table["loss"]
    bp.save(bp.MLP([2, 3], device="cpu"), "plain.safetensors", notes={"by": "hand"})
    table = rows(run("info", "plain.safetensors").stdout)
    assert "hand" in table["by"]
    assert "classes" not in table


# benchmark


def test_benchmark(here, monkeypatch):
    calls = []
    fake = types.SimpleNamespace(
        NETWORKS={"small": 0}, run_benchmark=lambda *args: calls.append(args) or "a table"
    )
    monkeypatch.setitem(sys.modules, "backprop_gpu.benchmark", fake)
    assert run("benchmark").stdout == "a table\n"
    run(
        *("benchmark", "--network", "small", "--batch", 1, "--batch", 64, "--device", "cpu"),
        *("--seconds", 0.2, "-o", "times.json"),
    )
    assert calls == [
        (None, None, ("cpu", "cuda"), 1.0, None),
        (("small",), (1, 64), ("cpu",), 0.2, Path("times.json")),
    ]
    fails(2, "unknown network 'smal'; did you mean 'small'", "benchmark", "--network", "smal")
    fails(2, "'gpu'; choose auto, cpu", "benchmark", "--device", "gpu")
    fails(1, "can't be written", "benchmark", "-o", "none/times.json")
    fails(2, "--batch", "benchmark", "--batch", 0)
    fails(2, "--seconds", "benchmark", "--seconds", 0)


# Mistakes


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("trian", "No such command 'trian'"),
        ("train", "Missing argument 'DATA...'.*see backprop-gpu train --help"),
        ("train data.npz", "Missing option '-o'"),
        ("train data.npz -o net.txt", r"net.txt ends in '.txt'; expected .safetensors"),
        ("train data.npz -o net", "net has no suffix"),
        ("train data.npz -o n.safetensors --epochz 3", "No such option"),
        ("train x.npy {}", "a pair x.npy y.npy"),
        ("train data.npz --target y {}", "--target and --ignore are for .csv and .parquet"),
        ("train houses.csv {}", "Give --target NAME, one of: 'id', 'area'"),
        ("train houses.csv --target prize {}", "unknown column 'prize'; did you mean 'price'"),
        ("train houses.csv --target price --ignore idd {}", "did you mean 'id'"),
        ("train houses.csv --target price --target price {}", "given twice"),
        ("train houses.csv --target id --classify {}", "leave out --classify"),
        ("train houses.csv --target rooms --target id --classify {}", "one column of labels"),
        ("train data.npz --layers 64,x {}", "'64,x'; expected whole numbers"),
        ("train data.npz --layers 0 {}", "expected whole numbers from 1"),
        ("train data.npz --layers -3 {}", "expected whole numbers from 1"),
        ("train data.npz --layers 64, {}", "expected whole numbers from 1"),
        ("train data.npz --layers 99999999999999999999 {}", "expected whole numbers from 1"),
        ("train data.npz --activations rleu {}", "'rleu'; did you mean 'relu'"),
        ("train data.npz --activations '' {}", "unknown activation ''"),
        ("train data.npz --activations tahn:1 {}", "did you mean 'tanh'"),
        ("train data.npz --activations tanh:1 {}", "tanh takes no number"),
        ("train data.npz --activations leaky_relu:x {}", "'x' is no finite number"),
        ("train data.npz --activations leaky_relu:nan {}", "'nan' is no finite number"),
        ("train data.npz --activations tanh,tanh,tanh {}", "3 activations .* 1 hidden layer"),
        ("train data.npz --layers none --activations tanh,tanh {}", "2 activations .* 0 hidden"),
        ("train data.npz --loss msse {}", "unknown loss 'msse'; did you mean .*'mse'"),
        ("train data.npz --loss bce {}", "defined for targets between 0 and 1"),
        ("train iris.npz --classify --loss bce --activations tanh,tanh {}", "use 'sigmoid'"),
        ("train data.npz --optimizer adan {}", "'adan' is not one of 'sgd', 'adam'"),
        ("train data.npz --momentum 0.9 {}", "momentum belongs to sgd; the optimizer is adam"),
        ("train data.npz --optimizer sgd --momentum 1 {}", "momentum is 1"),
        ("train data.npz --optimizer sgd --nesterov {}", "momentum is 0"),
        ("train data.npz --learning-rate 0 {}", "learning_rate is 0"),
        ("train data.npz --learning-rate nan {}", "learning_rate is nan"),
        ("train data.npz --weight-decay -1 {}", "weight_decay is -1"),
        ("train data.npz --clip-norm 0 {}", "clip_norm is 0"),
        ("train data.npz {} --epochs 0", "--epochs"),
        ("train data.npz --batch-size 0 {}", "--batch-size"),
        ("train data.npz --batch-size 1.5 {}", "--batch-size"),
        ("train data.npz --validation 1 {}", "--validation"),
        ("train data.npz --validation nan {}", "validation is nan"),
        ("train data.npz --validation 0.999 {}", "leaves none to train on"),
        ("train data.npz --patience 0 {}", "--patience"),
        ("train data.npz --seed -1 {}", "--seed"),
        ("train data.npz --dtype float16 {}", "--dtype"),
        ("train data.npz --device gpu {}", "'gpu'; choose auto, cpu, cuda"),
        ("predict net.safetensors", "Missing argument 'DATA'"),
        ("predict net.safetensors data.txt", "data.txt ends in '.txt'"),
        ("predict net.safetensors x.npy -o out.txt", "expected .csv or .npy or .npz or .parquet"),
        ("predict net.safetensors x.npy -o x.npy", "would be replaced"),
        ("predict net.safetensors x.npy -o ./x.npy", "would be replaced"),
        ("predict net.safetensors x.npy --device tpu", "'tpu'; choose auto"),
        ("demo --picture curves.jpg", "expected .png"),
    ],
)
def test_usage(here, args, message):
    quick = "--quiet --epochs 2 -o net.safetensors"
    fails(2, message, *shlex.split(args.format(quick)))
    assert not Path("net.safetensors").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("train none.npz {}", "none.npz does not exist"),
        ("train houses.csv --target price --target none {} -o none/n.safetensors", "be written"),
        ("train data.npz {} -o folder.safetensors", "not a regular file"),
        ("train iris.csv --target species {}", "'species'.*--classify"),
        ("train iris.csv --target width {}", r"'species' \('setosa' in row 1\).*--ignore"),
        ("train gaps.csv --target y {}", "missing or infinite cells in column 'a'"),
        ("train torn.npz {}", "torn.npz can't be read"),
        ("train data.npz --layers 1000000,1000000 {}", "not enough memory.*smaller layers"),
        ("train huge.npz --standardize {}", "column 1 of x .* too large to standardize"),
        ("train huge.npz {}", "x holds 1 value.* infinite in float32, .* index \\(1, 1\\)"),
        ("predict none.safetensors x.npy", "none.safetensors does not exist"),
        ("predict data.npz x.npy", "can't be read as a safetensors file"),
        ("predict iris.safetensors none.csv", "none.csv does not exist"),
        ("predict iris.safetensors houses.csv", "no column 'length', 'width', which the network"),
        ("predict iris.safetensors x.npy", "4 columns of inputs; the network was trained on 2"),
        ("predict iris.safetensors iris.csv -o none/out.csv", "can't be written"),
        ("info none.safetensors", "does not exist"),
        ("info data.npz", "can't be read"),
        ("demo --picture none/curves.png", "can't be written"),
    ],
)
def test_data_and_files(here, args, message):
    run("train", "iris.csv", "--target", "species", "--classify", *QUICK, "-o", "iris.safetensors")
    Path("gaps.csv").write_text("a,y\n1,2\n,3\n4,5\n")
    Path("torn.npz").write_bytes(Path("data.npz").read_bytes()[:300])
    Path("folder.safetensors").mkdir()
    np.savez("huge.npz", x=np.array([[1, 2], [3, 1e300], [4, 5]]), y=np.zeros(3))
    fails(1, message, *shlex.split(args.format("--quiet --epochs 2 -o net.safetensors")))
    assert not Path("net.safetensors").exists()


def test_probabilities_need_classes(here):
    run("train", "data.npz", *QUICK)
    fails(2, "predicts numbers", "predict", "net.safetensors", "x.npy", "--probabilities")


@pytest.mark.parametrize(
    ("notes", "arrays", "message"),
    [
        ({"features": ["a"]}, {}, "1 features; the network has 2"),
        ({"features": "ab"}, {}, "features are 'ab'; expected a list"),
        ({"features": [1, 2]}, {}, "expected a list"),
        ({"classes": [[], {}, None]}, {}, "expected a list"),
        ({"classes": ["a", "b"]}, {}, "2 classes; the network has 3"),
        ({"targets": ["a"]}, {}, "1 targets; the network has 3"),
        ({}, {"mean": np.zeros(2)}, "one of mean and deviation"),
        ({}, {"mean": np.zeros(2), "deviation": np.zeros(2)}, "not above 0"),
        ({}, {"mean": np.zeros(3), "deviation": np.ones(3)}, r"mean is float64 of shape \(3,\)"),
        ({}, {"mean": np.zeros(2), "deviation": np.full(2, np.nan)}, "deviation is"),
        ({}, {"mean": np.zeros(2, int), "deviation": np.ones(2)}, "mean is int64"),
    ],
)
def test_networks_whose_notes_do_not_fit(here, notes, arrays, message):
    bp.save(bp.MLP([2, 3], device="cpu"), "net.safetensors", notes=notes, arrays=arrays)
    fails(1, message, "info", "net.safetensors")
    fails(1, message, "predict", "net.safetensors", "x.npy")


def test_a_network_with_an_activation_of_ones_own(here):
    own = bp.Activation("own", lambda xp, z: z, lambda xp, a: a, derivative_from="a")
    bp.save(bp.MLP([2, 3], [own], device="cpu"), "net.safetensors")
    fails(1, "not registered here: unknown activation 'own'", "info", "net.safetensors")


@pytest.mark.skipif(unusable() is None, reason="there is a usable GPU")
@pytest.mark.parametrize(
    "args",
    [
        "train data.npz -o net.safetensors --device cuda",
        "train data.npz -o net.safetensors --device cuda:1",
        "predict net.safetensors x.npy --device cuda",
        "demo --device cuda",
    ],
)
def test_no_gpu(here, args):
    run("train", "data.npz", *QUICK)
    fails(4, "device='cuda.*' can't be used: ", *args.split())


def test_divergence(here):
    sgd = ["--optimizer", "sgd", "-q", "-o", "net.safetensors"]
    message = "NaN or infinity arose in epoch 0.*net.safetensors is not written"
    fails(3, message, "train", "data.npz", *sgd, "--learning-rate", 1e30)
    assert not Path("net.safetensors").exists()
    result = fails(3, "arose in epoch", "train", "data.npz", *sgd, "--learning-rate", 3)
    assert "The network as it was then is in net.safetensors" in result.stderr
    assert np.isfinite(bp.load("net.safetensors", device="cpu").parameters).all()


def test_a_failure_leaves_an_older_network_alone(here):
    run("train", "data.npz", *QUICK)
    before = Path("net.safetensors").read_bytes()
    fails(2, "loss", "train", "data.npz", *QUICK, "--loss", "none")
    fails(1, "does not exist", "train", "none.npz", *QUICK)
    assert Path("net.safetensors").read_bytes() == before
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_a_full_disk_is_found_before_training(here, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backprop_gpu.cli.workflow.save", full)
    monkeypatch.setattr("backprop_gpu.cli.workflow.train", None)
    fails(1, "net.safetensors can't be written: No space left", "train", "data.npz", *QUICK)


@pytest.mark.parametrize(
    ("package", "extra", "args"),
    [
        ("pyarrow", "data", "train houses.csv --target price -o net.safetensors"),
        ("safetensors", "io", "train data.npz -o net.safetensors"),
        ("tqdm", "progress", "train data.npz -o net.safetensors"),
        ("sklearn", "sklearn", "demo"),
        ("matplotlib", "plot", "demo"),
    ],
)
def test_missing_extras(here, monkeypatch, package, extra, args):
    monkeypatch.setitem(sys.modules, package, None)
    fails(1, rf'not installed: pip install "backprop-gpu\[{extra}\]"', *args.split())


def test_defects_are_not_hidden(here, monkeypatch):
    monkeypatch.setattr("backprop_gpu.cli.report.about_machine", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("info")


# As a process


def process(*args, **options):
    return subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, **options
    )


def test_as_a_module(here):
    done = process("-m", "backprop_gpu", "train", "data.npz", *QUICK)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = process("-m", "backprop_gpu", "train", "data.npz", *QUICK, "--layers", "x")
    assert done.returncode == 2
    assert "see backprop-gpu train --help" in done.stderr


def test_without_click():
    done = process(
        "-c",
        "import sys; sys.modules['click'] = None;from backprop_gpu.__main__ import main; main()",
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert 'pip install "backprop-gpu[cli]"' in done.stderr


def test_info_needs_no_further_extra():
    absent = ["safetensors", "pyarrow", "tqdm", "matplotlib", "sklearn", "threadpoolctl"]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}));"
        "sys.argv = ['backprop-gpu', 'info']; from backprop_gpu.__main__ import main; main()"
    )
    done = process("-c", script)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing on Windows")
def test_interrupted(here):
    command = [sys.executable, "-m", "backprop_gpu", "train", "data.npz", "-o", "net.safetensors"]
    command += ["--epochs", "100000000"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as child:
        deadline = time.monotonic() + 20
        while "loss" not in child.stderr.read(200) and time.monotonic() < deadline:
            pass
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "Traceback" not in errors
    assert "Error: interrupted.\nThe network as it was then is in net.safetensors" in errors
    assert np.isfinite(bp.load("net.safetensors", device="cpu").parameters).all()


def test_a_reader_that_stops_reading(here):
    run("train", "data.npz", *QUICK)
    np.save("many.npy", np.zeros((100_000, 4)))  # more than a pipe holds
    command = [sys.executable, "-m", "backprop_gpu", "predict", "net.safetensors", "many.npy"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env={**os.environ, "PYTHONUNBUFFERED": ""}) as child:
        assert child.stdout.readline() == b"y\n"
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(20) == 1


def test_plan_defaults_are_those_of_the_options(here):
    run("train", "data.npz", "-q", "-o", "net.safetensors")
    plan = Plan()
    x, y = np.load("x.npy"), np.load("y.npy")
    net = bp.MLP([4, *plan.hidden, 1], plan.all_activations(), device="cpu", seed=plan.seed)
    options = {"optimizer": plan.optimizer, "epochs": plan.epochs, "batch_size": plan.batch_size}
    bp.train(net, x, y, **options)
    found = bp.load("net.safetensors", device="cpu").parameters
    np.testing.assert_array_equal(found, net.parameters)


def test_notes_are_plain_json(here):
    run("train", "iris.csv", "--target", "species", "--classify", *QUICK)
    notes = read("net.safetensors", device="cpu").notes
    assert json.loads(json.dumps(notes)) == {
        "features": ["length", "width"],
        "targets": ["species"],
        "classes": SPECIES,
        "loss": "categorical_cross_entropy",
    }

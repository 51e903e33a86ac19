"""The command line: training, predicting and timing, with every option."""

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from command_line import QUICK, SPECIES, fails, rows, run

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.benchmark.table import PARTS
from backprop_gpu.cli.workflow import Settings
from backprop_gpu.saving import read

TRAIN = ("train", "data.npz", "--device", "cpu", *QUICK)

# train and predict


@pytest.mark.parametrize("files", [["data.npz"], ["x.npy", "y.npy"]])
def test_numbers_from_arrays(here, no_gpu, files):
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


# score


def test_the_score_of_labels(here):
    options = "--standardize", "--epochs", "60", "-q", "-o", "net.safetensors"
    run("train", "iris.csv", "--target", "species", "--classify", *options)
    predicted = run("predict", "net.safetensors", "iris.parquet").stdout.split()[1:]
    share = np.mean(np.array(predicted) == pyarrow.csv.read_csv("iris.csv")["species"].to_numpy())
    table = rows(run("score", "net.safetensors", "iris.parquet").stdout)
    assert table["data"].endswith("  90 samples")
    assert table["loss"].endswith(", categorical_cross_entropy")
    assert table["accuracy"].split()[1] == f"{share:.2%}"
    assert 0.7 < share < 1  # or this would tell nothing


@pytest.mark.parametrize("standardize", [["--standardize"], []])
def test_the_score_of_numbers_is_that_of_the_targets_themselves(here, standardize):
    targets = "--target", "price", "--target", "rooms"
    run("train", "houses.csv", *targets, "--ignore", "id", *standardize, *QUICK)
    run("predict", "net.safetensors", "houses.csv", "-o", "predicted.npy")
    y = pyarrow.csv.read_csv("houses.csv")
    table = rows(run("score", "net.safetensors", "houses.csv").stdout)
    for name, predicted in zip(("price", "rooms"), np.load("predicted.npy").T, strict=True):
        error = predicted - y[name].to_numpy()
        explained = 1 - np.sum(error**2) / np.sum((y[name].to_numpy() - np.mean(y[name])) ** 2)
        assert f"R^2 {explained:.4f}, root mean squared error " in table[name]
        assert float(table[name].split()[-1]) == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3)
    assert ("of standardized targets" in table["loss"]) == bool(standardize)


def test_the_score_of_targets_0_and_1_is_how_many_are_right(here):
    """With binary cross-entropy; the loss is the log loss then."""
    options = "--ignore", "id", "--loss", "bce", *QUICK
    run("train", "houses.csv", "--target", "garden", *options)
    run("predict", "net.safetensors", "houses.csv", "-o", "p.npy")
    y, p = pyarrow.csv.read_csv("houses.csv")["garden"].to_numpy(), np.load("p.npy").astype(float)
    table = rows(run("score", "net.safetensors", "houses.csv").stdout)
    assert table["garden"].endswith(f"  accuracy {np.mean((p > 0.5) == y):.2%}")
    log_loss = -np.log(np.where(y, p, 1 - p)).mean()
    assert float(table["loss"].split()[1].rstrip(",")) == pytest.approx(log_loss, rel=1e-3)
    x = np.random.default_rng(0).normal(size=(20, 2))
    np.savez("several.npz", x=x, y=np.column_stack([x > 0, x[:, 0] > x[:, 1]]))
    np.savez("shares.npz", x=x, y=np.full((20, 3), 0.3))
    run("train", "several.npz", "--loss", "bce", *QUICK)
    table = rows(run("score", "net.safetensors", "several.npz").stdout)
    assert all("  accuracy " in table[name] for name in ("y0", "y1", "y2"))
    assert "root mean squared error" in run("score", "net.safetensors", "shares.npz").stdout


def test_the_score_of_arrays(here):
    run(*TRAIN)
    (name,) = run("predict", "net.safetensors", "x.npy").stdout.split()[:1]
    assert "R^2 " in rows(run("score", "net.safetensors", "x.npy", "y.npy").stdout)[name]
    np.savez("same.npz", x=np.ones((3, 4)), y=np.full((3, 1), 2.0))
    assert "R^2" not in run("score", "net.safetensors", "same.npz").stdout  # 0 / 0


def test_the_score_of_labels_that_happen_to_be_numbers(here):
    """Text in training, since one of them is "x"; whole numbers in the rows that are left."""
    lines = [f"{i % 3},{'12x'[i % 3]}" for i in range(30)]
    Path("all.csv").write_text("\n".join(["a,kind", *lines]))
    Path("some.csv").write_text("\n".join(["a,kind", *(s for s in lines if "x" not in s)]))
    options = "--layers", "8", "--learning-rate", "0.1", "--epochs", "50", "-q"
    run("train", "all.csv", "--target", "kind", "--classify", *options, "-o", "net.safetensors")
    assert "100.00%" in run("score", "net.safetensors", "some.csv").stdout


def test_what_has_no_score(here):
    run("train", "iris.csv", "--target", "species", "--classify", *QUICK)
    fails(2, "unknown column 'species'", "score", "net.safetensors", "houses.csv")
    np.savez("other.npz", x=np.ones((2, 2)), y=["setosa", "rosa"])
    fails(2, "'rosa' is none of the network's", "score", "net.safetensors", "other.npz")
    bp.save(bp.MLP([2, 1], device="cpu"), "plain.safetensors")
    fails(2, "does not know which columns", "score", "plain.safetensors", "iris.csv")


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
    y = np.stack([table["price"].to_numpy(), table["rooms"].to_numpy()], axis=1)
    np.testing.assert_allclose(saved.arrays["target_mean"], y.mean(axis=0))
    np.testing.assert_allclose(saved.arrays["target_deviation"], y.std(axis=0))
    outputs = saved.net((x - x.mean(axis=0)) / x.std(axis=0))
    expected = outputs * y.std(axis=0) + y.mean(axis=0)

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


def test_labels_and_columns_whose_names_hold_commas_are_in_quotes(here):
    Path("cities.csv").write_text('"north, km",city\n' + '1,"Paris, TX"\n2,Rome\n' * 4)
    settings = *QUICK, "--target", "city", "--classify"
    shown = rows(run("train", "cities.csv", *settings[1:]).stdout)
    known = rows(run("info", "net.safetensors").stdout)
    for table in (shown, known):
        assert table["classes"].endswith("  2: 'Paris, TX', Rome")
    assert known["inputs"].endswith("  1: 'north, km'")
    assert known["outputs"].endswith("  1: city")


def test_one_sample_is_one(here):
    Path("one.csv").write_text("a,y\n1,2\n")
    shown = rows(run("train", "one.csv", *QUICK[1:], "--target", "y").stdout)
    assert shown["data"].endswith("  1 sample to train on")
    assert rows(run("score", "net.safetensors", "one.csv").stdout)["data"].endswith("  1 sample")


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


def test_targets_of_any_size_are_learned_where_they_are_standardized(here):
    x, y = np.load("x.npy"), 1e6 + 1e5 * np.load("y.npy")
    np.savez("far.npz", x=x, y=y)
    options = ("far.npz", "--learning-rate", 0.01, "-o", "net.safetensors")
    table = rows(run("train", *options, "--standardize").stdout)
    assert "losses are those of standardized targets" in table["targets"]
    run("predict", "net.safetensors", "x.npy", "-o", "out.npy")
    assert np.abs(np.load("out.npy") - y[:, 0]).max() < 0.5 * y.std()

    table = rows(run("train", *options).stdout)
    assert "targets" not in table
    assert "--standardize" in table["note"]
    assert "note" not in rows(run("train", "data.npz", "-o", "net.safetensors").stdout)


@pytest.mark.parametrize("options", ["--activations tanh,sigmoid", "--loss bce"])
def test_targets_that_outputs_are_bounded_to_stay_what_they_are(here, options):
    np.savez("shares.npz", x=np.load("x.npy"), y=np.load("y.npy") > 0)
    run("train", "shares.npz", "--standardize", *options.split(), *QUICK)
    assert set(read("net.safetensors", device="cpu").arrays) == {"mean", "deviation"}


def test_held_out_samples_are_not_standardized_with(here):
    run("train", "data.npz", "--standardize", "--validation", 0.5, "--seed", 3, *QUICK)
    kept = np.random.default_rng(3).permutation(90)[45:]
    arrays = read("net.safetensors", device="cpu").arrays
    np.testing.assert_allclose(arrays["mean"], np.load("x.npy")[kept].mean(axis=0))
    np.testing.assert_allclose(arrays["target_mean"], np.load("y.npy")[kept].mean(axis=0))


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
    run(*TRAIN, *args.split())
    net, expected = bp.load("net.safetensors", device="cpu"), train_as(**options)
    assert net.dtype == expected.dtype
    np.testing.assert_array_equal(net.parameters, expected.parameters)


def test_precision(here, monkeypatch):
    fails(2, "precision='tf32' is not to be had on cpu", *TRAIN, "--precision", "tf32")
    fails(2, "'half'", *TRAIN, "--precision", "half")
    seen = []

    def gpu(device, precision):
        seen.append(precision)
        backend = NumpyBackend()
        backend.precision = precision
        return backend, "stands for a GPU"

    monkeypatch.setattr("backprop_gpu.cli.commands.choose_backend", gpu)
    run(*TRAIN, "--precision", "bf16")
    assert seen == ["bf16"]
    fails(2, "precision='bf16' is for float32", *TRAIN, "--precision", "bf16", "--dtype", "float64")


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


def test_why_there_is_no_gpu_is_left_to_info(here, no_gpu):
    line = rows(run("train", "data.npz", "-o", "net.safetensors").stdout)["device"]
    assert line == "device   cpu (no usable GPU: backprop-gpu info says why)"
    out = run("train", "data.npz", "--device", "cpu", "-o", "net.safetensors").stdout
    assert rows(out)["device"] == "device   cpu"


def test_quiet(here):
    assert run("train", "data.npz", *QUICK).output == ""


# benchmark


def test_benchmark(here, monkeypatch):
    fails(2, "unknown network 'smal'; did you mean 'small'", "benchmark", "--network", "smal")
    calls = []
    fake = types.SimpleNamespace(run_benchmark=lambda *args: calls.append(args[:-1]) or "a table")
    monkeypatch.setitem(sys.modules, "backprop_gpu.benchmark.speed", fake)
    assert run("benchmark").stdout == "a table\n"
    run(
        *("benchmark", "--network", "small", "--batch", 1, "--batch", 64, "--device", "cpu"),
        *("--seconds", 0.2, "-o", "times.json"),
    )
    assert calls == [
        (None, None, ("cpu", "cuda"), 1.0, None),
        (("small",), (1, 64), ("cpu",), 0.2, Path("times.json")),
    ]
    fails(2, "'gpu'; choose auto, cpu", "benchmark", "--device", "gpu")
    fails(1, "can't be written", "benchmark", "-o", "none/times.json")
    fails(2, "times.txt ends in '.txt'; expected .json", "benchmark", "-o", "times.txt")
    fails(2, "--batch", "benchmark", "--batch", 0)
    fails(2, "--seconds", "benchmark", "--seconds", 0)


def test_benchmark_says_on_a_terminal_what_it_is_timing(monkeypatch):
    timed = "benchmark", "--network", "textbook", "--device", "cpu", "--seconds", 0.001
    assert run(*timed).stderr == ""
    monkeypatch.setattr("backprop_gpu.cli.commands.on_a_terminal", lambda: True)
    said = run(*timed).stderr.splitlines()
    assert said == [f"timing textbook, batch 1, {part}, on cpu" for part in PARTS]


def test_defaults_of_settings_are_those_of_the_options(here, no_gpu):
    run("train", "data.npz", "-q", "-o", "net.safetensors")
    settings = Settings()
    x, y = np.load("x.npy"), np.load("y.npy")
    net = bp.MLP(
        [4, *settings.hidden, 1], settings.all_activations(), device="cpu", seed=settings.seed
    )
    options = {
        "optimizer": settings.optimizer,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
    }
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

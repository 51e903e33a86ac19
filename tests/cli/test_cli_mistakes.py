"""The command line: every mistake is one line, and an exit code."""

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import QUICK, fails, run

import backprop_gpu as bp
from backprop_gpu.backends.cupy_device import unusable


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
        ("train same.npz --classify {}", "every label is 2; classes are at least two"),
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
    np.savez("same.npz", x=np.zeros((3, 1)), y=np.array([2, 2, 2]))
    fails(2, message, *shlex.split(args.format(quick)))
    assert not Path("net.safetensors").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("train none.npz {}", "none.npz does not exist"),
        ("train houses.csv --target price --target none {} -o none/n.safetensors", "be written"),
        ("train data.npz {} -o folder.safetensors", "is a folder, not a file"),
        ("train iris.csv --target species {}", "'species'.*--classify"),
        ("train iris.csv --target width {}", r"'species' \('setosa' in row 1\).*--ignore"),
        ("train gaps.csv --target y {}", "missing or infinite cells in column 'a'"),
        ("train torn.npz {}", "torn.npz can't be read"),
        ("train data.npz --layers 1000000,1000000 {}", "not enough memory.*smaller layers"),
        ("train huge.npz --standardize {}", "column 1 of x .* too large to standardize"),
        ("train huge.npz {}", "x holds 1 value.* infinite in float32, .* index \\(1, 1\\)"),
        ("predict none.safetensors x.npy", "none.safetensors does not exist"),
        ("predict folder.safetensors x.npy", "is a folder, not a file; expected a network"),
        ("predict data.npz x.npy", "can't be read as a safetensors file"),
        ("predict iris.safetensors none.csv", "none.csv does not exist"),
        ("predict iris.safetensors houses.csv", "no column 'length', 'width', which the network"),
        ("predict iris.safetensors x.npy", "4 columns of inputs; the network was trained on 2"),
        ("predict iris.safetensors iris.csv -o none/out.csv", "can't be written: there is no"),
        ("predict iris.safetensors iris.csv -o loop.csv/out.csv", "can't be written"),
        ("predict iris.safetensors loop.csv -o out.csv", "loop.csv can't be read: Too many levels"),
        ("score iris.safetensors none.csv", "none.csv does not exist"),
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
    Path("loop.csv").symlink_to("loop.csv")
    np.savez("huge.npz", x=np.array([[1, 2], [3, 1e300], [4, 5]]), y=np.zeros(3))
    fails(1, message, *shlex.split(args.format("--quiet --epochs 2 -o net.safetensors")))
    assert not Path("net.safetensors").exists()


@pytest.mark.parametrize("delimiter", [",", " "])
@pytest.mark.parametrize(
    "args",
    [
        "train table.csv --target 1 -o other.safetensors",
        "predict net.safetensors table.csv",
        "explain named.safetensors table.csv --layer 1 -j 0 -k 0",
    ],
)
def test_a_first_line_of_numbers_is_no_header(here, args, delimiter):
    run("train", "data.npz", *QUICK)
    run("train", "iris.csv", "--target", "species", "--classify", *QUICK, "-o", "named.safetensors")
    np.savetxt("table.csv", np.arange(12).reshape(3, 4), delimiter=delimiter, fmt="%g")
    message = f"table.csv: line 1, '0{delimiter}1{delimiter}2{delimiter}3', is all numbers.*header"
    fails(1, message, *args.split())


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
        ({}, {"target_mean": np.zeros(3)}, "one of target_mean and target_deviation"),
        (
            {},
            {"target_mean": np.zeros(2), "target_deviation": np.ones(2)},
            r"target_mean is float64 of shape \(2,\); expected 3",
        ),
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
        ("matplotlib.figure", "plot", "demo"),
    ],
)
def test_missing_extras(here, monkeypatch, package, extra, args):
    monkeypatch.setitem(sys.modules, package, None)
    fails(1, rf'not installed: pip install "backprop-gpu\[{extra}\]"', *args.split())


def test_defects_are_not_hidden(here, monkeypatch):
    monkeypatch.setattr("backprop_gpu.cli.commands.about_machine", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("info")

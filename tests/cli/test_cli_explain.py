"""The command `explain`, as a user meets it."""

import re
import shlex
from pathlib import Path

import command_line
import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.cli import tables
from backprop_gpu.cli.workflow import Settings, prepare
from backprop_gpu.explaining.explain import explain, explain_activation, explain_bias
from backprop_gpu.explaining.jump_back import jump_back
from backprop_gpu.losses import find_loss

WEIGHT = ["--layer", "3", "-j", "1", "-k", "2"]


def run(*args):
    return command_line.run("explain", *args)


def fails(code, message, *args):
    command_line.fails(code, message, "explain", *args)


@pytest.fixture(autouse=True)
def on_the_cpu(no_gpu, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def book():
    return bp.textbook(device="cpu")


# ---- the textbook --------------------------------------------------------------------------------


def test_it_prints_the_explanation(book):
    assert run(*WEIGHT).output == f"{explain(*book, 3, 1, 2)}\n"
    bias = run("--layer", 2, "-j", 1, "--bias", "--loss", "sse", "--depth", 0)
    assert bias.output == f"{explain_bias(*book, 2, 1, 'sse', depth=0)}\n"
    node = run("--layer", 0, "-k", 3, "--activation", "--depth", "full", "--largest", 2)
    assert node.output == f"{explain_activation(*book, 0, 3, depth='full', largest=2)}\n"


def test_latex(book):
    assert run(*WEIGHT, "--latex").output == explain(*book, 3, 1, 2).latex() + "\n"


def test_html_writes_a_page(book, tmp_path):
    page = tmp_path / "out.html"
    assert str(page) in run("--html", str(page)).output
    assert page.read_text().startswith("<!DOCTYPE html>")
    run("--html", str(page), "--loss", "bce")
    assert "binary_cross_entropy" in page.read_text()


def test_step_walks_through_jumping_back(book):
    output = run("--step").output
    jumps = jump_back(*book)
    for count, jump in enumerate(jumps, start=1):
        assert f"\n{count} of {len(jumps)}: {jump}\n" in output
    assert output.endswith("Arrived at the input: every gradient that backward gives is known.\n")
    assert max(map(len, output.splitlines())) <= 80
    assert "1/n (a[3] - y)" in run("--step", "--loss", "bce").output


def test_every_example_of_the_help_runs(saved):
    text = run("--help").output
    lines = re.findall(r"^  +backprop-gpu explain (.*)$", text, re.MULTILINE)
    assert len(lines) == 7
    for line in lines:
        assert run(*shlex.split(line)).output


# ---- a saved network -----------------------------------------------------------------------------


@pytest.fixture
def saved():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(9, 8)), random.uniform(size=(9, 2))
    np.savez("data.npz", x=x, y=y)
    net = bp.MLP([8, 6, 2], ["tanh", "sigmoid"], device="cpu", dtype="float64", seed=2)
    bp.save(net, "net.safetensors")
    return net, x, y


def test_a_row_of_a_file(saved):
    net, x, y = saved
    np.save("x.npy", x)
    np.save("y.npy", y)
    weight = ["--layer", 2, "-j", 0, "-k", 5]
    for files in (["data.npz"], ["x.npy", "y.npy"]):
        source = " and ".join(files)
        output = run("net.safetensors", *files, "--row", 7, *weight).output
        assert output == f"row 7 of {source}\n{explain(net, x[7:8], y[7:8], 2, 0, 5)}\n"
        first = explain(net, x[:1], y[:1], 2, 0, 5)
        output = run("net.safetensors", *files, *weight).output
        assert output == f"row 0 of {source}\n{first}\n"
        output = run("net.safetensors", *files, *weight, "--latex").output
        assert output == f"% row 0 of {source}\n{first.latex()}\n"
    assert run("net.safetensors", "data.npz", "--step").output.startswith("row 0 of data.npz\nMLP(")
    output = run("net.safetensors", "data.npz", "--row", 3, "--html", "out.html").output
    assert output.startswith("row 3 of data.npz\n")
    assert "[default: 0]" in run("--help").output


def test_several_rows_are_a_batch(saved):
    net, x, y = saved
    rows = ["--row", 7, "--row", 2]
    output = run("net.safetensors", "data.npz", *rows, "--layer", 1, "-j", 0, "-k", 5).output
    assert output == f"rows 7, 2 of data.npz\n{explain(net, x[[7, 2]], y[[7, 2]], 1, 0, 5)}\n"


@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_a_network_that_train_wrote(suffix):
    """Labels, names of columns and scaled inputs: as in training, and with its loss."""
    random = np.random.default_rng(3)
    x, labels = random.normal(3, 2, size=(30, 2)), random.choice(["cat", "dog"], 30)
    if suffix == ".csv":
        rows = [f"{a:.6f},{b:.6f},{label}" for (a, b), label in zip(x, labels, strict=True)]
        data = "\n".join(["length,width,kind", *rows])
        Path("pets.csv").write_text(data)
    else:
        np.savez("pets.npz", x=x, y=labels)
    path = Path(f"pets{suffix}")
    targets = ["kind"] if suffix == ".csv" else []
    samples = tables.read_samples([path], targets, labels=True)
    settings = Settings(hidden=(4,), classify=True, standardize=True, loss=find_loss("cce"))
    job = prepare(settings, samples)
    job.save(Path("pets.safetensors"))
    expected = explain(job.net, job.x[4:5], job.y[4:5], 1, 3, 1, "cce")
    options = ["--row", 4, "--layer", 1, "-j", 3, "-k", 1]
    named = "; input 1 is width" if suffix == ".csv" else ""
    heading = f"row 4 of pets{suffix}"
    assert run("pets.safetensors", path, *options).output == f"{heading}{named}\n{expected}\n"
    if suffix == ".csv":
        by_name = run("pets.safetensors", path, *options[:-1], "width").output
        assert by_name == run("pets.safetensors", path, *options).output
        node = run("pets.safetensors", path, "--layer", 0, "-k", "width", "--activation").output
        assert "; input 1 is width\ndC/da_1[0]" in node
    for other in (["-k", 1, "--layer", 0, "--activation"], ["-k", 1, "--layer", 1, "--activation"]):
        about_input = named if other[3] == 0 else ""
        output = run("pets.safetensors", path, "--row", 4, *other).output
        assert output.startswith(f"{heading}{about_input}\n")


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "args"),
    [
        (r"a weight is named by --layer, -j, -k, for example --layer 3 -j 1 -k 2", []),
        (r"a weight is named by --layer, -j, -k", ["--layer", 3, "-j", 1]),
        (r"a bias is named by --layer, -j", ["--layer", 3, "--bias"]),
        (r"a bias is named by --layer, -j", [*WEIGHT, "--bias"]),
        (r"an activation is named by --layer, -k", [*WEIGHT, "--activation"]),
        (r"--bias and --activation", ["--layer", 3, "--bias", "--activation"]),
        (r"--step .* leave out --layer and -j and -k", [*WEIGHT, "--step"]),
        (r"--step .* leave out --latex", ["--step", "--latex"]),
        (r"--html .* leave out --layer", [*WEIGHT, "--html", "out.html"]),
        (r"--step and --html", ["--step", "--html", "out.html"]),
        (r"--step .* leave out --bias", ["--step", "--bias"]),
        (r"--step .* leave out --depth", ["--step", "--depth", "full"]),
        (r"--html .* leave out --largest", ["--html", "out.html", "--largest", 0]),
        (r"layer is 4; expected a whole number from 1 to 3", ["--layer", 4, "-j", 0, "-k", 0]),
        (r"layer is 0; .* is the input", ["--layer", 0, "-j", 0, "-k", 0]),
        (r"-k is 'x'; .* inputs have no names here", ["--layer", 1, "-j", 0, "-k", "x"]),
        (r"-k is 'x'; .* nodes have no names", ["--layer", 2, "-j", 0, "-k", "x"]),
        (r"-k is 'x'; .* nodes have no names", ["--layer", 1, "-k", "x", "--activation"]),
        (r"j is 4; layer 3 has 4", ["--layer", 3, "-j", 4, "-k", 0]),
        (r"k is -1; layer 2 has 5", ["--layer", 3, "-j", 0, "-k", -1]),
        (r"'x' is not a valid integer", ["--layer", "x", "-j", 0, "-k", 0]),
        (r"depth is 'x'", [*WEIGHT, "--depth", "x"]),
        (r"depth is '-1'", [*WEIGHT, "--depth", "-1"]),
        (r"largest is 0", [*WEIGHT, "--largest", 0]),
        (r"unknown loss 'maes'", [*WEIGHT, "--loss", "maes"]),
        (r"--row is 1; .* rows 0 to 0", [*WEIGHT, "--row", 1]),
        (r"--row is -1", [*WEIGHT, "--row", -1]),
    ],
)
def test_options_that_are_wrong(message, args):
    fails(2, message, *args)


def test_files_that_are_wrong(saved):
    _, x, y = saved
    options = ["--layer", 1, "-j", 0, "-k", 0]
    fails(2, "net.safetensors needs a sample to explain", "net.safetensors", *options)
    fails(2, r"from x.npy; expected .* a pair x.npy y.npy", "net.safetensors", "x.npy", *options)
    fails(2, "out.txt ends in '.txt'; expected .html", "--html", "out.txt")
    fails(1, "can't be written", "--html", "none/out.html")
    Path("d.csv").write_text("a,b\n1,2\n")
    arrays = r"does not know which columns of d.csv are its targets; give .*x.npy y.npy"
    fails(2, arrays, "net.safetensors", "d.csv", *options)
    fails(1, "nothing.npz does not exist", "net.safetensors", "nothing.npz", *options)
    fails(1, "gone.safetensors", "gone.safetensors", "data.npz", *options)
    fails(
        2,
        "--row is 9; data.npz has rows 0 to 8",
        "net.safetensors",
        "data.npz",
        *options,
        "--row",
        9,
    )
    np.savez("text.npz", x=x, y=np.array(["a"] * 9))
    fails(1, "y holds text .*; train with --classify", "net.safetensors", "text.npz", *options)
    notes = {"features": list("abcdefgh"), "targets": ["y", "z"]}
    bp.save(saved[0], "named.safetensors", notes=notes)
    Path("words.csv").write_text("a,b,c,d,e,f,g,h,y,z\n1,2,3,u,5,6,7,8,1,0\n")
    Path("numbers.csv").write_text("a,b,c,d,e,f,g,h,y,z\n1,2,3,4,5,6,7,8,1,0\n")
    unknown = "--layer", 1, "-j", 0, "-k", "length"
    fails(2, "unknown input 'length'; .* 'a', 'b'", "named.safetensors", "numbers.csv", *unknown)
    remedy = r"column 'd' \('u' in row 1\); .* give rows without it"
    fails(1, remedy, "named.safetensors", "words.csv", *options)
    np.savez("narrow.npz", x=x[:, :3], y=y)
    fails(1, "3 columns of inputs; .* on 8", "net.safetensors", "narrow.npz", *options)
    np.savez("narrow.npz", x=x, y=y[:, :1])
    fails(1, "1 column of targets; .* on 2", "net.safetensors", "narrow.npz", *options)

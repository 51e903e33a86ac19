"""What a user gets: the sdist, the wheel built from it, and that wheel at work elsewhere."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SHIPPED = (".py", ".typed", ".cpp", ".cu", ".cuh", ".hpp", ".json", ".html", ".css", ".js")
ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

FIRST_STEP = """
import sys
import backprop_gpu as bp
assert "cupy" not in sys.modules, "importing the library imports CuPy"

from importlib.resources import files
sources = [f for f in files("backprop_gpu.kernels").iterdir() if f.name.endswith(".cu")]
assert sources and all(f.read_text() for f in sources)

net, x, y = bp.textbook()
history = bp.train(net, x, y, loss="mse", optimizer=bp.SGD(learning_rate=0.01), epochs=1)
assert len(history.loss) == 1
print(bp.__file__, *sources, sep="\\n")
"""


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources():
    """Every file of the library, by its path in the repository."""
    paths = [path for folder in ("backprop_gpu", "kernels") for path in (ROOT / folder).rglob("*")]
    kept = (path for path in paths if path.suffix in SHIPPED)
    found = {path.relative_to(ROOT).as_posix() for path in kept}
    assert any(name.endswith(".cu") for name in found)
    return found


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist, and the wheel built from it, made from a copy of the repository."""
    folder = tmp_path_factory.mktemp("build")
    ours = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    shutil.copytree(ROOT, folder / "source", ignore=ours)
    out = folder / "dist"
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, folder / "source")
    return out


def test_sdist_holds_the_sources(dist, sources):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sources | {"pyproject.toml", "LICENSE", "README.md"} <= names


def test_wheel_holds_the_package_and_nothing_else(dist, sources):
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {re.sub(r"^kernels/", "backprop_gpu/kernels/", name) for name in sources}


def test_wheel_works_away_from_the_repository(dist, tmp_path):
    (wheel,) = dist.glob("*.whl")
    here = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index"]
    run(*pip, "--no-deps", "--target", here, wheel)

    # -S leaves out the hooks of an editable install, which would find the repository's modules.
    libraries = Path(np.__file__).parents[1]
    path = os.pathsep.join(map(str, [here, libraries]))
    env = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    used = run(sys.executable, "-S", "-c", FIRST_STEP, cwd=tmp_path, env=env).splitlines()
    assert all(Path(name).is_relative_to(here) for name in used)


CONSTRAINTS = ("constraints.txt", "constraints-peers.txt")


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_are_plain_pins(name):
    pins = (ROOT / name).read_text().splitlines()
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.+]+( ; .+)?", pin)] == []
    assert [pin for pin in pins if "://" in pin or "@" in pin] == []


def test_constraints_pin_every_dependency():
    lines = [line for name in CONSTRAINTS for line in (ROOT / name).read_text().splitlines()]
    pins = {canonicalize_name(pin.name): pin.specifier for pin in map(Requirement, lines)}
    extras = [need for needs in PROJECT["optional-dependencies"].values() for need in needs]
    for need in map(Requirement, PROJECT["dependencies"] + extras):
        if need.name not in (PROJECT["name"], "cuda-toolkit"):  # one version for each CUDA
            (pin,) = pins[canonicalize_name(need.name)]
            assert need.specifier.contains(pin.version), f"{need} is pinned at {pin}"


def test_a_checkout_can_be_imported_as_it_lies_there(tmp_path):
    """Where somebody stands in it, it comes before what is installed."""
    if not (ROOT / "backprop_gpu/kernels").is_symlink():
        pytest.skip("git made no link here")
    places = [str(ROOT), str(Path(np.__file__).parents[1])]
    command = "import backprop_gpu; print(backprop_gpu.kernels.__file__)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    out = run(sys.executable, "-S", "-c", command, env=env, cwd=tmp_path)
    assert out.strip() == str(ROOT / "backprop_gpu/kernels/__init__.py")

"""Folders with data of every kind."""

import shutil

import numpy as np
import pytest
from command_line import SPECIES, write_both


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


@pytest.fixture
def here(data, tmp_path, monkeypatch):
    """A folder with the data, to work in."""
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_gpu(monkeypatch):
    """Let "auto" take the CPU wherever the test runs: its numbers are compared to the bit."""
    path = "backprop_gpu.backends.cupy_device.unusable"
    monkeypatch.setattr(path, lambda index=0: "there is none in this test")

"""What the documentation shows works."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import backprop_gpu

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# A block that needs a GPU says so: ```python gpu
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+\.\w+)\)")
MODULES = [
    f"backprop_gpu.{module.name}"
    for module in pkgutil.iter_modules(backprop_gpu.__path__)
    if not module.name.startswith("__")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_on_pages_run(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name, monkeypatch):
    from backprop_gpu import activations, losses

    # What an example registers is gone when it is over.
    monkeypatch.setattr(activations, "ACTIVATIONS", dict(activations.ACTIVATIONS))
    monkeypatch.setattr(losses, "LOSSES", dict(losses.LOSSES))
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed


def test_files_that_the_readme_names_exist():
    section = (ROOT / "README.md").read_text().split("## What is where")[1].split("## Measure")[0]
    for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        names = re.findall(r"`([^`]+)`", row)
        folder = Path(names[0]).parent
        for name in names:
            assert (ROOT / name).exists() or (ROOT / folder / name).exists(), name


def test_every_public_name_is_documented():
    for name in backprop_gpu.__all__:
        assert getattr(backprop_gpu, name).__doc__, name

"""What the documentation shows works."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import backprop_gpu

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# An example, and what it prints if the page shows it. One that needs a GPU says so: ```python gpu
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n?```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[[^\]]+\]\(pictures/([^)]+)\)")
NUMBER = re.compile(rb"-?\d+\.\d+")
LINK = re.compile(r"\]\(([^)#:]*\.\w+)?(#[^)]+)?\)")  # to a file, a heading of it, or of the page
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
MODULES = [
    module.name
    for module in pkgutil.walk_packages(backprop_gpu.__path__, "backprop_gpu.")
    if not module.name.endswith("__")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_on_pages_run_and_print_what_is_shown(page, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    with np.printoptions():  # those that a page sets are gone when it is over
        for example in EXAMPLE.finditer(page.read_text()):
            code, shown = example.groups()
            exec(compile(code, str(page), "exec"), namespace)
            printed = capsys.readouterr().out
            if shown is not None:
                assert stripped(printed) == stripped(shown), code


def stripped(text):
    return [line.rstrip() for line in text.splitlines()]


def test_pictures_are_those_that_the_script_draws(tmp_path):
    subprocess.run([sys.executable, ROOT / "docs" / "make_pictures.py", tmp_path], check=True)
    named = {name for page in PAGES for name in PICTURE.findall(page.read_text())}
    drawn = {picture.name: picture.read_bytes() for picture in tmp_path.iterdir()}
    assert named == set(drawn) == {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    for content in drawn.values():
        assert ET.fromstring(content).tag.endswith("}svg")
        assert len(content) < 60_000
        assert content.count(b"://") == 1  # SVG's own name

    pinned = (ROOT / "constraints.txt").read_text()
    if f"\nmatplotlib=={version('matplotlib')}\n" not in pinned:
        pytest.skip("matplotlib is not the version in constraints.txt, and may draw otherwise")
    for name, content in drawn.items():
        committed = (ROOT / "docs" / "pictures" / name).read_bytes()
        out_of_date = f"{name} is out of date: make docs"
        assert NUMBER.split(committed) == NUMBER.split(content), out_of_date
        # Another processor's products differ in their last bit, which can show in a sixth decimal.
        numbers = [np.array(NUMBER.findall(text), float) for text in (committed, content)]
        np.testing.assert_allclose(*numbers, rtol=0, atol=2e-6, err_msg=out_of_date)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for file, heading in LINK.findall(CODE.sub("", page.read_text())):
        target = page.parent / file if file else page
        assert target.exists(), file
        if heading:
            assert heading[1:] in anchors(target), f"{file}{heading}"


def anchors(page):
    """What a browser calls the headings of a page."""
    headings = HEADING.findall(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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

"""How runs are interrupted."""

import os

import pytest
from cases import Killed
from small_runs import network, train

from backprop_gpu.files import write_atomically


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Don't wait for the disk: what is killed here is a process, and not the machine."""
    pytest.importorskip("safetensors")
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def interrupt(monkeypatch, tmp_path):
    """Train until so many checkpoints are written, and no further; say if it came so far."""

    def until(written, device="cpu", **options):
        calls = []

        def write(path, content):
            write_atomically(path, content)
            calls.append(path)
            if len(calls) == written:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr("backprop_gpu.saving.write_atomically", write)
            try:
                train(network(device), tmp_path, **options)
            except Killed:
                return True
        return False

    return until

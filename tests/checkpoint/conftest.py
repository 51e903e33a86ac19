"""A place for a file."""

import pytest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"

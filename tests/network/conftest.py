"""A network with z of either sign in every layer."""

import pytest
from small_network import make


@pytest.fixture
def net(backend, dtype):
    """5-3-5-4 nodes, with z of either sign in every layer."""
    return make(backend, dtype)

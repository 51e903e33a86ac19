"""A network that nothing changes."""

import pytest
from refusals import network


@pytest.fixture
def net():
    """A network that has to be as it was when the test is over."""
    net = network()
    before = net.parameters.tobytes()
    yield net
    assert net.parameters.tobytes() == before

"""Skips where there is no compiler."""

import pytest
from host.launcher import unavailable_reason


@pytest.fixture(autouse=True)
def _compiler(request):
    if "nvrtc" in request.fixturenames:
        return
    if reason := unavailable_reason():
        pytest.skip(reason)

"""The network of the textbook."""

import pytest

import backprop_gpu as bp


@pytest.fixture
def textbook():
    return bp.textbook(device="cpu")

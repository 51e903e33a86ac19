"""A network and good data, and what a refusal has to be."""

from contextlib import contextmanager

import numpy as np
import pytest

import backprop_gpu as bp

N = 7


def network(g=("tanh", "sigmoid"), dtype="float32"):
    return bp.MLP([3, 4, 2], list(g), device="cpu", dtype=dtype, seed=1)


def data(n=N):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(n, 3)), rng.uniform(size=(n, 2))


X, Y = data()


@contextmanager
def refused(kind, *says):
    """The exception, and all that its message has to say."""
    with pytest.raises(kind) as caught:
        yield caught
    assert isinstance(caught.value, ValueError | TypeError)
    for text in says:
        assert text in str(caught.value)


def with_entry(array, value, index=(4, 1)):
    array = array.copy()
    array[index] = value
    return array


def make(**options):
    return bp.MLP(**{"layer_sizes": [3, 4, 2], "device": "cpu"} | options)

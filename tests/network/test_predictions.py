"""Predictions: the same from many threads at once, whatever was predicted before."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import backprop_gpu as bp


def network(backend="cpu", dtype="float32"):
    return bp.MLP([7, 33, 5], ["gelu", "softmax"], device=backend, dtype=dtype, seed=3)


def samples(n, dtype="float32"):
    return np.random.default_rng(n).normal(size=(n, 7)).astype(dtype)


@pytest.mark.parametrize("n", [1, 2, 31, 33, 257, 10_000])
def test_a_prediction_is_the_output_of_the_forward_pass(n, backend, dtype):
    net, x = network(backend, dtype), samples(n, dtype)
    forward = backend.to_numpy(net.forward(x).output)
    for _ in range(3):  # recorded, and repeated
        np.testing.assert_array_equal(net(x), forward)


def test_a_prediction_is_nobody_elses(backend):
    net = network(backend)
    first = net(samples(3))
    before = first.copy()
    net(2 * samples(3))
    np.testing.assert_array_equal(first, before)
    first[...] = 0
    np.testing.assert_array_equal(net(samples(3)), before)


def test_new_parameters_count_at_once(backend):
    net, x = network(backend), samples(4)
    net(x)
    net.biases[1][...] = 5 * backend.xp.arange(5)
    np.testing.assert_array_equal(net(x), backend.to_numpy(net.forward(x).output))


def test_from_many_threads_at_once():
    net = network()
    inputs = [samples(n) for n in (1, 2, 3, 5, 8, 13)] * 20
    expected = [net.forward(x).output for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for found, right in zip(pool.map(net, inputs), expected, strict=True):
            np.testing.assert_array_equal(found, right)

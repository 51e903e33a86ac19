"""Shuffling: SplitMix64 in plain Python, and what an order of samples has to be."""

from collections import Counter

import numpy as np
import pytest

from backprop_gpu.shuffle import as_keys, shuffled

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(key):
    key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & MASK
    return key ^ (key >> 31)


def order_in_plain_python(n, epoch, seed):
    start = mix(mix(seed) ^ GOLDEN ^ epoch) ^ GOLDEN
    return sorted(range(n), key=lambda i: mix((i * GOLDEN + start) & MASK))


@pytest.mark.parametrize("n", [1, 2, 3, 31, 1000])
@pytest.mark.parametrize(("epoch", "seed"), [(0, 0), (0, 1), (1, 0), (12345, 2**64 - 1)])
def test_is_splitmix64(n, epoch, seed):
    assert shuffled(n, epoch, seed).tolist() == order_in_plain_python(n, epoch, seed)


@pytest.mark.parametrize("n", [1, 2, 7, 100_003])
def test_is_a_permutation(n):
    assert (np.sort(shuffled(n, 3, 4)) == np.arange(n)).all()


def test_differs_from_epoch_to_epoch_and_from_seed_to_seed():
    orders = [tuple(shuffled(20, epoch, seed)) for epoch in range(50) for seed in range(50)]
    assert len(set(orders)) == len(orders)


def test_every_sample_comes_everywhere_equally_often():
    n, epochs = 5, 10_000
    orders = np.array([shuffled(n, epoch, 0) for epoch in range(epochs)])
    for position in range(n):
        counts = np.bincount(orders[:, position], minlength=n)
        chi_squared = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
        assert chi_squared < 18.5  # 4 degrees of freedom: 0.1 % of fair shuffles are above
    pairs = Counter(zip(orders[:-1, 0].tolist(), orders[1:, 0].tolist(), strict=True))
    chi_squared = sum((pairs[i, j] - epochs / 25) ** 2 for i in range(n) for j in range(n))
    assert chi_squared / (epochs / 25) < 51.2  # 24 degrees of freedom


def test_has_no_state_and_touches_nobody_elses():
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    first = shuffled(100, 5, 6)
    shuffled(100, 6, 7)
    assert (shuffled(100, 5, 6) == first).all()
    assert np.random.get_state()[1].tobytes() == before  # noqa: NPY002


def test_seeds_may_be_numpys():
    assert as_keys(np.arange(3)).tolist() == as_keys(range(3)).tolist()

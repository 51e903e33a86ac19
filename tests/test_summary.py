"""A network as a table: every number in it is the network's own."""

import re
import tracemalloc

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.summary import summarize
from backprop_gpu.text_table import Text, aligned, as_bytes


def cells(line):
    """Return what stands in a line of a table."""
    return re.split(r" {2,}", line.strip())


def rows(text, start):
    """Return the first row that begins so, without its first cell."""
    return next(cells(line)[1:] for line in text.splitlines() if line.startswith(start))


def test_every_layer_is_a_row_and_the_last_row_is_all_of_them():
    net, *_ = bp.textbook(device="cpu")
    assert [cells(line) for line in summarize(net).split("\n\n")[0].splitlines()] == [
        ["layer", "nodes x inputs", "activation", "parameters", "memory"],
        ["-----", "--------------", "---------------", "----------", "------"],
        ["1", "3 x 5", "leaky_relu(0.1)", "18", "144 B"],
        ["2", "5 x 3", "sigmoid", "20", "160 B"],
        ["3", "4 x 5", "sigmoid", "24", "192 B"],
        ["all", "62", "496 B"],
    ]


def test_it_says_where_the_network_lives_in_what_dtype_and_why(backend):
    net = bp.MLP([2, 1], device=backend, dtype="float32")
    assert f"float32 on {backend.device}: {net.device_reason}" in summarize(net)


def test_without_a_batch_size_nothing_is_said_of_training():
    assert "training" not in summarize(bp.MLP([2, 1], device="cpu"))


def test_memory_goes_with_the_dtype():
    for dtype, memory in (("float32", "404 kB"), ("float64", "808 kB")):
        net = bp.MLP([100, 1000], device="cpu", dtype=dtype)
        assert rows(summarize(net), "all") == ["101,000", memory]


@pytest.mark.parametrize(
    ("sizes", "activations", "loss"),
    [
        ([300, 200, 250, 100], ["relu", "tanh", "sigmoid"], "binary_cross_entropy"),
        ([40, 500, 500, 10], ["gelu", "silu", "softmax"], "categorical_cross_entropy"),
        ([400, 300], ["identity"], "mse"),
    ],
)
def test_training_holds_what_is_said(sizes, activations, loss):
    """But for the elementwise work in pieces, which needs less than 4 MB of scratch arrays."""
    net = bp.MLP(sizes, activations, device="cpu")
    n = 8000
    text = summarize(net, batch_size=n)
    assert f"training, in batches of {n:,}" in text
    numbers = int(rows(text.split("training")[1], "all")[0].replace(",", ""))
    x = np.zeros((n + 1, sizes[0]), "float32")
    y = np.eye(sizes[-1], dtype="float32")[np.arange(n + 1) % sizes[-1]]
    tracemalloc.start()
    bp.train(net, x, y, loss=loss, optimizer=bp.Adam(), batch_size=n, shuffle=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 <= peak - 4 * numbers < 4e6, (peak, 4 * numbers)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "many"])
def test_a_batch_size_is_a_whole_number(batch_size):
    with pytest.raises(bp.DomainError, match="batch_size is"):
        summarize(bp.MLP([2, 1], device="cpu"), batch_size)


def test_prompt_and_notebook_show_the_lines():
    text = summarize(bp.MLP([2, 1], device="cpu"))
    assert isinstance(text, str)
    assert repr(text) == str(text) == text
    assert "\n" in repr(text)


def test_numbers_are_below_each_other_on_the_right_and_words_on_the_left():
    table = aligned([("a", "1", "12.0 kB"), ("bcd", "1,000", "9 B")], ["name", "count", "size"])
    assert table.splitlines() == [
        "name  count     size",
        "----  -----  -------",
        "a         1  12.0 kB",
        "bcd   1,000      9 B",
    ]
    assert isinstance(Text(table), str)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (14_250_000, "14.2 MB"),
        (3 * 10**15, "3,000 TB"),
    ],
)
def test_bytes_have_three_digits(count, text):
    assert as_bytes(count) == text

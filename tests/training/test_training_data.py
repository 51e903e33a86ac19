"""Training: data of every kind are converted, and never written to."""

import numpy as np
import pytest
from small_run import data, numbers

import backprop_gpu as bp
from backprop_gpu.arrays import numeric
from backprop_gpu.optimizers import numbers_of


class WithArray:
    """What a pandas DataFrame offers."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


class WithDLPack:
    """What any tensor on the CPU offers."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


CONVERSIONS = {
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a.tolist())),
    "list of arrays": list,
    "bool": lambda a: a.astype(bool),
    **{kind: lambda a, kind=kind: a.astype(kind) for kind in ("int8", "uint8", "int64", "uint64")},
    **{kind: lambda a, kind=kind: a.astype(kind) for kind in ("float16", "float32", "float64")},
    "longdouble": lambda a: a.astype(np.longdouble),
    "big-endian": lambda a: a.astype(">f4"),
    "Fortran order": lambda a: np.asfortranarray(a, dtype="float32"),
    "every other row": lambda a: np.repeat(a.astype("float32"), 2, axis=0)[::2],
    "every other column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "read-only": read_only,
    "read-only, in place": lambda a: read_only(a.astype("float32")),
    "masked, nothing masked": lambda a: np.ma.masked_array(a, mask=np.zeros(a.shape, bool)),
    "memoryview": lambda a: memoryview(np.ascontiguousarray(a)),
    "__array__": WithArray,
    "DLPack": WithDLPack,
}


@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_data_of_every_kind_are_converted(backend, conversion, batch_size):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 2, (5, 3)), rng.integers(0, 2, (5, 2))
    if conversion == "broadcast":
        x[:], y[:] = x[0], y[0]
    results = []
    for convert in (lambda a: a.astype("float32"), CONVERSIONS[conversion]):
        net = bp.MLP([3, 4, 2], device=backend, dtype="float32")
        history = bp.train(
            net,
            convert(x),
            convert(y),
            epochs=3,
            batch_size=batch_size,
            validation=(convert(x), convert(y)),
        )
        results.append((history.loss, history.validation_loss, numbers(net).tobytes()))
        output = net(convert(x))
        assert isinstance(output, np.ndarray)
        assert output.dtype == "float32"
    assert results[0] == results[1]


@pytest.mark.parametrize("batch_size", [None, 3])
def test_data_are_never_written_to(net, batch_size):
    x, y = (array.astype(net.dtype) for array in data())
    before = x.tobytes(), y.tobytes()
    bp.train(
        net,
        x,
        y,
        epochs=3,
        batch_size=batch_size,
        validation=(x, y),
        clip_norm=0.1,
        optimizer=bp.Adam(weight_decay=0.1),
    )
    assert (x.tobytes(), y.tobytes()) == before


def test_data_in_place_are_not_copied(dtype):
    net = bp.MLP([3, 4, 2], device="cpu", dtype=dtype)
    x, y = (array.astype(dtype) for array in data())
    seen = []

    def value(xp, a, y):
        seen.append(y)
        return a.sum(axis=1)

    recorded = bp.Loss("recorded", value, lambda xp, a, y: 0 * a)
    bp.train(net, x, y, loss=recorded, epochs=2)  # the first call shows if it writes, on copies
    assert np.shares_memory(seen[-1], y)
    assert np.shares_memory(net.forward(x).a[0], x)
    assert np.shares_memory(numeric(x, "x"), x)


def test_chunks_of_a_short_stream_do_not_grow_beyond_its_end(monkeypatch):
    """Its length is not known before: what is prepared for steps that never come takes time."""
    asked = []

    def noted(optimizer, steps, epochs):
        asked.append(len(steps))
        return numbers_of(optimizer, steps, epochs)

    monkeypatch.setattr("backprop_gpu.training.run.numbers_of", noted)
    pairs = [(np.ones((4, 3)), np.ones((4, 2)))] * 3
    bp.train(bp.MLP([3, 2], device="cpu"), pairs, epochs=40)
    assert max(asked) <= 128  # a chunk of one step may be followed by one of 64

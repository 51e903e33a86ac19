"""Training: against loops written by hand, and what is left when it goes wrong."""

import math
import sys

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.arrays import numeric
from backprop_gpu.backends import NumpyBackend, choose_backend
from backprop_gpu.shuffle import shuffled

BATCH_SIZES = [None, 1, 2, 3, 6, 7, 100]  # of 7 samples: a remainder of 1 for 2, 3 and 6


class ReadsLate(NumpyBackend):
    """Losses are read when a chunk of epochs is over, as on a GPU."""

    device = "late"


@pytest.fixture(params=["numpy", "late", pytest.param("gpu", marks=pytest.mark.gpu)])
def backend(request):
    if request.param == "numpy":
        return NumpyBackend()
    if request.param == "late":
        return ReadsLate()
    try:
        return choose_backend("cuda")[0]
    except bp.DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture
def net(backend, dtype):
    return bp.MLP([3, 5, 4, 2], ["tanh", "sigmoid", "identity"], device=backend, dtype=dtype)


@pytest.fixture
def double(backend):
    return bp.MLP([3, 5, 2], ["tanh", "identity"], device=backend, dtype="float64")


def data(n=7, seed=0, inputs=3, outputs=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, inputs)), rng.normal(size=(n, outputs))


def numbers(net):
    """A copy of all parameters on the CPU."""
    return net.backend.to_numpy(net.parameters).copy()


def close(net, array):
    rtol = {"float32": 1e-5, "float64": 1e-12}[net.dtype.name]
    np.testing.assert_allclose(numbers(net), array, rtol=rtol, atol=rtol)


# ---- epochs and batches --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize(
    ("g", "loss"),
    [
        ("identity", "mse"),
        ("gelu", "sse"),
        ("sigmoid", "bce"),
        ("softmax", "bce"),
        ("softmax", "cce"),
    ],
)
def test_is_the_loop_that_one_writes_by_hand(backend, dtype, batch_size, seed, g, loss):
    net = bp.MLP([3, 5, 4, 2], ["tanh", "silu", g], device=backend, dtype=dtype)
    hand = net.copy()
    x, _ = data()
    y = np.random.default_rng(1).dirichlet([1, 1], size=7)
    history = bp.train(
        net,
        x,
        y,
        loss=loss,
        optimizer=bp.SGD(0.1),
        epochs=5,
        batch_size=batch_size,
        shuffle=seed is not None,
        seed=seed or 0,
    )
    size, losses = min(batch_size or 7, 7), []
    for epoch in range(5):
        order = np.arange(7) if seed is None or size == 7 else shuffled(7, epoch, seed, np)
        total = 0.0
        for start in range(0, 7, size):
            batch = order[start : start + size]
            grads = hand.backward(hand.forward(x[batch]), y[batch], loss)
            total += grads.loss * len(batch)  # before the update, weighted by the samples
            for W, dC_dW in zip(hand.weights, grads.weights, strict=True):
                W -= 0.1 * dC_dW
            for b, dC_db in zip(hand.biases, grads.biases, strict=True):
                b -= 0.1 * dC_db
        losses.append(total / 7)
    close(net, numbers(hand))
    assert history.loss == pytest.approx(losses, rel=1e-5 if net.dtype == "float32" else 1e-12)
    assert history.learning_rate == [0.1] * 5
    assert (history.stopped_by, history.best_epoch) == ("epochs", None)
    assert history.validation_loss == []


def test_the_first_loss_is_that_of_the_untrained_network(net):
    x, y = data()
    untrained = net.loss(x, y)
    assert bp.train(net, x, y, epochs=3).loss[0] == pytest.approx(untrained, rel=1e-6)
    assert net.loss(x, y) < untrained


@pytest.mark.parametrize("batch_size", [7, 8, 10**9, np.int64(7)])
def test_one_batch_is_one_batch(net, batch_size):
    x, y = data()
    twin = net.copy()
    expected = bp.train(twin, x, y, epochs=4)
    history = bp.train(net, x, y, epochs=4, batch_size=batch_size, seed=3)
    assert history.loss == expected.loss
    np.testing.assert_array_equal(numbers(net), numbers(twin))


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 6, 7, 8])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_epoch_uses_every_sample_once(backend, n, batch_size, shuffle):
    seen = []

    def value(xp, a, y):
        seen.append(y[:, 0].tolist())
        return ((a - y) ** 2).sum(axis=1)

    loss = bp.Loss("recorded", value, lambda xp, a, y: 0 * a)
    net = bp.MLP([1, 1], ["identity"], device=backend)
    samples = np.arange(n, dtype="float32")[:, None]
    net.check_loss(loss)  # calls it once
    seen.clear()
    bp.train(net, samples, samples, loss=loss, epochs=3, batch_size=batch_size, shuffle=shuffle)
    size = min(batch_size or n, n)
    per_epoch = -(-n // size)
    assert len(seen) == 3 * per_epoch
    for epoch in range(3):
        batches = seen[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert [len(batch) for batch in batches[:-1]] == [size] * (per_epoch - 1)
        order = [sample for batch in batches for sample in batch]
        assert sorted(order) == list(range(n))
        if not shuffle or per_epoch == 1:
            assert order == list(range(n))


def test_the_seed_decides_everything(double):
    x, y = data(50)

    def run(**options):
        twin = double.copy()
        history = bp.train(twin, x, y, epochs=4, batch_size=8, **options)
        return history.loss, numbers(twin).tobytes()

    state = np.random.get_state()[1].tobytes()  # noqa: NPY002
    results = [run(seed=seed) for seed in (0, 1, 2)] + [run(shuffle=False)]
    assert len({parameters for _, parameters in results}) == 4
    assert run() == run(seed=0) == run(seed=np.int64(0)) == results[0]
    assert run(shuffle=False, seed=1) == results[3]
    assert np.random.get_state()[1].tobytes() == state  # noqa: NPY002


@pytest.mark.parametrize("watch", ["callback", "validation", "early stopping"])
@pytest.mark.parametrize("epochs", [1, 2, 3, 50])
def test_chunks_of_epochs_leave_no_trace(double, watch, epochs):
    x, y = data()
    watching = {
        "callback": {"callbacks": [lambda epoch: None]},
        "validation": {"validation": data(4, seed=1)},
        "early stopping": {"early_stopping": bp.EarlyStopping(10**6, restore_best=False)},
    }[watch]
    optimizer = bp.SGD(bp.ExponentialDecay(0.1, 0.9), momentum=0.5)
    results = []
    for options in ({}, watching):
        twin = double.copy()
        history = bp.train(twin, x, y, optimizer=optimizer, epochs=epochs, batch_size=3, **options)
        results.append((history.loss, history.learning_rate, numbers(twin).tobytes()))
        assert len(history.loss) == epochs
    assert results[0] == results[1]


def test_no_epochs_change_nothing(net):
    x, y = data()
    before = numbers(net)
    history = bp.train(
        net,
        x,
        y,
        epochs=0,
        validation=(x, y),
        early_stopping=bp.EarlyStopping(),
        callbacks=[lambda epoch: pytest.fail("called")],
    )
    assert (history.loss, history.validation_loss, history.learning_rate) == ([], [], [])
    assert (history.stopped_by, history.best_epoch) == ("epochs", None)
    assert numbers(net).tobytes() == before.tobytes()


def test_parameters_stay_views_of_one_array(net):
    x, y = data()
    parameters, layers = net.parameters, net.layers
    bp.train(net, x, y, epochs=2)
    assert net.parameters is parameters
    assert net.layers is layers
    flat = [net.backend.to_numpy(array).ravel() for array in (*net.weights, *net.biases)]
    np.testing.assert_array_equal(np.concatenate(flat), numbers(net))


# ---- learning rates ------------------------------------------------------------------------------


@pytest.mark.parametrize("callbacks", [[], [lambda epoch: None]])
def test_a_schedule_is_asked_before_every_update(double, callbacks):
    asked = []

    def schedule(epochs):
        asked.append(epochs)
        return 0.1 / (1 + epochs)

    x, y = data()
    history = bp.train(
        double, x, y, optimizer=bp.SGD(schedule), epochs=4, batch_size=3, callbacks=callbacks
    )
    assert asked == pytest.approx([k / 3 for k in range(12)], rel=1e-15)
    assert all(isinstance(epochs, float) for epochs in asked)
    assert history.learning_rate == pytest.approx([0.1 / (1 + k) for k in range(4)], rel=1e-15)


def test_a_schedule_decides_the_updates(double):
    x, y = data()
    twin = double.copy()
    bp.train(double, x, y, optimizer=bp.SGD(bp.StepDecay(0.2, every=3)), epochs=6)
    bp.train(twin, x, y, optimizer=bp.SGD(0.2), epochs=3)
    bp.train(twin, x, y, optimizer=bp.SGD(0.1), epochs=3)
    np.testing.assert_array_equal(numbers(double), numbers(twin))


@pytest.mark.parametrize("rate", [math.nan, math.inf, -0.1, None, "0.1", [0.1]], ids=repr)
def test_a_schedule_that_gives_no_rate(double, rate):
    before = numbers(double)
    with pytest.raises(
        (ValueError, TypeError), match=r"the schedule .* gave the learning rate"
    ) as e:
        bp.train(double, *data(), optimizer=bp.SGD(lambda epochs: rate))
    assert repr(rate) in str(e.value)
    assert numbers(double).tobytes() == before.tobytes()


# ---- clipping ------------------------------------------------------------------------------------


def clipped_step(net, **options):
    """What a step of size 1 takes from the parameters, and the gradient before clipping."""
    x, y = data()
    gradient = net.backend.to_numpy(net.backward(net.forward(x), y, "sse").flat)
    before = numbers(net)
    bp.train(net, x, y, loss="sse", optimizer=bp.SGD(1.0), **options)
    return before - numbers(net), gradient


@pytest.mark.parametrize("limit", [1e-3, 0.1, 1e9])
def test_clip_norm(double, limit):
    step, gradient = clipped_step(double, clip_norm=limit)
    norm = np.linalg.norm(gradient)
    expected = gradient * min(1, limit / norm)
    np.testing.assert_allclose(step, expected, rtol=1e-9, atol=1e-15)
    assert np.linalg.norm(step) == pytest.approx(min(limit, norm), rel=1e-9)


@pytest.mark.parametrize("limit", [1e-3, 0.1, 1e9, np.float64(0.2), 1])
def test_clip_value(double, limit):
    step, gradient = clipped_step(double, clip_value=limit)
    np.testing.assert_allclose(step, np.clip(gradient, -limit, limit), rtol=1e-9, atol=1e-15)


def test_values_are_clipped_before_the_norm(double):
    step, gradient = clipped_step(double, clip_value=0.5, clip_norm=0.25)
    clipped = np.clip(gradient, -0.5, 0.5)
    expected = clipped * min(1, 0.25 / np.linalg.norm(clipped))
    np.testing.assert_allclose(step, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("error", "limit"), [(1e-25, 1e-30), (1e19, 1.0)])
def test_clip_norm_where_squares_leave_the_range_of_float32(backend, error, limit):
    net = bp.MLP([2, 1], ["identity"], device=backend, dtype="float32")
    net.set_parameters([[[0.0, 0.0]]], [[0.0]])
    bp.train(net, [[3, 4]], [[-error / 2]], loss="sse", optimizer=bp.SGD(1.0), clip_norm=limit)
    gradient = np.array([3, 4, 1]) / math.sqrt(26)
    np.testing.assert_allclose(numbers(net) / limit, -gradient, rtol=1e-5)


@pytest.mark.parametrize("clip", ["clip_norm", "clip_value"])
def test_a_gradient_of_zero_is_clipped_to_zero(net, clip):
    x, _ = data()
    before = numbers(net)
    bp.train(net, x, net.backend.to_numpy(net.forward(x).output), epochs=3, **{clip: 1.0})
    close(net, before)


# ---- validation, callbacks, progress -------------------------------------------------------------


def test_validation_loss_is_taken_after_every_epoch_and_changes_nothing(net):
    x, y = data()
    held_out = data(4, seed=1)
    twin, losses = net.copy(), []
    for _ in range(5):
        bp.train(twin, x, y, optimizer=bp.SGD(0.1))
        losses.append(twin.loss(*held_out))
    history = bp.train(net, x, y, optimizer=bp.SGD(0.1), epochs=5, validation=held_out)
    assert history.validation_loss == losses
    np.testing.assert_array_equal(numbers(net), numbers(twin))


@pytest.mark.parametrize("validated", [False, True])
def test_a_callback_is_told_what_happened(net, validated):
    x, y = data()
    validation = data(4, seed=1) if validated else None
    told, losses_now = [], []

    def callback(epoch):
        told.append(epoch)
        losses_now.append(epoch.net.loss(x, y))

    history = bp.train(
        net,
        x,
        y,
        optimizer=bp.SGD(bp.StepDecay(0.1, 1)),
        epochs=4,
        validation=validation,
        callbacks=[callback],
    )
    assert [epoch.number for epoch in told] == [0, 1, 2, 3]
    assert [epoch.loss for epoch in told] == history.loss
    assert [epoch.learning_rate for epoch in told] == history.learning_rate
    assert [epoch.validation_loss for epoch in told] == (history.validation_loss or [None] * 4)
    assert all(epoch.net is net for epoch in told)
    assert losses_now[:-1] == pytest.approx(history.loss[1:], rel=1e-6)


def test_a_callback_stops_the_training_and_the_others_still_hear_of_it(net):
    told = []
    callbacks = [lambda e: e.number == 2, lambda e: told.append(e.number)]
    history = bp.train(net, *data(), epochs=10, callbacks=callbacks)
    assert told == [0, 1, 2]
    assert len(history.loss) == 3
    assert history.stopped_by == "callback"


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_exception_of_a_callback_gets_out_and_the_network_stays_usable(double, kind):
    x, y = data()
    twin = double.copy()
    bp.train(twin, x, y, optimizer=bp.SGD(0.1), epochs=3)

    def callback(epoch):
        if epoch.number == 2:
            raise kind("out")

    with pytest.raises(kind, match="out"):
        bp.train(double, x, y, optimizer=bp.SGD(0.1), epochs=10, callbacks=[callback])
    np.testing.assert_array_equal(numbers(double), numbers(twin))
    assert bp.train(double, x, y).loss[0] == twin.loss(x, y)


@pytest.mark.parametrize("watched", [False, True])
def test_progress_bar(net, capsys, monkeypatch, watched):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    callbacks = [lambda epoch: None] if watched else []
    bp.train(net, *data(), epochs=7, progress=True, callbacks=callbacks)
    out, err = capsys.readouterr()
    assert out == ""
    assert "7/7" in err
    assert "epoch" in err
    assert "loss " in err
    bp.train(net, *data(), epochs=7, callbacks=callbacks)
    assert capsys.readouterr() == ("", "")


def test_progress_bar_without_tqdm(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    before = numbers(net)
    with pytest.raises(bp.MissingExtraError, match=r'pip install "backprop-gpu\[progress\]"'):
        bp.train(net, *data(), progress=True)
    assert numbers(net).tobytes() == before.tobytes()


# ---- the data ------------------------------------------------------------------------------------


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

    bp.train(net, x, y, loss=bp.Loss("recorded", value, lambda xp, a, y: 0 * a))
    assert np.shares_memory(seen[-1], y)
    assert np.shares_memory(net.forward(x).a[0], x)
    assert np.shares_memory(numeric(x, "x"), x)


# ---- divergence ----------------------------------------------------------------------------------


def explode_at(epochs, rate=0.01):
    """A schedule whose rate is out of all reason from a point on."""
    return bp.SGD(lambda passed: rate if passed < epochs else 1e308)


def assert_usable(net, x, y):
    assert np.isfinite(numbers(net)).all()
    assert math.isfinite(net.loss(x, y))


@pytest.mark.parametrize("rate", [10.0, 1e3, 1e10, 1e30])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_a_learning_rate_far_too_high(backend, dtype, rate, batch_size):
    net = bp.MLP([3, 5, 2], ["relu", "identity"], device=backend, dtype=dtype)
    x, y = data()
    with pytest.raises(bp.TrainingDiverged, match="lower learning rate") as caught:
        bp.train(net, x, y, optimizer=bp.SGD(rate), epochs=500, batch_size=batch_size)
    error = caught.value
    assert isinstance(error, ValueError)
    assert f"epoch {error.epoch}" in str(error)
    assert len(error.history.loss) == len(error.history.learning_rate) == error.epoch
    assert all(map(math.isfinite, error.history.loss))
    if batch_size is None:
        assert net.loss(x, y) == pytest.approx(error.history.loss[-1], rel=1e-6) or (
            net.device != "cpu" and net.loss(x, y) in error.history.loss
        )
    assert_usable(net, x, y)


@pytest.mark.parametrize("batch", [0, 5, 20, 25, 29])
@pytest.mark.parametrize("watched", [False, True])
def test_after_an_update_in_the_middle_of_an_epoch(double, batch, watched):
    x, y = data(10)
    twin = double.copy()
    options = {"batch_size": 1, "callbacks": [lambda epoch: None] if watched else []}
    with pytest.raises(bp.TrainingDiverged) as caught:
        bp.train(double, x, y, optimizer=explode_at(batch / 10), epochs=9, **options)
    noticed = (batch + 1) // 10
    assert caught.value.epoch == noticed
    good = bp.train(twin, x, y, optimizer=bp.SGD(0.01), epochs=batch // 10, **options)
    assert caught.value.history.loss[: batch // 10] == good.loss
    assert len(caught.value.history.loss) == noticed
    if watched or double.device == "cpu":
        np.testing.assert_array_equal(numbers(double), numbers(twin))
    assert_usable(double, x, y)


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("epochs", [1, 3])
def test_in_the_very_last_update(double, batch_size, epochs):
    x, y = data()
    last_update = epochs - (1 if batch_size is None else 1 / 7)
    optimizer = bp.SGD(lambda passed: 0.01 if passed < last_update - 1e-9 else 1e308)
    twin = double.copy()
    with pytest.raises(bp.TrainingDiverged) as caught:
        bp.train(double, x, 100 * y, optimizer=optimizer, epochs=epochs, batch_size=batch_size)
    assert caught.value.epoch == epochs - 1
    assert all(map(math.isfinite, caught.value.history.loss))
    before = bp.train(
        twin, x, 100 * y, optimizer=bp.SGD(0.01), epochs=epochs - 1, batch_size=batch_size
    )
    assert caught.value.history.loss[: epochs - 1] == before.loss
    if double.device == "cpu":
        np.testing.assert_array_equal(numbers(double), numbers(twin))
    assert_usable(double, x, y)


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("calls", [1, 4])
def test_the_layer_where_it_arose_is_named(layer, value, calls):
    remaining = [calls]

    def function(xp, z):
        remaining[0] -= 1
        return z.copy() if remaining[0] > 0 else z * 0 + value

    broken = bp.Activation("broken", function, lambda xp, a: xp.ones_like(a), "a")
    g = ["tanh", "tanh", "identity"]
    g[layer - 1] = broken
    net = bp.MLP([3, 4, 5, 2], g, device="cpu", dtype="float64")
    before = numbers(net)
    with pytest.raises(bp.TrainingDiverged, match=f"layer {layer}") as caught:
        bp.train(net, *data(), epochs=9, batch_size=4)
    assert caught.value.layer == layer
    assert caught.value.epoch == (calls - 1) // 2
    if calls == 1:
        assert numbers(net).tobytes() == before.tobytes()


def test_the_loss_alone_overflows(backend):
    net = bp.MLP([3, 4, 2], ["tanh", "identity"], device=backend, dtype="float32")
    before = numbers(net)
    x, y = data()
    with pytest.raises(bp.TrainingDiverged, match="in the loss") as caught:
        bp.train(net, x, 1e25 * y, epochs=3)
    assert (caught.value.epoch, caught.value.layer, caught.value.history.loss) == (0, None, [])
    assert numbers(net).tobytes() == before.tobytes()


def test_infinite_weights_behind_a_finite_loss(backend):
    """The sigmoid of an infinity is 0 or 1: such parameters are not good ones."""
    net = bp.MLP([1, 1], ["sigmoid"], device=backend, dtype="float32")
    net.set_parameters([[[0.01]]], [[0.0]])
    with pytest.raises(bp.TrainingDiverged):
        bp.train(net, [[100.0]], [[0.0]], optimizer=bp.SGD(1e38), epochs=3)
    assert np.isfinite(numbers(net)).all()


def test_training_goes_on_after_a_divergence(double):
    x, y = data()
    untrained = double.loss(x, y)
    with pytest.raises(bp.TrainingDiverged):
        bp.train(double, x, y, optimizer=explode_at(3.0), epochs=50)
    history = bp.train(double, x, y, optimizer=bp.SGD(0.01), epochs=50)
    assert history.loss[-1] < untrained

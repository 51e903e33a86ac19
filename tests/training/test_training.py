"""Training: epochs, batches and learning rates, against loops written by hand."""

import math

import numpy as np
import pytest
from small_run import close, data, numbers

import backprop_gpu as bp
from backprop_gpu.checks import check_loss
from backprop_gpu.shuffle import shuffled

BATCH_SIZES = [None, 1, 2, 3, 6, 7, 100]  # of 7 samples: a remainder of 1 for 2, 3 and 6


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
        order = np.arange(7) if seed is None or size == 7 else shuffled(7, epoch, seed)
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
    check_loss(net, loss)  # calls it once
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


class OfLength:
    """Batches that say how many they are, rightly or not."""

    def __init__(self, pairs, length):
        self.pairs, self.length = pairs, length

    def __iter__(self):
        return iter(self.pairs)

    def __len__(self):
        return self.length


@pytest.fixture
def cut():
    """The data of `data`, in batches of 3: three of them."""
    x, y = data()
    return [(x[i : i + 3], y[i : i + 3]) for i in range(0, len(x), 3)]


def test_batches_with_a_length_are_trained_as_arrays_are(double, cut):
    twin, adam = double.copy(), bp.Adam(bp.WarmUp(bp.CosineDecay(0.05, 3), 1))
    options = {"optimizer": adam, "epochs": 4}
    given = bp.train(double, cut, **options)
    arrays = bp.train(twin, *data(), batch_size=3, shuffle=False, path="steps", **options)
    assert numbers(double).tobytes() == numbers(twin).tobytes()
    assert (given.loss, given.learning_rate) == (arrays.loss, arrays.learning_rate)


def test_seven_batches_and_more_have_the_bits_of_arrays_too():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 21, 2))
    for size in (1, 3):
        one, other = (
            bp.MLP([2, 3, 2], ["tanh", "identity"], device="cpu", dtype="float64") for _ in "12"
        )
        options = {"optimizer": bp.SGD(bp.CosineDecay(0.1, 5)), "epochs": 5}
        bp.train(one, [(x[i : i + size], y[i : i + size]) for i in range(0, 21, size)], **options)
        bp.train(other, x, y, batch_size=size, shuffle=False, path="steps", **options)
        assert one.parameters.tobytes() == other.parameters.tobytes()


@pytest.mark.parametrize(
    ("length", "expected"),
    [(3, [0, 1 / 3, 2 / 3]), (2, [0, 1 / 2, 1 / 2]), (6, [0, 1 / 6, 2 / 6])],
)
def test_a_length_says_how_far_within_an_epoch_a_batch_is(double, cut, length, expected):
    twin = double.copy()
    bp.train(double, OfLength(cut, length), optimizer=bp.SGD(lambda e: 0.1 * (1 + e)), epochs=2)
    for epoch in range(2):
        for (x, y), passed in zip(cut, expected, strict=True):
            bp.train(twin, x, y, optimizer=bp.SGD(0.1 * (1 + epoch + passed)))
    close(double, numbers(twin))


@pytest.mark.parametrize(("length", "parts"), [(3, [0.33, 0.67]), (2, [0.5, 1])])
def test_a_length_says_how_far_an_epoch_has_come(double, cut, length, parts, monkeypatch):
    monkeypatch.setattr("backprop_gpu.training.run.CHUNK_SECONDS", 0)  # a step at a time
    shown = []
    bp.train(double, OfLength(cut, length), progress=lambda run: shown.append(run.epochs_passed))
    assert shown == [*parts, 1, 1]


WITHOUT_LENGTH = {
    "a generator": iter,
    "a function": lambda pairs: lambda epoch: pairs,
    "what raises": lambda pairs: OfLength(pairs, "not known"),
}


@pytest.mark.parametrize("kind", WITHOUT_LENGTH)
@pytest.mark.parametrize(
    "schedule", [bp.WarmUp(bp.CosineDecay(0.01, 1), 0.1), bp.StepDecay(0.1, 0.125)], ids=repr
)
def test_what_changes_within_an_epoch_of_unknown_length_is_refused(
    double, cut, kind, schedule, tmp_path
):
    before, given, folder = numbers(double), WITHOUT_LENGTH[kind](cut), tmp_path / "run"
    with pytest.raises(bp.DomainError, match=r"learning rate .* within epoch 0, .* no len\(\)"):
        bp.train(double, given, optimizer=bp.SGD(schedule), checkpoint=folder)
    assert numbers(double).tobytes() == before.tobytes()
    assert not folder.exists()


def test_what_changes_within_a_later_epoch_is_refused_at_once(double, cut):
    before, optimizer = numbers(double), bp.SGD(bp.StepDecay(0.1, every=2.5))
    with pytest.raises(bp.DomainError, match="changes within epoch 2"):
        bp.train(double, lambda epoch: cut, optimizer=optimizer, epochs=3)
    assert numbers(double).tobytes() == before.tobytes()
    bp.train(double, lambda epoch: cut, optimizer=optimizer, epochs=2)


@pytest.mark.parametrize(
    "schedule", [0.2, bp.StepDecay(0.2, every=2), lambda e: 0.2 / (1 + e // 1)]
)
def test_what_changes_between_epochs_needs_no_length(double, cut, schedule):
    twin = double.copy()
    for net, given in ((double, lambda epoch: iter(cut)), (twin, cut)):
        history = bp.train(net, given, optimizer=bp.SGD(schedule), epochs=4)
    assert numbers(double).tobytes() == numbers(twin).tobytes()
    assert history.learning_rate[0] == 0.2


def test_a_schedule_decides_the_updates(double):
    x, y = data()
    twin = double.copy()
    bp.train(double, x, y, optimizer=bp.SGD(bp.StepDecay(0.2, every=3)), epochs=6)
    bp.train(twin, x, y, optimizer=bp.SGD(0.2), epochs=3)
    bp.train(twin, x, y, optimizer=bp.SGD(0.1), epochs=3)
    np.testing.assert_array_equal(numbers(double), numbers(twin))


@pytest.mark.parametrize("rate", [math.nan, math.inf, -0.1, None, "0.1", [0.1]], ids=repr)
@pytest.mark.parametrize(
    "warmed", [lambda own: own, lambda own: bp.WarmUp(own, 1)], ids=["", "warmed"]
)
def test_a_schedule_that_gives_no_rate(double, rate, warmed):
    before = numbers(double)
    with pytest.raises(
        bp.DomainError, match=r"the schedule <function .* gave the learning rate .* expected 0 or a"
    ) as e:
        bp.train(double, *data(), optimizer=bp.SGD(warmed(lambda epochs: rate)))
    assert repr(rate) in str(e.value)
    assert numbers(double).tobytes() == before.tobytes()

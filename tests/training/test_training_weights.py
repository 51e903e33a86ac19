"""Training with samples that count differently: C = sum_i w_i C_i / sum_i w_i."""

import numpy as np
import pytest
from host.backend import emulated_backend
from host.needs import needs_compiler, needs_gpp
from small_run import close, numbers

import backprop_gpu as bp
from backprop_gpu.shuffle import shuffled

N = 11
HEADS = [
    ("identity", "mse"),
    ("silu", "sse"),
    ("sigmoid", "bce"),
    ("softmax", "bce"),
    ("softmax", "cce"),
]
PATHS = ["steps", *(pytest.param(path, marks=needs_compiler) for path in ("fused", "compiled"))]
WEIGHTS = np.random.default_rng(2).uniform(0.1, 3, N)


def data(n=N):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)), rng.dirichlet([1, 1], size=n)


def network(device="cpu", head="identity", dtype="float64"):
    return bp.MLP([3, 5, 4, 2], ["tanh", "silu", head], device=device, dtype=dtype, seed=3)


def trained(net, x, y, weights=None, **options):
    """The history and the parameters, both to the bit."""
    options = {"optimizer": bp.Adam(0.05), "epochs": 4} | options
    history = bp.train(net, x, y, sample_weight=weights, **options)
    return history.loss, numbers(net).tobytes()


def weighted_loss(net, x, y, weights, loss):
    losses = [net.loss(x[i : i + 1], y[i : i + 1], loss) for i in range(len(x))]
    return float(weights @ losses / weights.sum())


# ---- the equation --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("head", "loss"), HEADS)
def test_the_gradient_is_that_of_finite_differences(head, loss, path):
    x, y = data()
    net = network(head=head)
    start, expected = numbers(net), np.empty(net.parameters.size)
    for i in range(expected.size):
        sides = []
        for step in (1e-6, -1e-6):
            net.parameters[...] = start
            net.parameters[i] += step
            sides.append(weighted_loss(net, x, y, WEIGHTS, loss))
        expected[i] = (sides[0] - sides[1]) / 2e-6
    net.parameters[...] = start
    history = bp.train(
        net, x, y, sample_weight=WEIGHTS, loss=loss, optimizer=bp.SGD(1.0), path=path
    )
    np.testing.assert_allclose(start - numbers(net), expected, rtol=1e-6, atol=1e-9)
    net.parameters[...] = start
    assert history.loss[0] == pytest.approx(weighted_loss(net, x, y, WEIGHTS, loss), rel=1e-12)


@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize(("head", "loss"), HEADS)
def test_is_the_loop_that_one_writes_by_hand(backend, dtype, batch_size, seed, head, loss):
    """Every batch has its own average; batches count by their samples in the loss of the epoch."""
    x, y = data()
    net, size = network(backend, head, dtype), batch_size or N
    hand, losses = net.copy(), []
    for epoch in range(3):
        order = np.arange(N) if seed is None or size == N else shuffled(N, epoch, seed)
        total = 0.0
        for start in range(0, N, size):
            batch = order[start : start + size]
            step = np.zeros(numbers(net).size)
            for i in batch:
                grads = hand.backward(hand.forward(x[[i]]), y[[i]], loss)
                share = WEIGHTS[i] / WEIGHTS[batch].sum()
                step += share * net.backend.to_numpy(grads.flat)
                total += share * grads.loss * len(batch) / N
            hand.parameters -= net.backend.asarray(0.1 * step, net.dtype)
        losses.append(total)
    history = bp.train(
        net,
        x,
        y,
        sample_weight=WEIGHTS,
        loss=loss,
        optimizer=bp.SGD(0.1),
        epochs=3,
        batch_size=batch_size,
        shuffle=seed is not None,
        seed=seed or 0,
    )
    close(net, numbers(hand))
    assert history.loss == pytest.approx(losses, rel=1e-5 if net.dtype == "float32" else 1e-12)


def test_whole_weights_are_repeated_samples(backend):
    x, y = data()
    times = np.arange(N) % 4 + 1
    net, repeated = network(backend), network(backend)
    options = {"optimizer": bp.Adam(0.05), "epochs": 5}
    history = bp.train(net, x, y, sample_weight=times, **options)
    expected = bp.train(repeated, x.repeat(times, 0), y.repeat(times, 0), **options)
    assert history.loss == pytest.approx(expected.loss, rel=1e-12)
    np.testing.assert_allclose(numbers(net), numbers(repeated), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("head", "loss"), HEADS)
def test_a_batch_of_many_tiles_has_one_average(head, loss):
    x, y = data(40_000)
    net, twin = network(head=head), network(head=head)
    light, heavy = (
        twin.backward(twin.forward(x[half]), y[half], loss)
        for half in (slice(0, 20_000), slice(20_000, None))
    )
    twin.parameters -= (light.flat + 3 * heavy.flat) / 4
    options = {"loss": loss, "optimizer": bp.SGD(1.0), "path": "steps"}
    history = bp.train(net, x, y, sample_weight=np.repeat([1, 3], 20_000), **options)
    np.testing.assert_allclose(numbers(net), numbers(twin), rtol=1e-12, atol=1e-12)
    assert history.loss == pytest.approx([(light.loss + 3 * heavy.loss) / 4], rel=1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("head", "loss"), [("sigmoid", "bce"), ("softmax", "cce")])
def test_the_loss_of_outputs_that_round_to_0_and_1_is_exact(head, loss, path):
    x, y = data()
    net = network(head=head)
    net.weights[-1][...] *= 1e4
    expected = weighted_loss(net, x, y, WEIGHTS, loss)
    history = bp.train(net, x, y, sample_weight=WEIGHTS, loss=loss, path=path)
    assert history.loss == pytest.approx([expected], rel=1e-12)


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("weight", [1, 7, 0.1])
def test_equal_weights_are_none_to_the_bit(net, weight, batch_size):
    x, y = data()
    twin = net.copy()
    expected = trained(twin, x, y, batch_size=batch_size)
    assert trained(net, x, y, [weight] * N, batch_size=batch_size) == expected


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("weights", [np.ones(N), WEIGHTS], ids=["others equal", "others differ"])
def test_weights_of_0_leave_samples_out_to_the_bit(net, weights, batch_size):
    x, y = data()
    twin, counts = net.copy(), np.arange(N) % 3 > 0
    expected = trained(twin, x[counts], y[counts], weights[counts], batch_size=batch_size)
    assert trained(net, x, y, weights * counts, batch_size=batch_size) == expected


@pytest.mark.parametrize("batch_size", [None, 1])
def test_weights_that_are_0_in_the_networks_dtype_leave_samples_out_as_well(batch_size):
    x, y = data()
    weights = np.array([1e-60] * 4 + [1, 2] + [3e-50] * (N - 6))
    net, twin = network(dtype="float32"), network(dtype="float32")
    expected = trained(twin, x[4:6], y[4:6], [1, 2], batch_size=batch_size)
    assert trained(net, x, y, weights, batch_size=batch_size) == expected


def test_only_ratios_of_weights_matter(double):
    x, y = data()
    twin = double.copy()
    expected = trained(twin, x, y, WEIGHTS, batch_size=4)
    assert trained(double, x, y, WEIGHTS * 2.0**900, batch_size=4) == expected


# ---- with what train has besides -----------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"clip_value": 0.01}], ids=str)
@pytest.mark.parametrize("batch_size", [None, 1, 4])
@pytest.mark.parametrize(("head", "loss"), HEADS)
@needs_compiler
def test_all_paths_lead_to_the_same_place(head, loss, batch_size, options, dtype):
    ways = {}
    for path in ("steps", "fused", "compiled"):
        net = network(head=head, dtype=dtype)
        history = bp.train(
            net,
            *data(),
            sample_weight=WEIGHTS,
            loss=loss,
            optimizer=bp.SGD(0.1, momentum=0.9),
            epochs=5,
            batch_size=batch_size,
            path=path,
            **options,
        )
        assert history.path == path
        ways[path] = net, history.loss
    steps, losses = ways.pop("steps")
    for net, found in ways.values():
        close(net, numbers(steps))
        np.testing.assert_allclose(found, losses, rtol=1e-4 if dtype == "float32" else 1e-11)


def test_validation_data_count_the_same(net):
    x, y = data()
    told = []
    history = bp.train(
        net,
        x,
        y,
        sample_weight=WEIGHTS,
        validation=(x, y),
        epochs=3,
        callbacks=[lambda epoch: told.append(epoch.net.loss(x, y))],
    )
    assert history.validation_loss == told


def test_the_gradient_of_a_sample_is_clipped_with_its_weight(double):
    x, y = data()
    shares, limit = WEIGHTS / WEIGHTS.mean(), 0.5
    step = np.zeros(double.parameters.size)
    for i in range(N):
        grads = double.backward(double.forward(x[[i]]), y[[i]])
        gradient = shares[i] * double.backend.to_numpy(grads.flat)
        step += gradient * min(1, limit / np.linalg.norm(gradient)) / N
    before = numbers(double)
    options = {"optimizer": bp.SGD(1.0), "clip_sample_norm": limit}
    bp.train(double, x, y, sample_weight=WEIGHTS, **options)
    np.testing.assert_allclose(before - numbers(double), step, rtol=1e-9, atol=1e-15)


def test_a_loss_of_ones_own_is_weighted(double):
    own = bp.Loss(
        "own sse", lambda xp, a, y: ((a - y) ** 2).sum(axis=1), lambda xp, a, y: 2 * (a - y)
    )
    twin = double.copy()
    options = {"sample_weight": WEIGHTS, "epochs": 3, "batch_size": 4}
    history = bp.train(double, *data(), loss=own, **options)
    expected = bp.train(twin, *data(), loss="sse", **options)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-12)
    np.testing.assert_allclose(numbers(double), numbers(twin), rtol=1e-12)


def test_nothing_that_is_given_is_written_to(net):
    x, y = (array.astype(net.dtype) for array in data())
    weights = WEIGHTS.copy()
    before = [array.tobytes() for array in (x, y, weights)]
    bp.train(net, x, y, sample_weight=weights, epochs=3, batch_size=4)
    assert [array.tobytes() for array in (x, y, weights)] == before


def test_a_run_that_diverges_ends_with_its_last_good_parameters(net):
    rate = bp.SGD(lambda epochs: 0.01 if epochs < 3 else 1e30)
    with pytest.raises(bp.TrainingDiverged) as caught:
        bp.train(net, *data(), sample_weight=WEIGHTS, optimizer=rate, epochs=9, batch_size=4)
    assert len(caught.value.history.loss) == caught.value.epoch
    assert np.isfinite(numbers(net)).all()


@pytest.mark.parametrize("backend", [pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True)
def test_weights_may_be_in_gpu_memory(backend):
    given = *data(), WEIGHTS * (np.arange(N) % 3)
    on_gpu = [backend.asarray(array, array.dtype) for array in given]
    expected = trained(network(backend), *given, batch_size=4)
    assert trained(network(backend), *on_gpu, batch_size=4) == expected


# ---- what is refused, before anything changes ----------------------------------------------------

REFUSED = {
    "too few": (WEIGHTS[1:], bp.ShapeError, r"shape \(10,\); expected \(11,\)"),
    "a column": (WEIGHTS[:, None], bp.ShapeError, r"numpy.ravel\(sample_weight\)"),
    "one for all": (2.0, bp.ShapeError, r"shape \(\)"),
    "text": (["heavy"] * N, bp.DtypeError, "sample_weight has dtype <U5"),
    "NaN": ([1.0, np.nan] + [1.0] * 9, bp.NonFiniteError, r"sample_weight .* index \(1,\): nan"),
    "infinity": ([np.inf] + [1.0] * 10, bp.NonFiniteError, r"sample_weight .* index \(0,\): inf"),
    "negative": ([1.0, 1.0, -0.5] + [1.0] * 8, bp.DomainError, r"sample_weight\[2\] is -0.5; exp"),
    "all zero": (np.zeros(N), bp.DomainError, "the sum of sample_weight is 0.0; expected a finite"),
    "too much": ([1e308] * N, bp.DomainError, "the sum of sample_weight is inf; expected a finite"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_weights_that_are_none(what, net, tmp_path):
    weights, error, says = REFUSED[what]
    before = numbers(net)
    with pytest.raises(error, match=says):
        bp.train(net, *data(), sample_weight=weights, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(numbers(net), before)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["files", "batches"])
def test_weights_of_data_that_are_streamed(kind, double, tmp_path):
    x, y = data()
    np.save(tmp_path / "x.npy", x)
    given = (np.load(tmp_path / "x.npy", mmap_mode="r"), y) if kind == "files" else ([(x, y)],)
    options = {"batch_size": 4} if kind == "files" else {}
    before = numbers(double)
    with pytest.raises(bp.DomainError, match=r"sample_weight is for arrays .* two arrays"):
        bp.train(double, *given, sample_weight=WEIGHTS, **options)
    np.testing.assert_array_equal(numbers(double), before)


@needs_gpp
def test_one_launch_takes_samples_that_all_count_the_same():
    net, counts = network(emulated_backend(), dtype="float32"), np.arange(N) % 3 > 0
    with pytest.raises(bp.DomainError, match=r"'one launch' can't .* weighing samples takes"):
        bp.train(net, *data(), sample_weight=WEIGHTS, path="one launch")
    assert bp.train(net, *data(), sample_weight=WEIGHTS).path == "steps"
    assert bp.train(net, *data(), sample_weight=counts, path="one launch").path == "one launch"

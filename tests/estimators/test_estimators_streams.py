"""`partial_fit` goes once through data of any size, and learns what it would from arrays."""

import subprocess
import sys
import threading

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.sparse
import zarr
from host.backend import emulated_backend
from host.needs import needs_gpp

import backprop_gpu as bp
from backprop_gpu.estimators import MLPClassifier, MLPRegressor
from backprop_gpu.training.streams import StreamBatches

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(110, 4))
LENGTH = X[:, 0] * X[:, 1]
SPECIES = np.digitize(X[:, 0], [-0.5, 0.5])
LABELS = (X[:, 1:] > 0).astype(int)
WEIGHTS = RNG.uniform(0.1, 2, len(X))
SETTINGS = {"hidden_layer_sizes": (7, 5), "batch_size": 20, "random_state": 0, "device": "cpu"}


class Sliced:
    """The least that is streamed."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self.values[rows]


def npy(folder, values):
    np.save(folder / "values.npy", values)
    return np.load(folder / "values.npy", mmap_mode="r")


def hdf5(folder, values):
    return h5py.File(folder / "values.h5", "w").create_dataset("values", data=values)


def zarr_array(folder, values):
    array = zarr.create_array(folder / "values.zarr", shape=values.shape, dtype=values.dtype)
    array[:] = values
    return array


def parquet(folder, values):
    names = list("abcd")
    table = pyarrow.table(dict(zip(names, values.T, strict=True)))
    pyarrow.parquet.write_table(table, folder / "values.parquet", row_group_size=33)
    return bp.ParquetColumns(folder / "values.parquet", names)


def pairs(x, y, size=20):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def in_memory(Estimator, y, *more, passes=2, **settings):
    model = Estimator(**SETTINGS | {"shuffle": False} | settings)
    for _ in range(passes):
        model.partial_fit(X, y, *more)
    return model


def assert_same(one, other):
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e3 * np.finfo(a.dtype).eps, atol=1e-6)
    np.testing.assert_allclose(one.loss_curve_, other.loss_curve_, rtol=1e-6)
    for name in ("n_iter_", "t_", "n_outputs_", "n_features_in_", "out_activation_", "n_layers_"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.best_loss_ == pytest.approx(other.best_loss_)


@pytest.mark.parametrize("path", ["steps", "compiled"])
@pytest.mark.parametrize("store", [npy, hdf5, zarr_array, parquet, None])
def test_files_in_their_order_teach_what_arrays_do(store, path, tmp_path):
    x = Sliced(X) if store is None else store(tmp_path, X)
    model = MLPRegressor(**SETTINGS, shuffle=False, path=path)
    for _ in range(2):
        model.partial_fit(x, LENGTH)
    assert model.path_ == path
    assert_same(model, in_memory(MLPRegressor, LENGTH))


TARGETS = pytest.mark.parametrize(
    ("Estimator", "y", "settings"),
    [
        (MLPRegressor, LENGTH, {"solver": "sgd", "learning_rate": "invscaling"}),
        (MLPRegressor, X[:, :2], {"loss": "mse", "alpha": 0}),
        (MLPRegressor, np.abs(LENGTH), {"loss": "poisson", "dtype": "float32"}),
        (MLPClassifier, SPECIES, {}),
        (MLPClassifier, np.array(["a", "b", "c"])[SPECIES], {"class_weight": {"b": 3.0}}),
        (MLPClassifier, SPECIES > 0, {"class_weight": {True: 0.5}, "warm_start": True}),
        (MLPClassifier, LABELS, {"class_weight": [{1: 2.0}, {}, {0: 0.1}]}),
    ],
    ids=["number", "numbers", "counts", "classes", "text", "two classes", "labels"],
)


def classes_of(Estimator, y):
    if Estimator is MLPRegressor:
        return ()
    return (None, np.unique(y) if y.ndim == 1 else np.arange(y.shape[1]))


@TARGETS
def test_every_kind_of_target_is_learned(Estimator, y, settings):
    classes = classes_of(Estimator, y)
    memory = in_memory(Estimator, y, *classes, **settings)
    for x, targets in (
        [(Sliced(X), Sliced(y)), (Sliced(X), y.tolist()), (X, Sliced(y[:, None]))]
        if y.ndim == 1
        else [(Sliced(X), Sliced(y))]
    ):
        model = Estimator(**SETTINGS | settings, shuffle=False)
        for _ in range(2):
            model.partial_fit(x, targets, *classes)
        assert_same(model, memory)


def test_text_labels_are_read_from_parquet_files(tmp_path):
    labels = np.array(["a", "bc", "d"])[SPECIES]
    pyarrow.parquet.write_table(pyarrow.table({"y": labels}), tmp_path / "y.parquet")
    y = bp.ParquetColumns(tmp_path / "y.parquet", ["y"])
    model = MLPClassifier(**SETTINGS, shuffle=False)
    for _ in range(2):
        model.partial_fit(Sliced(X), y, classes=["a", "bc", "d"])
    assert_same(model, in_memory(MLPClassifier, labels, None, ["a", "bc", "d"]))
    assert model.score(X, y) == model.score(X, labels)


@TARGETS
def test_batches_are_learned_one_by_one(Estimator, y, settings):
    classes = classes_of(Estimator, y)
    model = Estimator(**SETTINGS | settings)
    model.partial_fit(pairs(X, y), None, *classes)
    model.partial_fit(lambda epoch: iter(pairs(X, y)))
    assert_same(model, in_memory(Estimator, y, *classes, **settings))


@TARGETS
def test_samples_weigh_what_they_weigh_in_arrays(Estimator, y, settings):
    classes = classes_of(Estimator, y)[1:]
    model = Estimator(**SETTINGS | settings, shuffle=False)
    model.partial_fit(Sliced(X), y, WEIGHTS, *classes).partial_fit(Sliced(X), y, WEIGHTS)
    assert_same(model, in_memory(Estimator, y, WEIGHTS, *classes, **settings))


def test_every_pass_has_an_order_of_its_own_that_the_seed_decides(monkeypatch):
    load, orders = StreamBatches.load, []

    def noted(batch, step):
        count = load(batch, step)
        orders[-1].extend(batch.arrays()[0][:count, 0].tolist())
        return count

    monkeypatch.setattr(StreamBatches, "load", noted)

    def passes(**settings):
        model = MLPRegressor(**SETTINGS | settings)
        for _ in range(2):
            orders.append([])
            model.partial_fit(Sliced(X), LENGTH)
        return model.coefs_[0]

    one, again, other = passes(), passes(), passes(random_state=1)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert all(sorted(order) == sorted(X[:, 0]) for order in orders)
    assert len(set(map(tuple, orders))) == 4


def test_batches_may_have_any_sizes():
    model = MLPRegressor(**SETTINGS)
    model.partial_fit((X[a:b], LENGTH[a:b]) for a, b in [(0, 3), (3, 90), (90, 91), (91, 110)])
    assert model.t_ == len(X)
    assert model.predict(X).shape == (len(X),)


def test_sparse_batches_are_learned():
    sparse = [(scipy.sparse.csr_array(x), y) for x, y in pairs(X, LENGTH)]
    assert_same(
        MLPRegressor(**SETTINGS).partial_fit(sparse),
        MLPRegressor(**SETTINGS).partial_fit(pairs(X, LENGTH)),
    )


def test_targets_keep_their_number_of_columns():
    model = MLPRegressor(**SETTINGS).partial_fit(Sliced(X), X[:, :2])
    for y in (LENGTH, X[:, :3]):
        with pytest.raises(bp.ShapeError, match="the network has 2 outputs"):
            model.partial_fit(Sliced(X), y)


@pytest.mark.parametrize(
    ("loss", "y", "error", "message"),
    [
        ("squared_error", LENGTH.astype(str), bp.DtypeError, "expected real numbers"),
        ("squared_error", np.where(LENGTH > 0, np.nan, 0), bp.NonFiniteError, "of y holds nan"),
        ("poisson", LENGTH, bp.DomainError, "below 0"),
        ("poisson", LENGTH.astype(str), bp.DtypeError, "expected real numbers"),
        ("binary_cross_entropy", 5 * LENGTH, bp.DomainError, r"y\[.*\] holds targets from"),
    ],
)
def test_targets_are_what_the_loss_is_defined_for(loss, y, error, message):
    with pytest.raises(error, match=message):
        MLPRegressor(loss, **SETTINGS).partial_fit(Sliced(X), y)


def test_arrays_and_streams_can_take_turns():
    model = MLPClassifier(**SETTINGS).fit(X, SPECIES)
    model.partial_fit(Sliced(X), SPECIES).partial_fit(pairs(X, SPECIES)).partial_fit(X, SPECIES)
    assert len(model.loss_curve_) == model.t_ // len(X)


def test_fit_reads_everything_and_predictions_are_made_piece_by_piece(tmp_path):
    x, y = parquet(tmp_path, X), Sliced(LENGTH)
    settings = SETTINGS | {"max_iter": 3}
    model, memory = (MLPRegressor(**settings).fit(*data) for data in ((x, y), (X, LENGTH)))
    assert_same(model, memory)
    np.testing.assert_array_equal(model.predict(x), memory.predict(X))
    assert model.score(x, y) == memory.score(X, LENGTH)
    with pytest.raises(ValueError, match="expecting 4 features"):
        model.predict(Sliced(X[:, :3]))
    with pytest.raises(bp.ShapeError, match=r"x has shape \(0, 4\)"):
        model.predict(Sliced(X[:0]))


@needs_gpp
def test_a_gpu_learns_from_streams_what_the_cpu_learns():
    on_cpu, model = (
        MLPClassifier(**SETTINGS | {"device": device}).partial_fit(
            Sliced(X), SPECIES, WEIGHTS, classes=[0, 1, 2]
        )
        for device in ("cpu", emulated_backend())
    )
    assert_same(model, on_cpu)


def damaged(value):
    x = X.copy()
    x[77, 2] = value
    return Sliced(x)


@pytest.mark.parametrize(
    ("x", "y", "more", "error", "message"),
    [
        (Sliced(X), SPECIES[:-1], (), bp.ShapeError, "110 rows and y has 109"),
        (Sliced(X[:, 0]), SPECIES, (), bp.ShapeError, "one number per feature"),
        (Sliced(X), SPECIES, (WEIGHTS[:-1],), ValueError, "sample_weight.shape"),
        (Sliced(X), SPECIES, (-WEIGHTS,), ValueError, "Negative values"),
        (Sliced(X.astype(str)), SPECIES, (), bp.DtypeError, "real numbers"),
        (Sliced(X[:0]), SPECIES[:0], (), bp.ShapeError, "x has shape .* no samples"),
        (Sliced(X), SPECIES[:0], (), bp.ShapeError, "y has shape .* no samples"),
        ([(X[:0], SPECIES[:0])], None, (), bp.ShapeError, "x of batch 0 has .* no samples"),
        (pairs(X, SPECIES), None, (WEIGHTS,), bp.DomainError, "sample_weight is of arrays"),
        ([X], None, (), bp.DtypeError, "batch 0 is of type ndarray"),
        ([], None, (), bp.ShapeError, "no batches"),
        (Sliced(X), SPECIES + 9, (), ValueError, "classes not in"),
        ([(X, None)], None, (), bp.ShapeError, r"y has shape \(\); expected \(samples,\)"),
        ([(X, X[:, :, None])], None, (), bp.ShapeError, r"y has shape \(110, 4, 1\)"),
        ([(X, SPECIES[:-1])], None, (), bp.ShapeError, "110 rows and y of batch 0 has 109"),
        ([(X * np.nan, SPECIES)], None, (), bp.NonFiniteError, "x of batch 0 holds 440"),
        (lambda epoch: None, None, (), bp.DtypeError, r"X\(0\) returned None"),
        (Sliced(X * np.nan), SPECIES, (), bp.NonFiniteError, "of x holds nan"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_learned(x, y, more, error, message):
    model = MLPClassifier(**SETTINGS)
    with pytest.raises(error, match=message):
        model.partial_fit(x, y, *more, classes=[0, 1, 2])
    assert vars(model) == vars(MLPClassifier(**SETTINGS))


def test_what_came_before_an_error_has_been_learned():
    model, other = MLPRegressor(**SETTINGS), MLPRegressor(**SETTINGS).partial_fit([(X, LENGTH)])
    with pytest.raises(bp.NonFiniteError, match="x of batch 1 holds"):
        model.partial_fit([(X, LENGTH), (X * np.nan, LENGTH)])
    np.testing.assert_array_equal(model.predict(X), other.predict(X))


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (damaged(np.nan), SPECIES, bp.NonFiniteError, "row 77 of x holds nan"),
        (Sliced(X), np.append(SPECIES[:-1], 9), ValueError, "classes not in `self.classes_`"),
        ([*pairs(X, SPECIES), (X, SPECIES + 9)], None, ValueError, "classes not in"),
        ([*pairs(X, SPECIES), "ab"], None, bp.DtypeError, "batch 6 is of type str"),
    ],
)
def test_errors_that_show_later_end_the_thread(x, y, error, message):
    model = MLPClassifier(**SETTINGS)
    with pytest.raises(error, match=message):
        model.partial_fit(x, y, classes=[0, 1, 2])
    assert not [t for t in threading.enumerate() if t.name == "backprop_gpu-data"]


@pytest.mark.parametrize("x", [X, None])
def test_arrays_need_targets(x):
    with pytest.raises(ValueError, match="requires y to be passed"):
        MLPRegressor(**SETTINGS).partial_fit(x)


def test_divergence_is_an_error():
    model = MLPRegressor(**SETTINGS, solver="sgd", learning_rate_init=1e200)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        model.partial_fit(Sliced(X), LENGTH)


def test_divergence_of_the_last_step_in_some_parameters_is_an_error():
    y = np.column_stack([np.zeros(len(X)), np.full(len(X), 1e150)])
    model = MLPRegressor(**SETTINGS, solver="sgd", momentum=0, learning_rate_init=1e200)
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        model.partial_fit([(X, y)])
    assert np.isfinite(model.intercepts_[-1]).tolist() == [True, False]


def test_a_batch_without_weight_is_refused():
    model = MLPRegressor(**SETTINGS, shuffle=False)
    with pytest.raises(ZeroDivisionError, match="of a batch"):
        model.partial_fit(Sliced(X), LENGTH, sample_weight=np.arange(len(X)) >= 40)
    assert vars(model) == vars(MLPRegressor(**SETTINGS, shuffle=False))


def test_an_interrupted_pass_leaves_a_model():
    def interrupted():
        yield from pairs(X, LENGTH)[:2]
        raise KeyboardInterrupt

    model = MLPRegressor(**SETTINGS)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.partial_fit(interrupted())
    assert model.predict(X).shape == LENGTH.shape


def test_a_large_file_takes_bounded_memory(tmp_path):
    script = """
import resource, sys
import numpy as np
from backprop_gpu.estimators import MLPRegressor

x = np.load(sys.argv[1], mmap_mode="r")
y = x.reshape(-1)[: len(x)]
model = MLPRegressor(hidden_layer_sizes=(4,), batch_size=10_000, device="cpu", random_state=0)
model.partial_fit(x[:100_000], y[:100_000])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model.partial_fit(x, y)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    path = tmp_path / "x.npy"
    x = np.lib.format.open_memmap(path, "w+", "float32", (6_000_000, 16))
    x[::1000] = 1
    del x
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200e6  # of 384 MB: two windows, and what is on its way

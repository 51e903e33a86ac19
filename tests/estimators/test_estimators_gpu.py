"""Estimators on a GPU, or on the CUDA backend whose kernels run on the CPU."""

import numpy as np
import pytest
from host.backend import emulated_backend
from host.launcher import unavailable_reason
from small_models import (
    BOTH,
    FEW,
    LABELS,
    LENGTH,
    SPECIES,
    WEIGHTS,
    X,
    assert_same_model,
    on_cuda,
)

import backprop_gpu as bp
from backprop_gpu.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class OnDevice(np.ndarray):
    """Stands for an array in GPU memory, where NumPy stands for CuPy."""

    __array_priority__ = 1

    @property
    def __cuda_array_interface__(self):
        return self.__array_interface__


@pytest.fixture
def device():
    """Return the CUDA backend on the CPU; it counts what is brought to the host."""
    if reason := unavailable_reason():
        pytest.skip(reason)
    backend, to_numpy = emulated_backend(), emulated_backend().to_numpy
    backend.brought = []

    def counted(array):
        backend.brought.append(array.size)
        return to_numpy(array)

    backend.to_numpy = counted
    return backend


@pytest.mark.parametrize(
    ("Estimator", "y"),
    [
        (MLPClassifier, SPECIES),
        (MLPClassifier, (SPECIES == 1).astype(int)),
        (MLPClassifier, LABELS),
        (MLPRegressor, LENGTH),
        (MLPRegressor, X[:, :2]),
    ],
    ids=["classes", "two classes", "several labels", "number", "several numbers"],
)
def test_arrays_on_a_gpu_stay_there(Estimator, y, device):
    on_cpu = Estimator(**FEW, device="cpu").fit(X, y)
    x, target = X.view(OnDevice), np.asarray(y).view(OnDevice)
    model = Estimator(**FEW, device=device).fit(x, target)
    predicted = model.predict(x)
    assert max(device.brought) < len(X)  # classes and losses, no data
    np.testing.assert_allclose(predicted, on_cpu.predict(X), rtol=1e-9)
    assert_same_model(on_cpu, model, rtol=1e-8)
    assert model.score(x, target) == pytest.approx(on_cpu.score(X, y))
    np.testing.assert_allclose(model.predict(X), on_cpu.predict(X), rtol=1e-9)


@BOTH
def test_a_gpu_learns_what_the_cpu_learns(Estimator, y, device):
    settings = FEW | {"early_stopping": True, "class_weight": "balanced"}
    if Estimator is MLPRegressor:
        del settings["class_weight"]
    on_cpu = Estimator(**settings, device="cpu").fit(X, y, WEIGHTS)
    model = Estimator(**settings, device=device).fit(X, y, WEIGHTS)
    assert_same_model(on_cpu, model, rtol=1e-8)


def classifier(device="cuda", **settings):
    return MLPClassifier(**FEW | settings, device=device)


def regressor(device="cuda"):
    return MLPRegressor(**FEW, device=device)


@pytest.mark.gpu
@pytest.mark.parametrize("factor", [2, 0.4, -1])
def test_several_labels_on_a_gpu_are_0_or_1(factor):
    x, y = on_cuda(X), on_cuda(LABELS)
    assert classifier().fit(x, y).predict(x).shape == LABELS.shape
    model = classifier()
    for learn in (model.fit, lambda x, y: model.partial_fit(x, y, classes=range(3))):
        with pytest.raises(ValueError, match="Multioutput target data is not supported"):
            learn(x, y * factor)
    assert not hasattr(model, "coefs_")
    assert model.partial_fit(x, on_cuda(SPECIES), classes=range(3)).predict(x).ndim == 1


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"class_weight": "balanced", "early_stopping": True}])
def test_text_is_learned_and_predicted_on_a_gpu(settings):
    x, names = on_cuda(X), np.array(["a", "b", "c"])[SPECIES]
    expected = classifier("cpu", **settings).fit(X, names)
    for given in (X, x):
        model = classifier(**settings).fit(given, names)
        np.testing.assert_array_equal(model.predict(x), expected.predict(X))
        assert model.score(x, names) == expected.score(X, names)


@pytest.mark.gpu
@BOTH
def test_targets_may_be_elsewhere_than_inputs(Estimator, y):
    x, target = on_cuda(X), on_cuda(y)
    on_cpu = Estimator(**FEW, device="cpu").fit(X, y)
    for given, targets in ((X, target), (x, y)):
        assert_same_model(on_cpu, Estimator(**FEW, device="cuda").fit(given, targets), rtol=1e-8)
    assert on_cpu.score(X, target, on_cuda(WEIGHTS)) == on_cpu.score(X, y, WEIGHTS)
    for name, data in {"X": (x, target), "y": (X, target)}.items():
        model = Estimator(**FEW, device="cpu")
        with pytest.raises(bp.DeviceError, match=f"^{name} .* is in GPU memory and the network on"):
            model.fit(*data)
        assert not hasattr(model, "n_features_in_")


@pytest.mark.gpu
def test_classes_may_be_on_a_gpu():
    classes = on_cuda(np.arange(3))
    model = classifier().partial_fit(on_cuda(X), on_cuda(SPECIES), classes=classes)
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])


@pytest.mark.gpu
def test_a_network_learns_on_where_it_is():
    for device, x, y in (("cuda", on_cuda(X), on_cuda(LENGTH)), ("cpu", X, LENGTH)):
        model = regressor(device).fit(x, y)
        model.set_params(device="cpu" if device == "cuda" else "cuda").partial_fit(x, y)
        assert model.network_.device.startswith(device)


@pytest.mark.gpu
def test_coefs_that_were_looked_at_are_not_those_before_the_next_pass():
    model, batches = regressor("cuda"), [(on_cuda(X), LENGTH)]
    seen = [model.partial_fit(batches).coefs_[0].copy() for _ in range(2)]
    assert (seen[0] != seen[1]).all()
    np.testing.assert_array_equal(seen[1], bp.arrays.to_cpu(model.network_.weights[0]).T)


@pytest.mark.parametrize("backend", [pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True)
def test_a_fit_that_diverges_ends_as_on_the_cpu(backend):
    """Before the update of the first step whose loss is not finite, though nobody looks there."""
    found = {}
    for device in ("cpu", backend):
        options = {"solver": "sgd", "learning_rate_init": 1e3, "momentum": 0.0}
        options |= {"random_state": 0, "batch_size": 10, "hidden_layer_sizes": 5}
        model = MLPRegressor(device=device, **options)
        with pytest.raises(ValueError, match="non-finite"):
            model.fit(X, LENGTH)
        net = model.network_
        found[net.device] = net.backend.to_numpy(net.parameters)
    one, other = found.values()
    assert np.isfinite(one).all()
    np.testing.assert_allclose(other, one, rtol=1e-6)

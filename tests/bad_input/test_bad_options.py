"""Bad losses, names, numbers and devices: what was given, and what to do instead."""

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from refusals import N, X, Y, make, network, refused, with_entry

import backprop_gpu as bp
from backprop_gpu.backends import cupy_device

# ---- losses --------------------------------------------------------------------------------------

LOSS_CALLS = {
    "backward": lambda net, y, loss: net.backward(net.forward(X), y, loss),
    "loss": lambda net, y, loss: net.loss(X, y, loss),
    "train": lambda net, y, loss: bp.train(net, X, y, loss=loss),
    "validation": lambda net, y, loss: bp.train(
        net, X, np.eye(2)[[0] * N], loss=loss, validation=(X, y)
    ),
}


@pytest.mark.parametrize("call", LOSS_CALLS)
@pytest.mark.parametrize(
    ("g", "loss", "y", "says"),
    [
        ("sigmoid", "bce", with_entry(Y, 1.5), ["1.5", "between 0 and 1"]),
        ("sigmoid", "binary_cross_entropy", with_entry(Y, -0.5), ["-0.5", "between 0 and 1"]),
        ("softmax", "cce", np.ones((N, 2)), ["sum to 1", "off by 1", "one_hot(labels, 2)"]),
        ("softmax", "cce", with_entry(np.eye(2)[[0] * N], 0.1), ["sum to 1", "off by 0.1"]),
        ("softmax", "cce", with_entry(np.eye(2)[[0] * N], 2), ["from 0 to 2", "between 0 and 1"]),
        ("softmax", "cce", [[1.5, -0.5]] * N, ["-0.5 to 1.5", "between 0 and 1"]),
    ],
)
def test_targets_outside_the_domain(call, g, loss, y, says):
    net = network(["tanh", g])
    before = net.parameters.tobytes()
    name = "y_validation" if call == "validation" else "y"
    with refused(bp.DomainError, name, *says):
        LOSS_CALLS[call](net, y, loss)
    assert net.parameters.tobytes() == before


@pytest.mark.parametrize("call", LOSS_CALLS)
@pytest.mark.parametrize("g", ["tanh", "identity", "relu", "leaky_relu", "silu", "gelu"])
@pytest.mark.parametrize(("loss", "remedy"), [("bce", "sigmoid"), ("cce", "softmax")])
def test_outputs_that_can_leave_the_domain(call, g, loss, remedy):
    y = np.eye(2)[[0] * N]
    with refused(bp.DomainError, "between 0 and 1", f"use '{remedy}' in the last layer", g):
        LOSS_CALLS[call](network(["tanh", g]), y, loss)


# What takes a name, and which names are suggested for which.
NAMES = {
    "activation": (
        lambda name: make(activations=["tanh", name]),
        {
            "sigmod": "'sigmoid'",
            "Sigmoid": "'sigmoid'",
            "ReLU": "'relu'",
            "leakyrelu": "'leaky_relu'",
            "leaky-relu": "'leaky_relu'",
            "soft max": "'softmax'",
            "linear": "'identity'",
        },
    ),
    "loss": (
        lambda name: network().loss(X, Y, name),
        {
            "MSE": "'mse'",
            "mean_squared": "'mse'",
            "mean squared error": "'mse'",
            "cross_entropy": "'binary_cross_entropy'",
            "crossentropy": "'categorical_cross_entropy'",
            "BCE": "'bce'",
            None: "'mse'",
        },
    ),
    "initializer": (
        lambda name: make(initializer=name),
        {
            "he": "'he_normal'",
            "He_Normal": "'he_normal'",
            "glorot": "'glorot_uniform'",
            "xavier_uniform": "'glorot_uniform'",
        },
    ),
}
NO_NAME = {"activation": "'identity'", "loss": "'mse'", "initializer": "'he_normal'"}


@pytest.mark.parametrize(
    ("kind", "name", "suggested"),
    [(kind, *pair) for kind, (_, table) in NAMES.items() for pair in table.items()]
    + [(kind, name, any_) for kind, any_ in NO_NAME.items() for name in ("xyzzy", "", 5, 0, ())],
)
def test_unknown_name(kind, name, suggested):
    with refused(bp.UnknownNameError, f"unknown {kind} {name!r}", suggested):
        NAMES[kind][0](name)


def test_what_has_to_be_called_first(net):
    with refused(bp.DtypeError, "activation is the function LeakyReLU", "call it, LeakyReLU()"):
        make(activations=["sigmoid", bp.LeakyReLU])
    with refused(bp.DomainError, "optimizer is the class Adam", "call it, Adam()"):
        bp.train(net, X, Y, optimizer=bp.Adam)


def test_functions_in_the_place_of_entries(net):
    with refused(bp.UnknownNameError, "; make an Activation of your own functions"):
        make(activations=["sigmoid", np.sin])
    with refused(bp.UnknownNameError, "; make a Loss of your own functions"):
        bp.train(net, X, Y, loss=lambda a, y: a - y)


@pytest.mark.parametrize("call", LOSS_CALLS)
def test_unknown_loss(net, call):
    with refused(
        bp.UnknownNameError, "unknown loss 'msee'; did you mean 'mse' or 'sse'? There are"
    ):
        LOSS_CALLS[call](net, Y, "msee")
    with refused(bp.UnknownNameError, "unknown loss 'xyzzy'; there are: 'bce', "):
        LOSS_CALLS[call](net, Y, "xyzzy")


SIZES = [[5], [], [5, 0], [5, -1], [5, 2.5], [5, 2.0], "543", True, None, 5, [5, True], [5, "4"]]
SIZES += [[[5, 4]], {5, 4}, np.array([5.0, 4.0]), np.array(5), [5, None], [np.nan, 3], b"543"]


@pytest.mark.parametrize("sizes", SIZES, ids=repr)
def test_layer_sizes(sizes):
    with refused(bp.ShapeError, f"layer_sizes is {sizes!r}", "at least two", "[5, 3, 4]"):
        make(layer_sizes=sizes)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["tanh"], ["1 activations given", "expected 2", "every layer but the input"]),
        (["tanh"] * 3, ["3 activations given", "expected 2", "every layer but the input"]),
        ([], ["0 activations given", "expected 2"]),
        ("tanh", ["'tanh'", "a list of 2", "['tanh', 'tanh']"]),
        (bp.LeakyReLU(0.1), ["leaky_relu(0.1)", "a list of 2"]),
        (5, ["activations is 5", "a list of 2"]),
        (True, ["activations is True", "a list of 2"]),
    ],
)
def test_activations(given, says):
    with refused((ValueError, TypeError), *says):
        make(activations=given)


DTYPES = [
    "float16",
    "int32",
    "f2",
    ">f8",
    "double precision",
    int,
    complex,
    None,
    5,
    "",
    "(1,",
    ",",
]


@pytest.mark.parametrize("dtype", DTYPES, ids=repr)
def test_dtype(dtype):
    with refused(bp.DtypeError, f"dtype is {dtype!r}", "'float32' or 'float64'"):
        make(dtype=dtype)


NOT_A_COUNT = [-1, 1.5, 2.0, True, "3", None, np.nan, [1], 1j]


@pytest.mark.parametrize("seed", NOT_A_COUNT, ids=repr)
def test_seed(net, seed):
    with refused((ValueError, TypeError), f"seed is {seed!r}", "whole number, 0 or above"):
        make(seed=seed)
    with refused((ValueError, TypeError), f"seed is {seed!r}", "whole number, 0 or above"):
        bp.train(net, X, Y, seed=seed)


NOT_ABOVE_0 = [0, -1, np.nan, np.inf, "1", True, [1], 1j, 10**400]
BAD_OPTIONS = {
    "epochs": ("whole number, 0 or above", NOT_A_COUNT),
    "batch_size": ("whole number, 1 or above", [0, -1, 1.5, 2.0, True, "3", np.nan, [1]]),
    "clip_norm": ("finite number above 0", NOT_ABOVE_0),
    "clip_value": ("finite number above 0", NOT_ABOVE_0),
    "clip_sample_norm": ("finite number above 0", NOT_ABOVE_0),
    "optimizer": ("SGD(learning_rate=0.01)", ["adam", int, 0.1, {}, {"rate": 0.1}, {"adam"}]),
    "early_stopping": ("EarlyStopping(", [5, True, "yes", bp.EarlyStopping, {"patience": 5}]),
    "callbacks": ("a list", [print, 5, [None], ["print"], [print, 5]]),
    "validation": ("(x, y)", [X, (X,), (X, Y, Y), 5, "ab", {"x": X, "y": Y}, True]),
}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        pytest.param(option, value, id=f"{option}-{i}")
        for option, (_, values) in BAD_OPTIONS.items()
        for i, value in enumerate(values)
    ],
)
def test_option_of_train(net, option, value):
    with refused((ValueError, TypeError), option, BAD_OPTIONS[option][0]):
        bp.train(net, X, Y, **{option: value})


NEED_A_NETWORK = {
    "save": lambda net: bp.save(net, "net.safetensors"),
    "export_onnx": lambda net: bp.export_onnx(net, "net.onnx"),
    "draw": lambda net: bp.draw(net),
    "explain": lambda net: bp.explain(net, X, Y, layer=1, j=0, k=0),
    "explain_bias": lambda net: bp.explain_bias(net, X, Y, layer=1, j=0),
    "explain_activation": lambda net: bp.explain_activation(net, X, Y, layer=1, k=0),
    "jump_back": lambda net: bp.jump_back(net, X, Y),
    "write_page": lambda net: bp.write_page(net, X, Y, path="page.html"),
    "check_gradients": lambda net: bp.check_gradients(net, X, Y),
    "per_sample_gradient_norms": lambda net: bp.per_sample_gradient_norms(net, X, Y),
    "outliers": lambda net: bp.outliers(net, X, Y),
    "saliency": lambda net: bp.saliency(net, X, Y),
}


@pytest.mark.parametrize("call", NEED_A_NETWORK)
def test_what_is_no_network(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refused(bp.DtypeError, "net is array([[", "...; expected an MLP") as caught:
        NEED_A_NETWORK[call](np.ones((100, 100)))
    assert len(str(caught.value)) < 120
    assert not list(tmp_path.iterdir())


def test_train_without_a_network():
    for no_net in (None, bp.MLP, "net"):
        with refused((ValueError, TypeError), "MLP"):
            bp.train(no_net, X, Y)


HISTORY = bp.History(loss=[1.0])


@pytest.mark.parametrize(
    "error",
    [
        bp.ShapeError("x"),
        bp.DeviceError("x"),
        bp.UnknownNameError("loss", "msee", ["mse"]),
        bp.MissingExtraError("tqdm", "progress", "progress=True"),
        bp.TrainingDiverged("diverged", 3, 2, HISTORY),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error):
    """As the workers of scikit-learn's searches send them."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


# ---- devices -------------------------------------------------------------------------------------


@pytest.fixture
def fresh_check():
    """Whether there is a GPU is asked anew in this test, and after it."""
    cupy_device.unusable.cache_clear()
    yield
    cupy_device.unusable.cache_clear()


def fake_cupy(count):
    """CuPy where the driver sees so many GPUs; None: there is no driver."""

    def device_count():
        if count is None:
            raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return count

    return SimpleNamespace(
        cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=device_count))
    )


MISSING = {
    "no CuPy": (None, "cuda", ["CuPy", 'pip install "backprop-gpu[cuda13]"', "[cuda12]"]),
    "no driver": (fake_cupy(None), "cuda:0", ["cudaErrorNoDevice", "driver"]),
    "no third GPU": (fake_cupy(2), "cuda:2", ["no CUDA device 2", "cuda:1"]),
    "no GPU": (fake_cupy(0), "cuda", ["GPU", "driver"]),
}


@pytest.mark.parametrize("what", MISSING)
@pytest.mark.usefixtures("fresh_check")
def test_a_gpu_that_is_not_there(monkeypatch, what):
    cupy, device, says = MISSING[what]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with refused(bp.DeviceError, f"device={device!r}", *says):
        make(device=device)


@pytest.mark.usefixtures("fresh_check")
def test_auto_falls_back_and_says_why(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    net = make(device="auto")
    assert net.device == "cpu"
    assert "no usable GPU" in net.device_reason
    assert "CuPy" in net.device_reason
    assert 'pip install "backprop-gpu[cuda13]"' in net.device_reason
    assert bp.MLP([3, 2]).device == "cpu"


DEVICES = ["gpu", "cuda:x", "cuda:-1", "cuda:", "cuda:1.5", "CPU", "cpu:0", "cuda ", "", "mps"]


@pytest.mark.parametrize("device", [*DEVICES, None, 0, True, [], b"cpu", np.float32], ids=repr)
def test_unknown_device(device):
    with refused((ValueError, TypeError), repr(device), "'auto', 'cpu', 'cuda'"):
        make(device=device)

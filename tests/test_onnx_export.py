"""Networks as ONNX models: what a runtime computes with them, and what is refused."""

import math
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import backprop_gpu as bp
from backprop_gpu import onnx_export
from backprop_gpu.activations import ACTIVATIONS, find_activation
from backprop_gpu.onnx_export import export_onnx

BUILT_IN = [find_activation(name) for name in ACTIVATIONS]
LEAKS = [bp.LeakyReLU(leak) for leak in (0.0, 0.1, 1.0, 2.5, -0.5, 1e-05, 12345.678)]
NO_FLOAT64_IN_ONNXRUNTIME = ("softplus", "gelu")


class Erf(OpRun):
    """The reference's own rounds to float32."""

    op_domain = ""

    def _run(self, x):
        return (np.vectorize(math.erf, otypes=[x.dtype])(x),)


def exported(net, tmp_path):
    export_onnx(net, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def network(g, dtype, seed=0):
    before = "tanh" if str(g) == "exp" else g  # e^e^z magnifies rounding
    net = bp.MLP([5, 7, 3], [before, g], device="cpu", dtype=dtype, seed=seed)
    rng = np.random.default_rng(seed)
    net.set_parameters(net.weights, [rng.normal(size=len(b)) for b in net.biases])
    return net


@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("g", BUILT_IN + LEAKS, ids=str)
def test_a_runtime_predicts_what_the_network_does(g, dtype, rows, tmp_path):
    net = network(g, dtype)
    x = np.random.default_rng(1).normal(scale=3, size=(rows, 5)).astype(dtype)
    path = exported(net, tmp_path)
    if dtype == "float64" and g.name in NO_FLOAT64_IN_ONNXRUNTIME:
        runtime = ReferenceEvaluator(onnx.load(path), new_ops=[Erf])
    else:
        runtime = session(path)
    (y,) = runtime.run(["y"], {"x": x})
    assert y.dtype == dtype
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(y, net(x), rtol=tolerance, atol=tolerance * max(1, abs(y).max()))


def test_outputs_far_out_stay_finite(tmp_path):
    for g in BUILT_IN:
        net = bp.MLP([1, 2], [g], device="cpu")
        net.set_parameters([[[1.0], [-1.0]]], [[0.0, 0.0]])
        x = np.float32([[-1e4], [1e4]])
        (y,) = session(exported(net, tmp_path)).run(None, {"x": x})
        np.testing.assert_allclose(y, net(x), rtol=1e-6, atol=1e-6, err_msg=g.name)


def test_a_model_says_what_it_is_and_takes_any_number_of_rows(tmp_path):
    net = bp.MLP([5, 7, 3], [bp.LeakyReLU(0.1), "softmax"], device="cpu")
    path = exported(net, tmp_path)
    model = onnx.load(path)
    assert model.producer_name == "backprop_gpu"
    assert "5-7-3; leaky_relu(0.1), softmax" in model.doc_string
    names = [tensor.name for tensor in model.graph.initializer]
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias"]
    (x,), (y,) = session(path).get_inputs(), session(path).get_outputs()
    assert (x.name, x.shape, x.type) == ("x", ["n", 5], "tensor(float)")
    assert (y.name, y.shape) == ("y", ["n", 3])


def test_a_runtime_of_some_years_ago_takes_the_model(tmp_path):
    model = onnx.load(exported(network("gelu", "float32"), tmp_path))
    assert model.ir_version <= 8  # onnxruntime 1.12, of 2022
    assert [opset.version <= 17 for opset in model.opset_import] == [True]


def test_one_network_is_one_sequence_of_bytes(tmp_path):
    net = network("gelu", "float32")
    assert exported(net, tmp_path).read_bytes() == exported(net.copy(), tmp_path).read_bytes()


def own(**more):
    return bp.Activation(
        "own", lambda xp, z: z / (1 + xp.abs(z)), lambda xp, a: (1 - xp.abs(a)) ** 2, "a", **more
    )


@pytest.mark.parametrize(
    ("form", "message"),
    [({}, "'own' has no ONNX form; give it one"), ({"onnx": "a = (z"}, "form of.*'own' is wrong")],
)
def test_an_activation_of_ones_own_needs_a_form(form, message, tmp_path):
    net = bp.MLP([2, 3, 1], ["tanh", own(**form)], device="cpu")
    with pytest.raises(bp.DomainError, match=message):
        export_onnx(net, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_an_activation_of_ones_own_with_a_form_is_exported(dtype, tmp_path):
    form = "one = Constant <value = real {1.0}> () b = Abs (z) c = Add (b, one) a = Div (z, c)"
    net = network(own(onnx=form), dtype)
    x = np.random.default_rng(1).normal(size=(5, 5)).astype(dtype)
    (y,) = session(exported(net, tmp_path)).run(["y"], {"x": x})
    np.testing.assert_allclose(y, net(x), rtol=1e-6, atol=1e-6)


def test_a_network_that_diverged_is_refused(tmp_path):
    net = network("tanh", "float32")
    net.weights[0][3, 2] = np.nan
    with pytest.raises(bp.NonFiniteError, match=r"weights\[0\], of layer 1, .*index \(3, 2\): nan"):
        exported(net, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_larger_than_a_file_can_be_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    with pytest.raises(bp.FileFormatError, match=r"parameters take 0.00 GB.*save\(\)"):
        export_onnx(bp.MLP([100, 100], device="cpu"), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_no_network_and_what_is_no_path(tmp_path):
    with pytest.raises(bp.DtypeError, match="net is 'net'; expected an MLP"):
        export_onnx("net", tmp_path / "net.onnx")
    with pytest.raises(bp.DtypeError, match="path is 5; expected a str or a Path"):
        export_onnx(network("tanh", "float32"), 5)
    with pytest.raises(bp.DomainError, match=r"net.pt ends in '.pt'; expected .onnx"):
        export_onnx(network("tanh", "float32"), tmp_path / "net.pt")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(bp.FileFormatError, match="is a folder, not a file"):
        export_onnx(network("tanh", "float32"), tmp_path / "folder.onnx")


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(bp.MissingExtraError, match=r'pip install "backprop-gpu\[onnx\]"'):
        export_onnx(network("tanh", "float32"), tmp_path / "net.onnx")

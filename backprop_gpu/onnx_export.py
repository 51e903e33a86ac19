"""Networks as ONNX models, for runtimes that know nothing of this library.

A layer is a Gemm and what its activation is made of. The weights have the names that they have in
a file of `save`: ``0.weight``, ``0.bias``, ``2.weight``, ...
"""

from __future__ import annotations

import os
import re
from typing import Any

from backprop_gpu.activations import Activation
from backprop_gpu.checks import check_parameters
from backprop_gpu.errors import DomainError, FileFormatError, MissingExtraError
from backprop_gpu.files import checked_path, write_atomically
from backprop_gpu.mlp import MLP, check_network

# The oldest versions that have every operator here: runtimes read what is older than they are.
IR_VERSION, OPSET = 8, 17
# Protocol buffers end at 2 GiB; the graph around the parameters needs far less than 1 MiB.
LARGEST = (1 << 31) - (1 << 20)


def export_onnx(net: MLP, path: str | os.PathLike[str]) -> None:
    """Write a network as an ONNX model (extra ``onnx``).

    The model has one input, x, shape (n, inputs), and one output, y, shape (n, outputs), for any
    n and in the network's dtype. onnxruntime computes softplus and GELU in float32 alone: of a
    float64 network that has them, export ``net.copy(dtype="float32")``.

    Parameters
    ----------
    net : MLP
    path : path
        Ends in .onnx. A file there is replaced: whole, or not at all.

    Raises
    ------
    DomainError
        If an activation has no `onnx`, or one that ONNX does not accept, or the path ends
        otherwise.
    NonFiniteError
        If a parameter is NaN or infinite.
    FileFormatError
        If the path can't be written, or the network is larger than an ONNX file can be.
    """
    check_network(net)
    check_parameters(net)
    path = checked_path(path)
    if path.suffix.lower() != ".onnx":
        raise DomainError(f"{path} ends in {path.suffix!r}; expected .onnx")
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx", "export_onnx") from error
    if net.parameters.nbytes > LARGEST:
        raise FileFormatError(
            f"the network's parameters take {net.parameters.nbytes / 1e9:.2f} GB and an ONNX file "
            "holds 2.1 GB; save() writes a network of any size"
        )
    model = _model(onnx, net)
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, model.SerializeToString())


def _model(onnx: Any, net: MLP) -> Any:
    real = {"float32": "float", "float64": "double"}[net.dtype.name]
    sizes, names = "-".join(map(str, net.layer_sizes)), ", ".join(map(str, net.activations))
    model = onnx.parser.parse_model(
        f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}], producer_name: "backprop_gpu">'
        f"network ({real}[n, {net.layer_sizes[0]}] x) => ({real}[n, {net.layer_sizes[-1]}] y) {{}}"
    )
    model.doc_string = f"A multilayer perceptron: {sizes}; {names}"
    a = "x"
    for l, (W, b, g) in enumerate(net.layers, start=1):
        weight, bias = f"{2 * l - 2}.weight", f"{2 * l - 2}.bias"
        for name, array in ((weight, W), (bias, b)):
            tensor = onnx.numpy_helper.from_array(net.backend.to_numpy(array), name)
            model.graph.initializer.append(tensor)
        z, a_before, a = f"z{l}", a, f"a{l}" if l < len(net.layers) else "y"
        gemm = onnx.helper.make_node("Gemm", [a_before, weight, bias], [z], f"layer{l}", transB=1)
        model.graph.node.append(gemm)
        model.graph.node.extend(_activation(onnx, g, real, {"z": z, "a": a}, f"layer{l}."))
    return model


def _activation(onnx: Any, g: Activation, real: str, names: dict[str, str], prefix: str) -> Any:
    """Return the nodes of a = g(z), z and a named as `names` says and the rest with a prefix."""
    if g.onnx is None:
        raise DomainError(
            f"the activation {g.name!r} has no ONNX form; give it one: "
            "Activation(..., onnx='a = Softsign (z)'), say. save() needs none"
        )
    form = re.sub(r"\breal\b", real, g.onnx)
    try:
        nodes = onnx.parser.parse_graph(f"g ({real}[n, m] z) => ({real}[n, m] a) {{ {form} }}").node
    except onnx.parser.ParseError as error:
        raise DomainError(f"the ONNX form of {g.name!r} is wrong: {error}") from error
    for node in nodes:
        node.input[:] = [names.get(name, prefix + name) for name in node.input]
        node.output[:] = [names.get(name, prefix + name) for name in node.output]
    return nodes

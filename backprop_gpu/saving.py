"""Saved networks: one safetensors file, written whole or not at all, with nothing to execute.

The weights are named as in PyTorch's ``nn.Sequential(Linear, activation, Linear, ...)``:
``0.weight``, ``0.bias``, ``2.weight``, ... Sizes and activations are in the file's metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import ACTIVATIONS, Activation, find_activation, is_registered
from backprop_gpu.arrays import numeric, to_cpu
from backprop_gpu.backends import Backend, choose_backend
from backprop_gpu.checks import check_parameters
from backprop_gpu.errors import (
    DomainError,
    DtypeError,
    FileFormatError,
    MissingExtraError,
    ShapeError,
    UnknownNameError,
)
from backprop_gpu.files import check_readable, checked_path, write_atomically
from backprop_gpu.mlp import MLP, check_network

FORMAT = "backprop_gpu/1"
EXTRA = "extra."

# Names that end so promise what the file isn't.
OTHER_FORMATS = (
    *(".npy", ".npz", ".pkl", ".pickle", ".joblib", ".pt", ".pth"),
    *(".h5", ".hdf5", ".keras", ".onnx", ".json", ".csv", ".parquet"),
)


@dataclass(frozen=True, eq=False)
class SavedNetwork:
    """What is in a file.

    Attributes
    ----------
    net : MLP
    notes : dict
        What `save` was given as `notes`.
    arrays : dict of ndarray
        What `save` was given as `arrays`.
    """

    net: MLP
    notes: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def save(
    net: MLP,
    path: str | os.PathLike[str],
    *,
    notes: Mapping[str, Any] | None = None,
    arrays: Mapping[str, Any] | None = None,
) -> None:
    """Save a network to a safetensors file (extra ``io``).

    The file appears whole or not at all: it is written beside its place, flushed to the disk, and
    moved there.

    Parameters
    ----------
    net : MLP
    path : path
        Ends in .safetensors, or as you like, but not as another format does. A file there is
        replaced; anything that is not a regular file is left alone.
    notes : mapping, optional
        What JSON can hold, kept in the file's metadata: class names, say.
    arrays : mapping, optional
        More arrays to keep: the means and scales of the inputs, say.

    Raises
    ------
    DomainError
        If the path ends as another format does.
    NonFiniteError
        If a parameter is NaN or infinite: `load` would refuse the file.
    FileFormatError
        If the path can't be written.
    """
    check_network(net)
    check_parameters(net)
    path = checked_path(path)
    if path.suffix.lower() in OTHER_FORMATS:
        onnx = "; export_onnx writes .onnx" * (path.suffix.lower() == ".onnx")
        raise DomainError(
            f"{path} ends in {path.suffix!r}, and save writes safetensors; call it "
            f"{path.with_suffix('.safetensors')}{onnx}"
        )
    tensors = _safetensors()
    for g in net.activations:
        if g.name in ACTIVATIONS and not is_registered(g):
            raise DomainError(
                f"the activation {g.name!r} is not the registered one of this name, which load "
                "would take for it; give it a name of its own"
            )
    to_numpy = net.backend.to_numpy
    values = {}
    for i, (W, b, _) in enumerate(net.layers):
        values[f"{2 * i}.weight"] = np.ascontiguousarray(to_numpy(W))
        values[f"{2 * i}.bias"] = np.ascontiguousarray(to_numpy(b))
    if arrays is not None and not isinstance(arrays, Mapping):
        raise DtypeError(f"arrays is {arrays!r:.80}; expected a dict of arrays")
    for name, array in (arrays or {}).items():
        array = np.asarray(to_cpu(numeric(array, f"arrays[{name!r}]")))
        values[EXTRA + name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    metadata = {
        "format": FORMAT,
        "layer_sizes": json.dumps(net.layer_sizes),
        "activations": json.dumps([[g.name, dict(g.parameters)] for g in net.activations]),
        "dtype": net.dtype.name,
        "notes": _as_json({} if notes is None else notes),
    }
    metadata["sha256"] = checksum(metadata, values)
    write_atomically(path, tensors.numpy.save(values, metadata))


def _as_json(notes: Mapping[str, Any]) -> str:
    if not isinstance(notes, Mapping):
        raise DtypeError(f"notes is {notes!r:.80}; expected a dict of what JSON can hold")
    try:
        return json.dumps(dict(notes))
    except (TypeError, ValueError, RecursionError) as error:
        raise DtypeError(f"notes holds what JSON can't ({error}); arrays go into arrays") from error


def checksum(metadata: Mapping[str, str], values: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of everything in a file but itself."""
    digest = hashlib.sha256()
    for name, text in sorted(metadata.items()):
        if name != "sha256":
            digest.update(f"{name}={text!r};".encode())
    for name, array in sorted(values.items()):
        digest.update(f"{name}:{array.dtype.str}{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def load(path: str | os.PathLike[str], *, device: str | Backend = "auto") -> MLP:
    """Return the network in a file that `save` wrote, on any device; see `read`."""
    return read(path, device=device).net


def read(
    path: str | os.PathLike[str],
    *,
    device: str | Backend = "auto",
    activations: Sequence[Activation] = (),
) -> SavedNetwork:
    """Return the network in a file that `save` wrote, with its notes and further arrays.

    Parameters
    ----------
    path, device
        As of `load`.
    activations : sequence of Activation
        Taken by their names, whether they are registered or not.

    Raises
    ------
    FileFormatError
        If there is no such file, or it is torn, or not a network, or from a newer version.
    UnknownNameError
        If the network has an activation that is not registered here.
    """
    tensors = _safetensors()
    path = checked_path(path)
    check_readable(path, "; expected a network that save() wrote")
    try:
        with tensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # whatever the library that reads it raises
        raise FileFormatError(
            f"{path} can't be read as a safetensors file ({error!s:.200}); it is torn, or "
            "something else"
        ) from error
    if metadata.get("format") != FORMAT:
        raise FileFormatError(
            f"{path} was not written by this version's save: its format is "
            f"{metadata.get('format')!r:.80}, and expected is {FORMAT!r}"
        )
    if metadata.get("sha256") != checksum(metadata, values):
        raise FileFormatError(
            f"{path} is damaged: its content does not have the checksum that it was saved with"
        )
    backend, reason = choose_backend(device)
    try:
        saved = _assemble(metadata, values, backend, activations)
        saved.net.device_reason = reason
        return saved
    except UnknownNameError as error:
        kind, name, known, _ = error.arguments
        remedy = f". {path} needs it: call register_activation before load"
        raise UnknownNameError(kind, name, known, remedy) from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise FileFormatError(
            f"{path} does not describe a network ({type(error).__name__}: {error!s:.200})"
        ) from error


def _activation(name: str, parameters: Mapping[str, Any], own: Sequence[Activation]) -> Activation:
    for g in own:
        if (g.name, dict(g.parameters)) == (name, parameters):
            return g
    return find_activation(name, parameters)


def _assemble(
    metadata: Mapping[str, str],
    values: Mapping[str, NDArray[Any]],
    backend: Backend,
    own: Sequence[Activation],
) -> SavedNetwork:
    sizes = json.loads(metadata["layer_sizes"])
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = [values[f"{2 * i}.weight"] for i in range(len(shapes))]
    biases = [values[f"{2 * i}.bias"] for i in range(len(shapes))]
    for W, b, shape in zip(weights, biases, shapes, strict=True):
        if W.shape != shape or b.shape != shape[:1]:  # before anything as large is allocated
            raise ShapeError(
                f"layer_sizes {sizes} do not fit weights of shape {W.shape} and biases {b.shape}"
            )
    activations = [
        _activation(name, parameters, own)
        for name, parameters in json.loads(metadata["activations"])
    ]
    notes = json.loads(metadata["notes"])
    if not isinstance(notes, dict):
        raise DtypeError("its notes are no dict")
    net = MLP(sizes, activations, device=backend, dtype=metadata["dtype"])
    net.set_parameters(weights, biases)
    arrays = {k.removeprefix(EXTRA): v for k, v in values.items() if k.startswith(EXTRA)}
    return SavedNetwork(net, notes, arrays)


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise MissingExtraError("safetensors", "io", "saving and loading networks") from error
    return safetensors

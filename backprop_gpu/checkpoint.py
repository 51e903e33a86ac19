"""Saved networks: one safetensors file, written whole or not at all, with nothing to execute.

The weights are named as in PyTorch's ``nn.Sequential(Linear, activation, Linear, ...)``:
``0.weight``, ``0.bias``, ``2.weight``, ... Sizes and activations are in the file's metadata.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import find_activation
from backprop_gpu.backends import Backend
from backprop_gpu.errors import FileFormatError, MissingExtraError
from backprop_gpu.mlp import MLP

FORMAT = "backprop_gpu/1"


@dataclass(frozen=True)
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
    notes: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


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
        A file there is replaced; anything that is not a regular file is left alone.
    notes : mapping, optional
        What JSON can hold, kept in the file's metadata: class names, say.
    arrays : mapping, optional
        More arrays to keep: the means and scales of the inputs, say.

    Raises
    ------
    FileFormatError
        If the path can't be written.
    """
    tensors = _safetensors()
    to_numpy = net.backend.to_numpy
    values = {}
    for i, (W, b, _) in enumerate(net.layers):
        values[f"{2 * i}.weight"] = np.ascontiguousarray(to_numpy(W))
        values[f"{2 * i}.bias"] = np.ascontiguousarray(to_numpy(b))
    for name, array in (arrays or {}).items():
        values[f"extra.{name}"] = np.ascontiguousarray(array)
    metadata = {
        "format": FORMAT,
        "layer_sizes": json.dumps(net.layer_sizes),
        "activations": json.dumps([[g.name, dict(g.parameters)] for g in net.activations]),
        "dtype": net.dtype.name,
        "notes": json.dumps(dict(notes or {})),
    }
    write_atomically(Path(path), tensors.numpy.save(values, metadata))


def load(path: str | os.PathLike[str], *, device: str | Backend = "auto") -> MLP:
    """Return the network in a file that `save` wrote, on any device; see `read`."""
    return read(path, device=device).net


def read(path: str | os.PathLike[str], *, device: str | Backend = "auto") -> SavedNetwork:
    """Return the network in a file that `save` wrote, with its notes and further arrays.

    Raises
    ------
    FileFormatError
        If there is no such file, or it is torn, or not a network, or from a newer version.
    UnknownNameError
        If the network has an activation that is not registered here.
    """
    tensors = _safetensors()
    path = Path(path)
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise FileFormatError(f"{path} {what}; expected a network that save() wrote")
    try:
        with tensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, tensors.SafetensorError, ValueError, TypeError) as error:
        raise FileFormatError(
            f"{path} can't be read as a safetensors file ({error}); it is torn or something else"
        ) from error
    if metadata.get("format") != FORMAT:
        raise FileFormatError(
            f"{path} says its format is {metadata.get('format')!r}; this version reads {FORMAT!r}"
        )
    try:
        return _assemble(metadata, values, device)
    except (KeyError, IndexError, AttributeError, json.JSONDecodeError) as error:
        raise FileFormatError(f"{path} does not describe a network ({error!r})") from error
    except TypeError as error:
        raise FileFormatError(f"{path} does not describe a network ({error})") from error


def _assemble(
    metadata: Mapping[str, str], values: Mapping[str, NDArray[Any]], device: str | Backend
) -> SavedNetwork:
    activations = [
        find_activation(name, parameters)
        for name, parameters in json.loads(metadata["activations"])
    ]
    sizes = json.loads(metadata["layer_sizes"])
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = [values[f"{2 * i}.weight"] for i in range(len(shapes))]
    biases = [values[f"{2 * i}.bias"] for i in range(len(shapes))]
    for W, b, shape in zip(weights, biases, shapes, strict=True):
        if W.shape != shape or b.shape != shape[:1]:  # before anything as large is allocated
            raise FileFormatError(
                f"layer_sizes {sizes} do not fit weights of shape {W.shape} and biases {b.shape}"
            )
    net = MLP(sizes, activations, device=device, dtype=metadata["dtype"])
    net.set_parameters(weights, biases)
    notes = json.loads(metadata["notes"])
    prefix = "extra."
    arrays = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    return SavedNetwork(net, notes, arrays)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or, whatever happens, as it was before."""
    if path.exists() and not path.is_file():
        raise FileFormatError(f"{path} is not a regular file; it is left alone")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise FileFormatError(f"{path} can't be written: {error}") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as error:
        raise FileFormatError(f"{path} can't be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # so that the new name survives a power cut, too
    finally:
        os.close(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise MissingExtraError("safetensors", "io", "saving and loading networks") from error
    return safetensors

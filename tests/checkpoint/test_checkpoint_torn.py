"""Files that are no saved networks: nothing in a file is trusted."""

import json
import os
import pickle
import struct

import numpy as np
import pytest
from saved_networks import NOTES, SIZES, network

import backprop_gpu as bp
from backprop_gpu.saving import checksum

safetensors = pytest.importorskip("safetensors.numpy")

METADATA = {
    "format": "backprop_gpu/1",
    "layer_sizes": "[3, 4, 2]",
    "activations": '[["tanh", {}], ["leaky_relu", {"leak": 0.3}]]',
    "dtype": "float32",
    "notes": "{}",
}


def write(path, metadata=METADATA, **changed):
    """Write a file with other metadata or tensors than those of a network 3-4-2."""
    shapes = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}
    tensors = {name: np.ones(shape, "float32") for name, shape in shapes.items()} | changed
    tensors = {name: array for name, array in tensors.items() if array is not None}
    metadata = metadata | {"sha256": checksum(metadata, tensors)}
    path.write_bytes(safetensors.save(tensors, metadata))


def test_torn_files(path):
    bp.save(network(), path, notes=NOTES, arrays={"means": np.ones(3)})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(bp.FileFormatError, match="torn") as error:
            bp.load(path, device="cpu")
        assert str(path) in str(error.value)
    path.write_bytes(whole + b"\0")
    with pytest.raises(bp.FileFormatError):
        bp.load(path, device="cpu")


def test_flipped_bits_in_the_header(path):
    bp.save(network(), path)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    bits_tried, refused = range(0, 8 * header, 7), 0
    for bit in bits_tried:
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            net = bp.load(path, device="cpu")
        except (bp.FileFormatError, bp.UnknownNameError) as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        else:  # a space for a tab, say
            assert net.layer_sizes == SIZES
    assert refused > 0.9 * len(bits_tried)


def test_flipped_bits_in_the_numbers(path):
    bp.save(network(), path, arrays={"means": np.ones(3)})
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for bit in range(8 * header, 8 * len(whole), 5):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(bp.FileFormatError, match=r"damaged.*checksum"):
            bp.load(path, device="cpu")


def test_without_a_checksum(path):
    tensors = {"0.weight": np.ones((4, 3)), "0.bias": np.ones(4)}
    path.write_bytes(safetensors.save(tensors, METADATA))
    with pytest.raises(bp.FileFormatError, match="checksum"):
        bp.load(path, device="cpu")


def test_flipped_bits_in_lengths_and_offsets_allocate_nothing(path):
    header = b'{"0.weight":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(bp.FileFormatError):
        bp.load(path, device="cpu")
    path.write_bytes(struct.pack("<Q", 2**63) + header)
    with pytest.raises(bp.FileFormatError):
        bp.load(path, device="cpu")


LIES = {
    "no format": ("format", None, "format"),
    "another version": ("format", "backprop_gpu/2", "'backprop_gpu/2'.*'backprop_gpu/1'"),
    "another library's": ("format", "pt", "'pt'"),
    "no sizes": ("layer_sizes", None, "layer_sizes"),
    "no activations": ("activations", None, "activations"),
    "no dtype": ("dtype", None, "dtype"),
    "no notes": ("notes", None, "notes"),
    "sizes not JSON": ("layer_sizes", "[3, 4", None),
    "sizes a number": ("layer_sizes", "3", None),
    "sizes a text": ("layer_sizes", '"342"', None),
    "sizes an object": ("layer_sizes", '{"3": 4}', None),
    "sizes empty": ("layer_sizes", "[]", None),
    "sizes fractional": ("layer_sizes", "[3.0, 4.0, 2.0]", None),
    "sizes null": ("layer_sizes", "[3, null, 2]", None),
    "sizes too few": ("layer_sizes", "[3, 4]", None),
    "sizes too many": ("layer_sizes", "[3, 4, 2, 2]", None),
    "sizes huge": ("layer_sizes", "[3, 1000000000000, 2]", None),
    "inputs without end": ("layer_sizes", "[1000000000000, 4, 2]", None),
    "sizes with endless digits": ("layer_sizes", "1" * 5000, None),
    "sizes nested endlessly": ("layer_sizes", "[" * 100_000, None),
    "sizes negative": ("layer_sizes", "[3, -4, 2]", None),
    "activations a number": ("activations", "5", None),
    "activations numbers": ("activations", "[5, 5]", None),
    "activations short": ("activations", '[["tanh"], ["tanh"]]', None),
    "activations too few": ("activations", '[["tanh", {}]]', None),
    "activations unhashable": ("activations", '[[["tanh"], {}], ["tanh", {}]]', None),
    "activations code": ("activations", '[["__import__", {}], ["eval", {}]]', "__import__"),
    "parameters a number": ("activations", '[["leaky_relu", 5], ["tanh", {}]]', None),
    "parameters unknown": ("activations", '[["tanh", {"leak": 1}], ["tanh", {}]]', None),
    "parameters text": ("activations", '[["leaky_relu", {"leak": "1"}], ["tanh", {}]]', "leak"),
    "parameters NaN": ("activations", '[["leaky_relu", {"leak": NaN}], ["tanh", {}]]', "leak"),
    "dtype half": ("dtype", "float16", "float16"),
    "dtype unreadable": ("dtype", "(1,", None),
    "notes not JSON": ("notes", "{", None),
    "notes a list": ("notes", "[1]", None),
}


@pytest.mark.parametrize("lie", LIES)
def test_metadata_that_lies(path, lie):
    key, value, message = LIES[lie]
    changed = {k: v for k, v in (METADATA | {key: value}).items() if v is not None}
    write(path, changed)
    with pytest.raises((bp.FileFormatError, bp.UnknownNameError), match=message) as error:
        bp.load(path, device="cpu")
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000


TENSORS = {
    "missing": None,
    "transposed": np.ones((3, 4), "float32"),
    "flat": np.ones(12, "float32"),
    "scalar": np.array(1.0),
    "NaN": np.full((4, 3), np.nan),
    "complex": np.ones((4, 3), "complex64"),
    "too large for float32": np.full((4, 3), 1e300),
}


@pytest.mark.parametrize("tensor", TENSORS)
def test_tensors_that_do_not_fit(path, tensor):
    write(path)
    bp.load(path, device="cpu")
    write(path, **{"0.weight": TENSORS[tensor]})
    with pytest.raises((bp.FileFormatError, bp.NonFiniteError)) as error:
        bp.load(path, device="cpu")
    assert str(path) in str(error.value)


def test_other_files(path, tmp_path):
    contents = {
        "empty": b"",
        "text": b"weights: none\n",
        "zeros": b"\0" * 4096,
        "pickle": pickle.dumps({"0.weight": [1.0]}),
        "JSON": json.dumps(METADATA).encode(),
        "safetensors without metadata": safetensors.save({"a": np.ones(3)}),
        "safetensors of PyTorch": safetensors.save({"0.weight": np.ones(3)}, {"format": "pt"}),
    }
    for content in contents.values():
        path.write_bytes(content)
        with pytest.raises(bp.FileFormatError) as error:
            bp.load(path, device="cpu")
        assert str(path) in str(error.value)


class Trap:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRAP"],)


def test_nothing_in_a_file_is_executed(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    trap = pickle.dumps(Trap())
    header = b'{"0.weight":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
    header %= (len(trap), len(trap))
    for content in (trap, struct.pack("<Q", len(header)) + header + trap):
        path.write_bytes(content)
        with pytest.raises(bp.FileFormatError):
            bp.load(path, device="cpu")
    with pytest.raises((ValueError, TypeError)):
        bp.save(network(), path, arrays={"trap": np.array([Trap()], dtype=object)})
    assert not (tmp_path / "sprung").exists()

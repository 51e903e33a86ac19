"""Saved networks: exact, whole or not at all, and nothing in a file is trusted."""

import errno
import json
import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.checkpoint import read

safetensors = pytest.importorskip("safetensors.numpy")

SIZES = (3, 4, 2)
METADATA = {
    "format": "backprop_gpu/1",
    "layer_sizes": "[3, 4, 2]",
    "activations": '[["tanh", {}], ["leaky_relu", {"leak": 0.3}]]',
    "dtype": "float32",
    "notes": "{}",
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture
def registered():
    """Register activations for one test."""
    names = []

    def register(activation):
        names.append(activation.name)
        return bp.register_activation(activation)

    yield register
    for name in names:
        ACTIVATIONS.pop(name, None)


def network(g=("tanh", "identity"), dtype="float32", device="cpu", sizes=SIZES):
    net = bp.MLP(sizes, list(g), device=device, dtype=dtype, seed=1)
    rng = np.random.default_rng(2)
    net.set_parameters(
        [rng.normal(size=W.shape) for W in net.weights],
        [rng.normal(size=b.shape) for b in net.biases],
    )
    return net


def bits(net):
    return net.backend.to_numpy(net.parameters).tobytes()


def write(path, metadata=METADATA, **changed):
    """Write a file with other metadata or tensors than those of a network 3-4-2."""
    shapes = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}
    tensors = {name: np.ones(shape, "float32") for name, shape in shapes.items()} | changed
    tensors = {name: array for name, array in tensors.items() if array is not None}
    path.write_bytes(safetensors.save(tensors, metadata))


# ---- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "g",
    [*sorted(ACTIVATIONS), *(bp.LeakyReLU(leak) for leak in (0.3, 0, 1e-300, 7, -0.5))],
    ids=str,
)
def test_round_trip(g, backend, dtype, path):
    net = network([g, g], dtype, backend)
    bp.save(net, path)
    for place in (path, str(path)):
        loaded = bp.load(place, device=backend)
        assert bits(loaded) == bits(net)
        assert (loaded.layer_sizes, loaded.dtype) == (net.layer_sizes, net.dtype)
        assert [g.name for g in loaded.activations] == [g.name for g in net.activations]
        assert [g.parameters for g in loaded.activations] == [g.parameters for g in net.activations]
        x = np.random.default_rng(3).normal(size=(5, 3))
        assert loaded(x).tobytes() == net(x).tobytes()


@pytest.mark.parametrize("sizes", [(1, 1), (1, 7), (3, 1, 1, 1, 2)])
def test_round_trip_of_every_depth(sizes, path):
    net = network(["tanh"] * (len(sizes) - 1), sizes=sizes)
    bp.save(net, path)
    assert bits(bp.load(path, device="cpu")) == bits(net)


def test_extreme_values_survive(path):
    net = network(dtype="float64")
    tiny, huge = np.finfo("float64").smallest_subnormal, np.finfo("float64").max
    net.weights[0][0] = [-0.0, tiny, -huge]
    bp.save(net, path)
    assert bits(bp.load(path, device="cpu")) == bits(net)


NOTES = {"classes": ["a", "ü", "\0"], "number": 0.1, "none": None, "nested": {"x": [1, [True]]}}
ARRAYS = {
    "means": np.array([0.1, -2.5]),
    "scalar": np.float64(0.25),
    "empty": np.zeros((0, 3), "float32"),
    "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "every other": np.arange(10)[::2],
    "big-endian": np.arange(3, dtype=">f8"),
    **{kind: np.ones((2, 2), kind) for kind in ("bool", "int8", "uint64", "float16", "float32")},
    "0.weight": np.array([7.0]),  # as a layer's
}


def test_notes_and_arrays(path):
    net = network()
    bp.save(net, path, notes=NOTES, arrays=ARRAYS)
    saved = read(path, device="cpu")
    assert bits(saved.net) == bits(net)
    assert saved.notes == NOTES
    assert set(saved.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(saved.arrays[name], array, strict=name != "big-endian")


def test_without_notes_and_arrays(path):
    bp.save(network(), path)
    saved = read(path, device="cpu")
    assert (saved.notes, saved.arrays) == ({}, {})


def test_names_are_those_of_a_pytorch_sequential(path):
    net = network(["relu", "tanh", "identity"], sizes=(3, 4, 5, 2))
    bp.save(net, path)
    tensors = safetensors.load_file(path)
    assert set(tensors) == {f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")}
    for i, (W, b, _) in enumerate(net.layers):
        np.testing.assert_array_equal(tensors[f"{2 * i}.weight"], W)
        np.testing.assert_array_equal(tensors[f"{2 * i}.bias"], b)


def test_a_trained_network_goes_on_where_it_was(path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    net = network()
    bp.train(net, x, y, epochs=3)
    bp.save(net, path)
    loaded = bp.load(path, device="cpu")
    assert bp.train(loaded, x, y, epochs=3).loss == bp.train(net, x, y, epochs=3).loss


# ---- activations of one's own --------------------------------------------------------------------


def own(**parameters):
    return bp.Activation("own", lambda xp, z: 2 * z, lambda xp, a: 0 * a + 2, "a", **parameters)


@pytest.mark.parametrize("parameters", [{}, {"beta": 2.0}])
def test_an_activation_of_ones_own(path, registered, parameters):
    g = registered(own(parameters=parameters))
    bp.save(network([g, "tanh"]), path)
    assert bp.load(path, device="cpu").activations[0] is g


def test_an_activation_that_is_not_registered_here(path):
    bp.save(network([own(), "tanh"]), path)
    with pytest.raises(bp.UnknownNameError, match="unknown activation 'own'") as error:
        bp.load(path, device="cpu")
    assert "register_activation" in str(error.value)  # what to do


def test_an_activation_that_only_has_the_name_of_a_built_in_one(path):
    impostor = bp.Activation("sigmoid", lambda xp, z: 2 * z, lambda xp, a: 0 * a + 2, "a")
    with pytest.raises((ValueError, TypeError), match="sigmoid"):  # it would load as the other
        bp.save(network(["tanh", impostor]), path)
    assert not path.exists()


def test_parameters_that_the_registered_activation_does_not_have(path, registered):
    bp.save(network([own(parameters={"beta": 2.0}), "tanh"]), path)
    registered(own(parameters={"beta": 3.0}))
    with pytest.raises((bp.FileFormatError, bp.UnknownNameError), match="own"):
        bp.load(path, device="cpu")


# ---- files that are not what they should be ------------------------------------------------------


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


# ---- places --------------------------------------------------------------------------------------


@pytest.fixture(params=["missing", "folder", "FIFO", "device", "link to nothing", "name too long"])
def no_file(request, tmp_path):
    place = tmp_path / "place"
    match request.param:
        case "folder":
            place.mkdir()
        case "FIFO":
            os.mkfifo(place)
        case "device":
            place = Path(os.devnull)
        case "link to nothing":
            place.symlink_to(tmp_path / "nothing")
        case "name too long":
            place = tmp_path / ("a" * 300)
    return place


def test_loading_what_is_no_file(no_file):
    with pytest.raises(bp.FileFormatError) as error:
        bp.load(no_file, device="cpu")
    assert str(no_file) in str(error.value)


@pytest.mark.parametrize("no_file", ["folder", "FIFO", "device", "name too long"], indirect=True)
def test_saving_leaves_what_is_no_file_alone(no_file, tmp_path):
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(bp.FileFormatError) as error:
        bp.save(network(), no_file)
    assert str(no_file) in str(error.value)
    assert sorted(os.listdir(tmp_path)) == before
    assert not os.path.isfile(no_file)


def test_saving_into_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(bp.FileFormatError, match="No such file or directory"):
        bp.save(network(), tmp_path / "no" / "net")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("exists", [False, True])
def test_saving_through_a_link_keeps_the_link(tmp_path, exists):
    target, link = tmp_path / "target", tmp_path / "link"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to(target)
    bp.save(network(), link)
    assert link.is_symlink()
    assert bits(bp.load(target, device="cpu")) == bits(network())
    assert sorted(os.listdir(tmp_path)) == ["link", "target"]


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "-rf", " ", "a b.c", "%s{}*?"])
def test_every_valid_name_will_do(tmp_path, name):
    bp.save(network(), tmp_path / name)
    bp.load(tmp_path / name, device="cpu")
    assert os.listdir(tmp_path) == [name]


def test_a_name_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bp.save(network(), "net")
    assert bits(bp.load("net", device="cpu")) == bits(network())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_without_permission(path, tmp_path):
    bp.save(network(), path)
    path.chmod(0)
    with pytest.raises(bp.FileFormatError, match="ermission"):
        bp.load(path, device="cpu")
    tmp_path.chmod(0o500)
    with pytest.raises(bp.FileFormatError, match="ermission"):
        bp.save(network(), tmp_path / "other")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o000])
def test_the_umask_decides_a_new_files_mode(path, mask):
    before = os.umask(mask)
    try:
        bp.save(network(), path)
        assert os.umask(mask) == mask  # as it was
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_replaced_file_keeps_its_mode(path, mode):
    path.write_bytes(b"old")
    path.chmod(mode)
    bp.save(network(), path)
    assert path.stat().st_mode & 0o777 == mode


# ---- whole or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["os.fsync", "os.chmod", "os.replace"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_write_that_fails_changes_nothing(path, tmp_path, monkeypatch, step, kind, old):
    if old:
        path.write_bytes(old)

    def fail(*args, **options):
        raise kind(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(step, fail)
    expected = bp.FileFormatError if kind is OSError else KeyboardInterrupt
    with pytest.raises(expected, match=os.strerror(errno.ENOSPC)) as error:
        bp.save(network(), path)
    assert kind is not OSError or str(path) in str(error.value)
    assert os.listdir(tmp_path) == ([path.name] if old else [])
    assert old is None or path.read_bytes() == old


def test_a_disk_that_is_full_in_the_middle_of_a_write(path, tmp_path):
    resource = pytest.importorskip("resource")
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(bp.FileFormatError, match=os.strerror(errno.EFBIG)):
            bp.save(network(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_can_not_be_flushed_does_no_harm(path, monkeypatch):
    def fsync_of_files_only(handle, fsync=os.fsync):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(handle)

    monkeypatch.setattr("os.fsync", fsync_of_files_only)
    bp.save(network(), path)
    assert bits(bp.load(path, device="cpu")) == bits(network())


UNSAVEABLE = {
    "an object in notes": {"notes": {"a": object()}},
    "an array in notes": {"notes": {"a": np.ones(2)}},
    "a number for notes": {"notes": 5},
    "an array of objects": {"arrays": {"a": np.array([None])}},
    "an array of text": {"arrays": {"a": np.array(["text"])}},
    "an array of dates": {"arrays": {"a": np.array(["2020-01-01"], "datetime64[D]")}},
    "a ragged list": {"arrays": {"a": [[1], [1, 2]]}},
    "a list for arrays": {"arrays": [np.ones(2)]},
}


@pytest.mark.parametrize("what", UNSAVEABLE)
def test_what_can_not_be_saved_changes_nothing(path, tmp_path, what):
    path.write_bytes(b"old")
    (argument,) = UNSAVEABLE[what]
    with pytest.raises((ValueError, TypeError), match=argument):
        bp.save(network(), path, **UNSAVEABLE[what])
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def test_without_safetensors(path, tmp_path, monkeypatch):
    bp.save(network(), path)
    before = path.read_bytes()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    remedy = r'safetensors.*pip install "backprop-gpu\[io\]"'
    with pytest.raises(bp.MissingExtraError, match=remedy):
        bp.load(path, device="cpu")
    with pytest.raises(bp.MissingExtraError, match=remedy):
        bp.save(network(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]

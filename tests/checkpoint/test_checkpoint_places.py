"""Saved networks are there whole or not at all, wherever that is."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from saved_networks import bits, network

import backprop_gpu as bp

# ---- places --------------------------------------------------------------------------------------


NO_FILES = ["missing", "folder", "FIFO", "device", "link to nothing", "name too long", "null byte"]


@pytest.fixture(params=NO_FILES)
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
        case "null byte":
            place = tmp_path / "a\0b"
    return place


def test_loading_what_is_no_file(no_file):
    with pytest.raises(bp.FileFormatError) as error:
        bp.load(no_file, device="cpu")
    assert str(no_file) in str(error.value)


@pytest.mark.parametrize("path", [None, 3, network()], ids=["None", "number", "network"])
def test_what_is_no_path(path):
    for call in (lambda: bp.load(path), lambda: bp.save(network(), path)):
        with pytest.raises(bp.DtypeError, match=r"path is .*; expected a str or a Path"):
            call()


@pytest.mark.parametrize("no_file", ["folder", "FIFO", "device", "name too long"], indirect=True)
def test_saving_leaves_what_is_no_file_alone(no_file, tmp_path):
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(bp.FileFormatError) as error:
        bp.save(network(), no_file)
    assert str(no_file) in str(error.value)
    assert sorted(os.listdir(tmp_path)) == before
    assert not os.path.isfile(no_file)


def test_saving_into_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(bp.FileFormatError, match=r"there is no folder .*no$"):
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


@pytest.mark.parametrize("name", ["net.npz", "net.v2.PT", "net.onnx"])
def test_a_name_that_promises_another_format_is_refused(tmp_path, name):
    with pytest.raises(bp.DomainError, match=r"call it .*net.*\.safetensors") as error:
        bp.save(network(), tmp_path / name)
    assert ("export_onnx writes .onnx" in str(error.value)) == (name == "net.onnx")
    assert os.listdir(tmp_path) == []


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

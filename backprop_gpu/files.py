"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backprop_gpu.errors import DtypeError, FileFormatError, brief


def checked_path(path: object, name: str = "path") -> Path:
    """Return `path` as a Path; raise DtypeError if it is something else."""
    if not isinstance(path, str | os.PathLike):
        raise DtypeError(f"{name} is {brief(path)}; expected a str or a Path")
    return Path(path)


def check_readable(path: Path, hint: str = "") -> None:
    """Raise FileFormatError unless there is such a file, which may be read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):  # to open a pipe could take forever
            path.open("rb").close()
            return
    except (FileNotFoundError, ValueError) as error:  # no file's name has a null byte in it
        raise FileFormatError(f"{path} does not exist{hint}") from error
    except OSError as error:
        raise FileFormatError(f"{path} can't be read: {error.strerror or error}") from error
    what = "a folder, not a file" if stat.S_ISDIR(mode) else "not a file"
    raise FileFormatError(f"{path} is {what}{hint}")


def check_writable(path: Path) -> None:
    """Raise FileFormatError unless a file can be written there, or replaced."""
    with _writing(path) as place, tempfile.TemporaryFile(dir=place.parent):
        pass


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or, whatever happens, as it was before.

    The content is written beside its place, flushed to the disk, and moved there. A link stays
    a link. What is not a regular file is left alone.

    Raises
    ------
    FileFormatError
        If the path can't be written.
    """
    with _writing(path) as place:
        mode = place.stat().st_mode & 0o777 if place.exists() else 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(prefix=".saving-", dir=place.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).replace(place)
        finally:
            Path(name).unlink(missing_ok=True)
    with suppress(OSError):  # so that the new name survives a power cut; not every disk can
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Yield the place of a file that is to be written, behind links; say why it can't be."""
    place = Path(os.path.realpath(path))
    try:
        if place.is_dir():
            raise FileFormatError(f"{path} is a folder, not a file; it is left alone")
        if place.exists() and not place.is_file():
            raise FileFormatError(f"{path} is not a regular file; it is left alone")
        yield place
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileFormatError(
            f"{path} can't be written: there is no folder {place.parent}"
        ) from error
    except OSError as error:
        raise FileFormatError(f"{path} can't be written: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from backprop_gpu.errors import DtypeError, FileFormatError, brief


def checked_path(path: object, name: str = "path") -> Path:
    """Return `path` as a Path; raise DtypeError if it is something else."""
    if not isinstance(path, str | os.PathLike):
        raise DtypeError(f"{name} is {brief(path)}; expected a str or a Path")
    return Path(path)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or, whatever happens, as it was before.

    The content is written beside its place, flushed to the disk, and moved there. A link stays
    a link. What is not a regular file is left alone.

    Raises
    ------
    FileFormatError
        If the path can't be written.
    """
    try:
        place = Path(os.path.realpath(path))
        if place.exists() and not place.is_file():
            raise FileFormatError(f"{path} is not a regular file; it is left alone")
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
    except OSError as error:
        raise FileFormatError(f"{path} can't be written: {error.strerror or error}") from error
    with suppress(OSError):  # so that the new name survives a power cut; not every disk can
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

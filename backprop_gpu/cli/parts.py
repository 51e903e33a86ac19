"""What the commands are made of: types of options, examples, and one line for every failure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from backprop_gpu.errors import (
    DeviceError,
    DomainError,
    DtypeError,
    FileFormatError,
    GradientError,
    MissingExtraError,
    NonFiniteError,
    OutOfMemoryError,
    ShapeError,
    UnknownNameError,
)
from backprop_gpu.training.history import TrainingDiverged

EXIT_CODES = """\b
Exit codes:
  0    all went well
  1    the data, a file, or something that is not installed
  2    the command or its options
  3    the training diverged, or numbers that have to agree do not
  4    the device can't be used
  130  interrupted (Ctrl-C)
"""

CODES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...] = (
    ((TrainingDiverged, GradientError), 3),
    (DeviceError, 4),
    ((DomainError, UnknownNameError), 2),
    ((FileFormatError, ShapeError, DtypeError, NonFiniteError, MissingExtraError, OSError), 1),
)

FILE = click.Path(path_type=Path, readable=False)  # what reads it says why it can't


class Failure(click.ClickException):
    """An end with a message of one line and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


class Commands(click.Group):
    """A group whose commands end with one line in place of a traceback."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with failures():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with failures():
            return super().invoke(ctx)


@contextmanager
def failures() -> Iterator[None]:
    """Turn what users can cause into a Failure; anything else is a defect, and is left alone."""
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError" or error.ctx is None:
            raise
        hint = f"see {error.ctx.command_path} --help"
        raise Failure(f"{error.format_message()} ({hint})".replace("\n", " "), 2) from error
    except KeyboardInterrupt:
        raise Failure("interrupted", 130) from None
    except OutOfMemoryError as error:
        raise Failure(str(error), 1) from error
    except MemoryError as error:
        raise Failure(f"not enough memory ({error}); try smaller layers or batches", 1) from error
    except BrokenPipeError:
        raise
    except Exception as error:
        for kinds, code in CODES:
            if isinstance(error, kinds):
                raise Failure(str(error), code) from error
        raise


def layer_sizes(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Return the numbers in "64,32", and none in "none"."""
    parts = [] if value.strip() == "none" else [part.strip() for part in value.split(",")]
    if not all(re.fullmatch(r"\d{1,7}", part) and 0 < int(part) <= 10**6 for part in parts):
        expected = "whole numbers from 1 to 1000000, as in 64,32, or none"
        raise click.BadParameter(f"{value!r}; expected {expected}")
    return tuple(map(int, parts))


def device_name(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Return a device's name, or several, if they can be names."""
    for name in (value,) if isinstance(value, str) else value:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
            raise click.BadParameter(f"{name!r}; choose auto, cpu, cuda, or cuda:1, the second GPU")
    return value


def examples(*lines: str) -> str:
    """Return an epilog that shows examples."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


device_option = click.option(
    "--device",
    callback=device_name,
    default="auto",
    show_default=True,
    help="auto (a GPU if there is a usable one), cpu, cuda, cuda:1.",
)

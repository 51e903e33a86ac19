"""Checkpoints of a training run: everything that it takes to go on as if nothing had happened.

A checkpoint is a file that `saving.save` writes, whole or not at all, with a checksum: the network,
and with it the optimizer's state, the last good parameters, the history, the epoch that is under
way, and the best parameters so far. Shuffled orders come from the seed and the epoch alone, and
schedules from the step, so there is no other state.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array
from backprop_gpu.errors import (
    DomainError,
    FileFormatError,
    ShapeError,
    brief,
    check_count,
    check_positive,
)
from backprop_gpu.files import checked_path
from backprop_gpu.mlp import MLP
from backprop_gpu.saving import SavedNetwork, read, save
from backprop_gpu.training.glimpse import are_alike
from backprop_gpu.training.run import Run
from backprop_gpu.training.stopping import BestEpoch
from backprop_gpu.version import __version__

HISTORY = ("loss", "validation_loss", "learning_rate")

# What is compared between runs on one kind of device only: the bits differ on another anyway, which
# may have neither.
OF_DEVICE = {"device", "path", "precision"}


class Folder:
    """A folder of checkpoints, each with the number of the step before which it was written.

    Parameters
    ----------
    folder : path
        Made if it isn't there.
    keep : int
        How many of the newest stay.
    resume : bool
        Whether to go on from what is there. Without it, checkpoints in the folder are an error.
    activations : sequence of Activation
        Of the network that is trained; they need not be registered.

    Raises
    ------
    FileFormatError
        If the folder can't be used, or holds checkpoints and `resume` is False.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int,
        *,
        resume: bool,
        activations: Sequence[Activation] = (),
    ) -> None:
        # Where it is now: somebody may change the working directory while the run goes on.
        self.place = checked_path(folder, "checkpoint").absolute()
        self.keep = check_count("checkpoint_keep", keep)
        self._current: Path | None = None  # what was written last, or read at first
        # The newest is wanted twice: for its path, and for all of it.
        self._read = lru_cache(maxsize=1)(partial(read, device="cpu", activations=activations))
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            found = _files(self.place)
            if found and not resume:
                raise FileFormatError(
                    f"{self.place} holds checkpoints of an earlier run ({found[-1].name}); go on "
                    "from them with resume=True, or choose another folder"
                )
            for torn in self.place.glob(".saving-*"):  # a run was killed while it wrote them
                torn.unlink()
        except OSError as error:
            raise FileFormatError(
                f"checkpoint={str(folder)!r} can't be used as a folder: {error.strerror or error}"
            ) from error

    def write(
        self,
        step: int,
        net: MLP,
        identity: Mapping[str, Any],
        notes: Mapping[str, Any],
        arrays: Mapping[str, Any],
    ) -> None:
        """Write a checkpoint, unless it is there or the parameters are not finite."""
        path = self.place / f"step-{step:012}.safetensors"
        # The last update, whose loss nobody has seen, may have left NaN or infinity.
        if path == self._current or not bool(net.backend.xp.isfinite(net.parameters).all()):
            return
        notes = {"run": dict(identity), "step": step, "version": __version__, **notes}
        save(net, path, notes=notes, arrays=arrays)
        self._current = path
        # A later one is there if it can't be read, and says nothing about those before it.
        for old in [file for file in _files(self.place) if file <= path][: -self.keep]:
            old.unlink(missing_ok=True)

    def path_of_newest(self, device: str) -> Any:
        """Return how the newest checkpoint's steps were run; None if not on such a device."""
        for file in reversed(_files(self.place)):
            with suppress(FileFormatError):
                run = _run_in(file, self._read(file))
                return run.get("path") if run.get("device") == kind_of(device) else None
        return None

    def restore(self, identity: Mapping[str, Any], take: Callable[[SavedNetwork], None]) -> bool:
        """Hand the newest checkpoint that can be read to `take`; return whether there is one.

        Parameters
        ----------
        identity : mapping
            What has to be the same for a run to go on.
        take : callable (SavedNetwork)
            May raise LookupError, TypeError, ValueError or ArithmeticError, before it changes
            anything, if what is there makes no sense.

        Raises
        ------
        FileFormatError
            If none of the checkpoints can be read.
        DomainError
            If they are of another run.
        """
        problems: list[str] = []
        for path in reversed(_files(self.place)):
            try:
                saved = self._read(path)
                _check_identity(path, _run_in(path, saved), identity)
                _take(path, saved, take)
            except FileFormatError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(f"{problem}; resuming from {path.name}", stacklevel=4)
            self._current = path
            self._read.cache_clear()
            return True
        if problems:
            raise FileFormatError(f"no checkpoint can be read: {'; '.join(problems)}")
        return False


def _take(path: Path, saved: SavedNetwork, take: Callable[[SavedNetwork], None]) -> None:
    try:
        take(saved)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise FileFormatError(
            f"{path} does not describe a run ({type(error).__name__}: {error!s:.200})"
        ) from error


def _run_in(path: Path, saved: SavedNetwork) -> dict[str, Any]:
    """Return what a checkpoint says of its run."""
    run = saved.notes.get("run")
    if not isinstance(run, dict):
        raise FileFormatError(f"{path} is a network, but no checkpoint of a training run")
    return run


def _check_identity(path: Path, theirs: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    free = set() if theirs.get("device") == identity["device"] else OF_DEVICE
    for name, value in identity.items():
        if name == "data":
            if not are_alike(theirs.get(name), value):
                raise DomainError(
                    f"{path} is of a run with other data, told by some of their rows; give it the "
                    "same data, or choose another folder"
                )
        elif name not in free and theirs.get(name) != value:
            raise DomainError(
                f"{path} is of a run with {name} = {theirs.get(name)}, and this one has "
                f"{value}; make them the same, or choose another folder"
            )


def kind_of(device: str) -> str:
    """Return "cuda" for "cuda:1"."""
    return device.partition(":")[0]


def without_addresses(value: Any) -> str:
    """Return the repr of something; functions have an address there, another in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def like_parameters(net: MLP, array: NDArray[Any]) -> Array:
    """Return a saved array that is as long as the parameters, on the network's device."""
    if array.shape != net.parameters.shape:
        raise ShapeError(f"an array has shape {array.shape}")
    return net.backend.asarray(array, net.dtype)


class Checkpoints:
    """The checkpoints of one run of `train`.

    Parameters
    ----------
    folder : path or None
        With None there are none.
    every : float or None
        After how many epochs one is written; 0.1 is ten times an epoch. None: 1.
    keep : int or None
        How many of the newest stay. None: 3.
    resume, activations
        As of `Folder`.

    Raises
    ------
    DomainError
        If one of the others is given, and no folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        every: float | None,
        keep: int | None,
        *,
        resume: bool,
        activations: Sequence[Activation] = (),
    ) -> None:
        check_folder_given(
            folder, checkpoint_every=every, checkpoint_keep=keep, resume=resume or None
        )
        self.every = check_positive("checkpoint_every", 1 if every is None else every)
        self._folder: Folder | None = None
        if folder is not None:
            keep = 3 if keep is None else keep
            self._folder = Folder(folder, keep, resume=resume, activations=activations)
        self._identity: dict[str, Any] = {}

    def path_of_newest(self, device: str) -> Any:
        """Return how the newest checkpoint's steps were run; None if not on such a device."""
        return None if self._folder is None else self._folder.path_of_newest(device)

    def steps_between(self, per_epoch: int | None) -> int | None:
        """Return after how many steps one is due; None where an epoch's end has to be awaited."""
        if self._folder is None or per_epoch is None:
            return None
        return max(1, round(self.every * per_epoch))

    def write_if_due(self, run: Run, best: BestEpoch | None, *, last: bool = False) -> None:
        """Write a checkpoint if it is time for one, or if it is the last."""
        if self._folder is None:
            return
        steps = self.steps_between(run.per_epoch)
        if steps is None:
            due = not run.losses and len(run.history.loss) % max(1, round(self.every)) == 0
        else:
            due = run.step % steps == 0
        if due or last:
            self._folder.write(run.step, run.net, self._identity, *_content(run, best))

    def restore(self, run: Run, best: BestEpoch | None, **identity: Any) -> None:
        """Bring a run to where the newest checkpoint that can be read was written.

        If there is none, the first is written: what keeps it from being written shows before
        anything is trained. `identity` is what has to be the same for a run to go on.
        """
        if self._folder is None:
            return
        self._identity = _identity_of(run, **identity)
        if not self._folder.restore(self._identity, lambda saved: _restore(saved, run, best)):
            self.write_if_due(run, best)


def check_folder_given(folder: object, **options: object) -> None:
    """Raise DomainError if there is no folder, and an option of its checkpoints is not None."""
    for name, value in options.items():
        if folder is None and value is not None:
            raise DomainError(f"{name}={brief(value)} needs checkpoint=, the checkpoints' folder")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("step-*.safetensors") if file.is_file())


def _identity_of(run: Run, **others: Any) -> dict[str, Any]:
    """Return what has to be the same for a run to go on; numbers and text, as JSON has them."""
    net, runner = run.net, run.runner
    changes = callable(runner.optimizer.learning_rate)
    return {
        "layer_sizes": list(net.layer_sizes),
        "activations": [str(g) for g in net.activations],
        "dtype": net.dtype.name,
        "device": kind_of(net.device),
        **others,
        "optimizer": without_addresses(runner.optimizer),
        "batch_size": runner.batches.batch_size,
        "per_epoch": run.per_epoch,
        # Of batches of one's own it is what they say, and what a schedule goes by.
        "batches_per_epoch": run.length if run.per_epoch is None and changes else None,
    }


def _content(run: Run, best: BestEpoch | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the notes and the arrays that a run goes on from."""
    net, history = run.net, run.history
    arrays: dict[str, Any] = {
        f"optimizer.{i}": net.backend.to_numpy(slot) for i, slot in enumerate(run.runner.state)
    }
    arrays |= {f"history.{name}": np.array(getattr(history, name), float) for name in HISTORY}
    arrays |= {"losses": np.array(run.losses, float), "counts": np.array(run.counts, np.int64)}
    # Nobody has seen the loss of the parameters as they are now.
    arrays["safe"] = net.backend.to_numpy(run.runner.safe.parameters)
    if best is not None and best.parameters is not None:
        arrays["best"] = net.backend.to_numpy(best.parameters)
    notes = {} if best is None else {"best_loss": best.loss, "best_epoch": best.epoch}
    return notes, arrays


def _restore(saved: SavedNetwork, run: Run, best: BestEpoch | None) -> None:
    """Bring a run to where a checkpoint was written; raise before anything is changed."""
    net, arrays, notes = run.net, saved.arrays, saved.notes
    parameters = like_parameters(net, saved.net.parameters)
    slots = [like_parameters(net, arrays[f"optimizer.{i}"]) for i in range(len(run.runner.state))]
    safe = like_parameters(net, arrays["safe"])
    best_parameters = like_parameters(net, arrays["best"]).copy() if "best" in arrays else None
    best_loss, best_epoch = float(notes.get("best_loss", inf)), int(notes.get("best_epoch", 0))
    history = {name: list(map(float, arrays[f"history.{name}"])) for name in HISTORY}
    losses, counts = list(map(float, arrays["losses"])), list(map(int, arrays["counts"]))
    step, done = int(notes["step"]), len(history["loss"])
    made = step if run.per_epoch is None else done * run.per_epoch + len(losses)
    found = step, len(history["learning_rate"]), len(counts)
    if found != (made, done + bool(losses), len(losses)):
        raise ShapeError("its step and the lengths of its history contradict each other")

    net.parameters[...] = parameters
    for slot, kept in zip(run.runner.state, slots, strict=True):
        slot[...] = kept
    for name, values in history.items():
        getattr(run.history, name)[:] = values
    run.step, run.losses, run.counts = step, losses, counts
    run.runner.safe.parameters[...] = safe
    if best is not None:
        best.loss, best.epoch, best.parameters = best_loss, best_epoch, best_parameters

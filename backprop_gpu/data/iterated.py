"""Batches that somebody else makes: lists, generators, the loaders of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from typing import Any

import numpy as np

from backprop_gpu.arrays import Array, as_matrix, check_same_rows, on_gpu
from backprop_gpu.backends import Backend, NumpyBackend
from backprop_gpu.backends.uploads import Uploads
from backprop_gpu.data.batches import CheckTargets, Room, new_room
from backprop_gpu.data.prefetch import prefetched
from backprop_gpu.data.staging import Staging
from backprop_gpu.errors import DomainError, DtypeError, ShapeError, brief, count_of

ALIVE = 4  # batches: one in use, one being made, two that make up for uneven times

CPU = NumpyBackend()


class IteratedBatches:
    """Batches from an iterable of pairs (x, y).

    Parameters
    ----------
    batches : iterable of (x, y), or callable (epoch) -> such an iterable
        Goes through one epoch. The sizes of the batches are its own. It runs in a background
        thread. An iterator, such as a generator, can serve one epoch only: give the function that
        makes it.
    columns : (int, int)
        The inputs and the outputs of the network.
    backend, dtype, check_targets
        As of `StreamedBatches`.

    Attributes
    ----------
    samples, per_epoch : int or None
        As of `StreamedBatches`: in the last epoch that was gone through from its beginning to its
        end.
    length : int or None
        How many batches an epoch has, as far as ``len(batches)`` tells.
    once : bool
        Whether there is only one epoch.
    """

    batch_size = None

    def __init__(
        self,
        batches: Iterable[Any] | Callable[[int], Iterable[Any]],
        *,
        columns: tuple[int, int],
        backend: Backend,
        dtype: np.dtype[Any],
        check_targets: CheckTargets,
    ) -> None:
        if not isinstance(batches, Iterable) and not callable(batches):
            raise DtypeError(
                f"the data are {brief(batches)}; expected pairs (x, y), or a function of the epoch "
                "that returns them"
            )
        self.samples: int | None = None
        self.per_epoch: int | None = None
        self.length: int | None = None
        with suppress(Exception):  # some loaders have one, which raises what it likes
            self.length = len(batches)  # type: ignore[arg-type]
        self._batches = batches
        self.once = isinstance(batches, Iterator)
        self._used = False
        self._columns, self._backend, self._dtype = columns, backend, dtype
        self._check_targets = check_targets

    def epoch(
        self, epoch: int, start: int = 0, room: Room | None = None
    ) -> Generator[tuple[Array, Array], None, None]:
        """Go through the batches of an epoch; see `StreamedBatches.epoch`."""
        if self.once and self._used:
            raise DomainError(
                f"the batches come from an iterator ({type(self._batches).__name__}), which "
                f"epoch {epoch} can't go through again; give a list, or a function of the epoch "
                "that makes the iterator"
            )
        self._used = True
        room = room or new_room(self._backend, self._columns, self._dtype)
        return self._epoch(epoch, start, room)

    def _epoch(
        self, epoch: int, start: int, room: Room
    ) -> Generator[tuple[Array, Array], None, None]:
        batches, samples = start, 0
        uploads = self._backend.uploads()
        try:
            with closing(prefetched(self._converted(epoch, start, uploads), ALIVE)) as pairs:
                for staging, *pair in pairs:
                    rows = len(pair[0])
                    x, y = room(rows)
                    with self._backend.computing():
                        x[...], y[...] = pair
                    staging.release()
                    yield x, y
                    batches += 1
                    samples += rows
        except Exception as error:
            error.add_note(
                f"Before it came {count_of(batches, 'batch', 'batches')} of epoch {epoch}."
            )
            raise
        if start == 0:
            self.samples, self.per_epoch = samples, batches

    def _converted(
        self, epoch: int, start: int, uploads: Uploads
    ) -> Generator[tuple[Staging, Array, Array], None, None]:
        pairs = self._batches if isinstance(self._batches, Iterable) else self._batches(epoch)
        if not isinstance(pairs, Iterable):
            raise DtypeError(
                f"the function of the epoch returned {brief(pairs)}; expected pairs (x, y)"
            )
        kinds = [((m,), self._dtype) for m in self._columns]
        memory = [Staging(uploads, 1, kinds) for _ in range(ALIVE)]
        number = -1
        for number, pair in enumerate(pairs):
            if number >= start:
                x, y = self._checked(checked_pair(pair, number), f" of batch {number}")
                place = number % ALIVE
                if len(x) > memory[place].rows:
                    memory[place] = Staging(uploads, len(x), kinds)
                yield memory[place], *self._copied(x, y, memory[place])
        if number < 0:
            raise ShapeError(f"epoch {epoch} has no batches: {type(pairs).__name__} gave none")

    def _checked(self, pair: tuple[Any, Any], where: str) -> tuple[Array, Array]:
        """Return x and y in the network's dtype: on the GPU if one of them is, else on the CPU."""
        backend, (inputs, outputs) = self._backend if any(map(on_gpu, pair)) else CPU, self._columns
        x_name, y_name = f"x{where}", f"y{where}"
        x = as_matrix(pair[0], x_name, inputs, "input node", backend, self._dtype)
        y = as_matrix(pair[1], y_name, outputs, "output node", backend, self._dtype)
        check_same_rows(x, y, x_name, y_name)
        with backend.computing():
            self._check_targets(y, backend.xp, y_name)
        return x, y

    def _copied(self, x: Array, y: Array, staging: Staging) -> list[Array]:
        """Return copies on the device: the next batch may be written over this one."""
        if on_gpu(x):
            return staging.take([x, y])
        rows = len(x)
        for host, values in zip(staging.host, (x, y), strict=True):
            host[:rows] = values
        return staging.upload(rows)


def checked_pair(pair: Any, number: int) -> tuple[Any, Any]:
    """Return x and y of a batch; raise DtypeError if there are not the two of them."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DtypeError(
            f"batch {number} is of type {type(pair).__name__}; without y, x has to be an iterable "
            "of batches, each a pair (x, y)"
        )
    return pair[0], pair[1]

"""A training run: it makes steps in chunks, averages their losses, and recovers if one fails.

A chunk takes about CHUNK_SECONDS. A GPU's losses are read only at its end, because reading them
waits for the GPU. If NaN or infinity arises in a chunk of many epochs, the chunk is run again from
the parameters and the state before it, an epoch at a time, to find the epoch that failed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.errors import DomainError
from backprop_gpu.optimizers import numbers_of
from backprop_gpu.training.history import History, TrainingDiverged
from backprop_gpu.training.paths.runner import Safe, StepRunner
from backprop_gpu.training.streams import StreamBatches

CHUNK_SECONDS = 0.1
MOST_DOUBLED = 6  # times that the size doubles from one chunk to the next


class Run:
    """Goes through the epochs.

    Attributes
    ----------
    step, samples : int
        How many steps have been made, and on how many samples.
    losses, counts : list
        The loss of every batch of the epoch that is under way, and the samples in it.
    """

    def __init__(self, runner: StepRunner, history: History) -> None:
        self.runner, self.history = runner, history
        self.net, self.per_epoch = runner.net, runner.batches.per_epoch
        batches = runner.batches
        self.length = batches.length if isinstance(batches, StreamBatches) else self.per_epoch
        self.step = self.samples = 0
        self.losses: list[float] = []
        self.counts: list[int] = []

    @property
    def epochs_passed(self) -> float:
        """How many epochs have been run; with a fraction, if the length of an epoch is known."""
        done = len(self.history.loss)
        if not self.losses or not self.length:
            return done
        return done + min(1, round(len(self.losses) / self.length, 2))

    def chunks(
        self, epochs: int, *, one_by_one: bool, stop_every: int | None = None
    ) -> Iterator[None]:
        """Run until `epochs` epochs are done; yield after every chunk.

        With `one_by_one`, no chunk is longer than an epoch; with `stop_every`, one ends wherever
        so many steps more have been made.
        """
        size = 1
        while len(self.history.loss) < epochs:
            count = self._next_count(size, epochs, one_by_one)
            if stop_every is not None:
                count = min(count, stop_every - self.step % stop_every)
                if self.per_epoch is not None and count > self.per_epoch:
                    count -= count % self.per_epoch  # only what an epoch begins with is kept
            steps = range(self.step, self.step + count)
            before = time.perf_counter()
            self._advance(steps, epochs)
            yield
            times_shorter = CHUNK_SECONDS / (time.perf_counter() - before)
            cut_short = self.step < steps.stop  # at the end of an epoch of unknown length
            if times_shorter > 1 and 2 * len(steps) > size and not cut_short:
                size *= 2 ** min(MOST_DOUBLED, math.ceil(math.log2(times_shorter)))

    def check_last_update(self) -> None:
        """Recover if the last update, whose loss is not computed, left NaN or infinity."""
        if not bool(self.net.backend.xp.isfinite(self.net.parameters).all()):
            self._recover(len(self.history.loss))

    def _next_count(self, size: int, epochs: int, one_by_one: bool) -> int:
        """Return how many steps to make next: part of an epoch, or whole epochs."""
        if self.per_epoch is None:
            return size
        left = self.per_epoch - len(self.losses)
        if one_by_one or self.losses or size < left:
            return min(size, left)
        return self.per_epoch * min(size // self.per_epoch, epochs - len(self.history.loss))

    def _advance(self, steps: range, epochs: int) -> None:
        epoch, batches = len(self.history.loss), self.runner.batches
        safe: Safe = "nothing"
        if not self.losses:
            many = self.per_epoch is not None and len(steps) > self.per_epoch
            safe = "everything" if many else "parameters"
        if self.per_epoch is not None:
            passed = np.arange(steps.start, steps.stop) / self.per_epoch
        else:  # there may be more batches than their length says
            length, made = self.length or 1, len(self.losses)
            places = np.arange(made, made + len(steps))
            passed = (epoch * length + np.minimum(places, length - 1)) / length
        numbers = numbers_of(self.runner.optimizer, steps, passed)
        if isinstance(batches, StreamBatches):
            batches.seek(epoch, len(self.losses))
        losses, counts = self.runner.run(steps, numbers, safe)

        good = int(np.isfinite(losses).argmin()) if not np.isfinite(losses).all() else len(losses)
        self._append(losses[:good], counts[:good], numbers[:, 0])
        if good < len(losses):
            self._recover(epochs)
        elif len(losses) < len(steps):  # a stream's epoch has ended
            if not self.losses:
                raise DomainError(f"there were no batches in epoch {epoch}")
            self._end_epoch()

    def _append(
        self, losses: NDArray[np.float64], counts: NDArray[np.int64], rates: NDArray[np.float64]
    ) -> None:
        history = self.history
        self.step += len(losses)
        self.samples += int(counts.sum())
        if self.per_epoch == 1:  # a small network makes thousands of them in a chunk
            history.loss.extend(losses.tolist())
            if callable(self.runner.optimizer.learning_rate):
                history.learning_rate.extend(rates[: len(losses)].tolist())
            else:
                history.learning_rate.extend([float(rates[0])] * len(losses))
            return
        columns = losses.tolist(), counts.tolist(), rates.tolist()
        for loss, count, rate in zip(*columns, strict=False):
            if not self.losses:
                history.learning_rate.append(rate)
            self.losses.append(loss)
            self.counts.append(count)
            if len(self.losses) == self.per_epoch:
                self._end_epoch()

    def _end_epoch(self) -> None:
        shares = np.array(self.counts) / sum(self.counts)
        self.history.loss.append(math.fsum(shares * self.losses))
        self.losses, self.counts = [], []

    def _recover(self, epochs: int) -> None:
        """Go back to the last good parameters, find the epoch that failed, and raise."""
        runner, history, per_epoch = self.runner, self.history, self.per_epoch
        epoch = len(history.loss)
        layer = runner.first_bad_layer() if runner.reads_all else None
        self.losses, self.counts = [], []
        if not runner.safe.go_back() or per_epoch is None:
            self._give_up(min(epoch, epochs - 1), layer)
        runner.reads_all = True
        self.step = runner.safe.step
        first = self.step // per_epoch
        del history.loss[first:], history.learning_rate[first:]
        while len(history.loss) < epochs:
            self._advance(range(self.step, self.step + per_epoch), epochs)
        self.check_last_update()

    def _give_up(self, epoch: int, layer: int | None) -> NoReturn:
        del self.history.learning_rate[len(self.history.loss) :]
        self.history.stopped_by = "divergence"
        where = f"layer {layer}" if layer else "the loss or a layer before it"
        raise TrainingDiverged(
            f"NaN or infinity arose in epoch {epoch}, in {where}; training stopped, and the "
            "network holds its last good parameters. Try a lower learning rate, clip_norm=1, or "
            "data scaled to about -1 to 1",
            epoch,
            layer,
            self.history,
        )

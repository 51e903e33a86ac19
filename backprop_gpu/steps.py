"""The inside of the training loop: buffers that are allocated once, and the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np

from backprop_gpu.arrays import Array
from backprop_gpu.backends import Backend
from backprop_gpu.errors import TrainingDiverged
from backprop_gpu.history import History
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.network import Gradients, Trace, feed_forward, propagate_back
from backprop_gpu.optimizers import Optimizer, learning_rate_at
from backprop_gpu.per_sample import clip_samples
from backprop_gpu.shuffle import shuffled

Clip = Callable[[Trace, Gradients], None]


class Steps:
    """The steps of one training run."""

    def __init__(
        self,
        net: MLP,
        x: Array,
        y: Array,
        loss: Loss,
        optimizer: Optimizer,
        batch_size: int,
        seed: int | None,
        clip: Clip,
    ) -> None:
        self.net, self.x, self.y, self.loss, self.optimizer = net, x, y, loss, optimizer
        self.batch_size, self.seed, self.clip = batch_size, seed, clip
        self.step, self.decayed = 0, net.weight_count
        n, backend = len(x), net.backend
        starts = range(0, n, batch_size)
        self.batches = [slice(start, min(start + batch_size, n)) for start in starts]
        self.shares = np.array([(batch.stop - batch.start) / n for batch in self.batches])

        # Batches are copied to where the first one lies, so that every step has the same arrays.
        self.x_batch, self.y_batch = x, y
        if len(self.batches) > 1:
            self.x_batch = backend.empty((batch_size, x.shape[1]), net.dtype)
            self.y_batch = backend.empty((batch_size, y.shape[1]), net.dtype)
        keep_z = [g.derivative_from == "z" for g in net.activations]
        keep_z[-1] |= loss.is_canonical_for(net.activations[-1])
        trace = net.new_trace(self.x_batch, keep_z=keep_z)
        gradients = net.new_gradients(batch_size, share=True)
        rest = n - self.batches[-1].start
        self.spaces = {batch_size: (trace, gradients)}
        if rest < batch_size:
            self.spaces[rest] = first_rows(trace, gradients, rest)
        self.state = [backend.xp.zeros_like(net.parameters) for _ in range(optimizer.slots)]
        self.good = net.parameters.copy()

    def run(self, epochs: range, history: History) -> None:
        """Run a chunk of epochs and append to their history.

        A chunk's first loss is read at once: if it is finite, the parameters that have it are the
        last that are known to be good. On the CPU, where reading is free, every loss is.
        """
        net = self.net
        reads_all = net.device == "cpu"
        losses = net.backend.empty((len(epochs), len(self.batches)), net.dtype)
        rates: list[float] = []
        for row, epoch in enumerate(epochs):
            order = None
            if self.seed is not None:
                order = shuffled(len(self.x), epoch, self.seed, net.backend.xp)
            for i, batch in enumerate(self.batches):
                trace, gradients, y = self._load(batch, order)
                C = losses[row, i : i + 1]
                feed_forward(net.backend, net.layers, trace)
                propagate_back(net.backend, net.layers, trace, y, self.loss, gradients, C)
                if reads_all or row == i == 0:
                    if not math.isfinite(C[0]):
                        self._report(losses[:row], rates, epochs, history)
                        self._give_up(epoch, self._first_bad_layer(trace), history)
                    if i == 0 and math.isfinite(net.parameters.dot(net.parameters)):
                        self.good[...] = net.parameters
                rate = learning_rate_at(self.optimizer, epoch + i / len(self.batches))
                if i == 0:
                    rates.append(rate)
                self.clip(trace, gradients)
                self._update(gradients, rate)
        self._report(losses, rates, epochs, history)

    def _report(
        self, losses: Array, rates: Sequence[float], epochs: range, history: History
    ) -> None:
        """Read the losses of some epochs and append them to the history."""
        shares = self.net.backend.to_numpy(losses).astype(np.float64) * self.shares
        for epoch, row, rate in zip(epochs, shares, rates, strict=False):
            if not np.isfinite(row).all():
                self._give_up(epoch, None, history)
            history.loss.append(math.fsum(row))
            history.learning_rate.append(rate)

    def check_last_update(self, history: History) -> None:
        """Give up if the last update, whose loss nobody has seen, left NaN or infinity."""
        finite = self.net.backend.xp.isfinite
        for l, (W, b, _) in enumerate(self.net.layers, start=1):
            if not bool(finite(W).all()) or not bool(finite(b).all()):
                self._give_up(len(history.loss) - 1, l, history)

    def _load(self, batch: slice, order: Array | None) -> tuple[Trace, Gradients, Array]:
        """Bring a batch to its place; return its trace, its gradients and its targets."""
        count = batch.stop - batch.start
        y = self.y_batch[:count]
        if len(self.batches) > 1:
            x = self.x_batch[:count]
            if order is None:
                x[...], y[...] = self.x[batch], self.y[batch]
            else:
                self.net.backend.gather(self.x, order[batch], x)
                self.net.backend.gather(self.y, order[batch], y)
        return (*self.spaces[count], y)

    def _update(self, gradients: Gradients, rate: float) -> None:
        flat, parameters = gradients.flat, self.net.parameters
        self.step += 1
        self.net.backend.update(
            self.optimizer, parameters, flat, self.state, rate, self.step, self.decayed
        )

    def _first_bad_layer(self, trace: Trace) -> int | None:
        finite = self.net.backend.xp.isfinite
        for l, a in enumerate(trace.a[1:], start=1):
            if not bool(finite(a).all()):
                return l
        return None

    def _give_up(self, epoch: int, layer: int | None, history: History) -> NoReturn:
        self.net.parameters[...] = self.good
        where = f"layer {layer}" if layer else "the loss or a layer before it"
        raise TrainingDiverged(
            f"NaN or infinity arose in epoch {epoch}, in {where}; training stopped, and the "
            "network holds its last good parameters. Try a lower learning rate, clip_norm=1, or "
            "data scaled to about -1 to 1",
            epoch,
            layer,
            history,
        )


def first_rows(trace: Trace, out: Gradients, n: int) -> tuple[Trace, Gradients]:
    """Return views of a trace and of gradients (without dC/dx) for a batch of n samples."""
    a, deltas = tuple(a[:n] for a in trace.a), tuple(delta[:n] for delta in out.deltas)
    # Arrays that share their memory stay one object: backends then leave out what is not kept.
    z = tuple(
        head if whole is shared else whole[:n]
        for whole, shared, head in zip(trace.z, trace.a[1:], a[1:], strict=True)
    )
    dC_da = tuple(
        head if whole is shared or whole is None else whole[:n]
        for whole, shared, head in zip(out.activations[1:], out.deltas, deltas, strict=True)
    )
    return Trace(a, z), replace(out, deltas=deltas, activations=(None, *dC_da))


def clipping(
    backend: Backend, norm: float | None, value: float | None, sample_norm: float | None
) -> Clip:
    """Return what clips gradients in place, without reading anything back."""
    xp = backend.xp

    def clip(trace: Trace, gradients: Gradients) -> None:
        flat = gradients.flat
        if sample_norm is not None:
            clip_samples(backend, trace, gradients, sample_norm)
        if value is not None:
            xp.clip(flat, -value, value, out=flat)
        if norm is not None:
            peak = xp.maximum(xp.abs(flat).max(), np.finfo(flat.dtype).tiny)
            scaled = flat / peak  # the square of a large entry would overflow
            flat *= xp.minimum(norm / peak / xp.sqrt(xp.dot(scaled, scaled)), 1)

    return clip

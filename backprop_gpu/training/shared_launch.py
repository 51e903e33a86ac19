"""Many small networks of one kind on a GPU, trained by the same launches."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array
from backprop_gpu.compiled.agreement import check_agreement
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer, numbers_of
from backprop_gpu.training.batches import batch_counts
from backprop_gpu.training.history import History
from backprop_gpu.training.paths.one_launch import OneLaunch, most_steps, state_length
from backprop_gpu.training.run import CHUNK_SECONDS

Rows = NDArray[np.integer[Any]]


def alike(
    nets: Sequence[MLP], optimizers: Sequence[Optimizer], rows: Sequence[Rows] | None
) -> bool:
    """Return whether networks differ in nothing but what `train_together` lets them differ in."""

    def kind(net: MLP, optimizer: Optimizer) -> tuple[object, ...]:
        return net.layer_sizes, net.activations, net.precision, optimizer.cuda, optimizer.slots

    pairs = zip(nets, optimizers, strict=True)
    return (
        all(net.backend is nets[0].backend for net in nets)
        and all(kind(*pair) == kind(nets[0], optimizers[0]) for pair in pairs)
        and len({len(index) for index in rows or ()}) <= 1
    )


def train_together(
    nets: Sequence[MLP],
    x: Array,
    y: Array,
    *,
    loss: Loss,
    optimizers: Sequence[Optimizer],
    seeds: Sequence[int] | None,
    rows: Sequence[Rows] | None,
    epochs: int,
    batch_size: int | None,
) -> list[History | None]:
    """Train networks that are `alike`, for which there is a kernel; see `train_many`.

    Returns
    -------
    list of History or None
        None for a network that diverges, which has the parameters that it came with: training it
        alone finds out when and where.
    """
    started, networks, backend = time.perf_counter(), len(nets), nets[0].backend
    xp, n = backend.xp, len(x) if rows is None else len(rows[0])
    size = min(batch_size or n, n)
    per_epoch = -(-n // size)
    launch = OneLaunch(nets[0], loss, optimizers[0], size)
    losses = np.empty((networks, epochs * per_epoch))
    rates = np.empty_like(losses)
    distinct = optimizers[:1] if all(o == optimizers[0] for o in optimizers) else optimizers
    entries, outputs = nets[0].activations, nets[0].layer_sizes[-1]
    check_agreement(entries, outputs, loss, optimizers[0], nets[0].dtype, backend)
    with backend.computing():
        index = None if rows is None else backend.asarray(np.stack(rows), np.dtype(np.int64))
        parameters = xp.stack([net.parameters for net in nets])
        shape = networks, state_length(parameters.shape[1])
        state = [xp.zeros(shape, parameters.dtype) for _ in range(optimizers[0].slots)]
        done, count, most = 0, per_epoch, most_steps(n, size, networks)
        while done < losses.shape[1]:
            before = time.perf_counter()
            steps = range(done, min(done + count, losses.shape[1]))
            passed = np.array(steps) / per_epoch
            numbers = np.stack([numbers_of(optimizer, steps, passed) for optimizer in distinct])
            found = backend.empty((networks, len(steps)), nets[0].dtype)
            launch.run(
                parameters,
                state,
                x,
                y,
                steps=steps,
                numbers=numbers,
                losses=found,
                seeds=seeds,
                rows=index,
            )
            losses[:, done : steps.stop] = backend.to_numpy(found)
            rates[:, done : steps.stop] = numbers[..., 0]
            done = steps.stop
            if time.perf_counter() - before < CHUNK_SECONDS:
                count = min(2 * count, most)
        good = np.isfinite(losses).all(axis=1)
        good &= backend.to_numpy(xp.isfinite(parameters).all(axis=1))
        for i in np.flatnonzero(good).tolist():
            nets[i].parameters[...] = parameters[i]
        backend.synchronize()  # whatever stream is going to read them
    seconds = time.perf_counter() - started
    shares = batch_counts(n, size, np.arange(per_epoch)) / n
    return [
        History(
            loss=_of_epochs(losses[i], shares),
            learning_rate=rates[i, ::per_epoch].tolist(),
            seconds=seconds,
            path="one launch",
            precision=nets[0].precision,
        )
        if good[i]
        else None
        for i in range(networks)
    ]


def _of_epochs(losses: NDArray[np.float64], shares: NDArray[np.float64]) -> list[float]:
    """Return the loss of every epoch, from those of its batches."""
    if len(shares) == 1:
        return losses.tolist()  # type: ignore[no-any-return]
    return [math.fsum(batches) for batches in losses.reshape(-1, len(shares)) * shares]

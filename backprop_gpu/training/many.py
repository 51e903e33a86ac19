"""Many small networks at once: an ensemble over seeds, learning rates or bootstrap samples."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array, to_cpu
from backprop_gpu.compiled import or_numpy
from backprop_gpu.compiled.threads import cores
from backprop_gpu.errors import (
    DomainError,
    DtypeError,
    ShapeError,
    brief,
    check_count,
)
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import SGD, Optimizer, check_optimizer
from backprop_gpu.training.history import History, TrainingDiverged
from backprop_gpu.training.planning import PathName, Plan, plan
from backprop_gpu.training.run import Run
from backprop_gpu.training.shared_launch import alike, train_together
from backprop_gpu.training.train import train


def train_many(
    nets: Sequence[MLP],
    x: Any,
    y: Any,
    *,
    loss: str | Loss = "mse",
    optimizers: Optimizer | Sequence[Optimizer] | None = None,
    seeds: Sequence[int] | None = None,
    rows: Sequence[Any] | None = None,
    epochs: int = 1,
    batch_size: int | None = None,
    shuffle: bool = True,
    threads: int | None = None,
    path: PathName = "auto",
) -> list[History]:
    """Train many networks on the same data, several at a time.

    Every network gets what a call of `train` of its own would give it on the same path, to the
    bit. Networks on the CPU that a compiled loop can train are spread over the cores. On a GPU,
    networks that differ in parameters, seeds, learning rates, weight decay and rows alone, and for
    which ``plan(networks=)`` says "one launch", share launches. Others take turns.

    Parameters
    ----------
    nets : sequence of MLP
        Different objects, of any sizes that fit the data.
    x, y, loss, epochs, batch_size, shuffle, path
        As for `train`.
    optimizers : Optimizer or sequence of Optimizer, optional
        One for all, or one for each network: to try learning rates.
    seeds : sequence of int, optional
        What decides each network's batches. Default: 0, 1, 2, ...
    rows : sequence of array of int, optional
        Which rows of the data each network is trained on, possibly repeated: bootstrap samples.
    threads : int, optional
        How many threads there are for all of them. Default: as many as there are cores.

    Returns
    -------
    list of History
        One for each network. That of a network that diverged ends there, with `stopped_by`
        "divergence"; the network has its last good parameters.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError, DomainError, UnknownNameError
        Before anything is changed.

    Examples
    --------
    >>> import numpy as np, backprop_gpu as bp
    >>> x = np.linspace(-1, 1, 50)[:, None]
    >>> nets = [bp.MLP([1, 8, 1], device="cpu", seed=seed) for seed in range(20)]
    >>> histories = bp.train_many(nets, x, np.sin(3 * x), epochs=100)
    >>> len(histories)
    20
    """
    if isinstance(nets, MLP) or not isinstance(nets, Iterable):
        raise DtypeError(f"nets is {brief(nets)}; expected a list of MLPs")
    nets = list(nets)
    for i, net in enumerate(nets):
        if not isinstance(net, MLP):
            raise DtypeError(f"nets[{i}] is {brief(net)}; expected an MLP")
    if len({id(net) for net in nets}) < len(nets):
        raise DomainError("nets holds one network twice; give each a network of its own")
    if not isinstance(optimizers, Sequence) or isinstance(optimizers, str):
        optimizers = [SGD() if optimizers is None else optimizers] * len(nets)
    seeds = range(len(nets)) if seeds is None else seeds
    _check_length("optimizers", optimizers, nets)
    _check_length("seeds", seeds, nets)
    if rows is not None:
        _check_length("rows", rows, nets)
    epochs = check_count("epochs", epochs, least=0)
    workers = cores() if threads is None else check_count("threads", threads)
    jobs: list[dict[str, Any]] = []
    shared_by = 1
    data: dict[Hashable, tuple[Array, Array]] = {}  # networks of one kind share them
    for i, (net, optimizer, seed) in enumerate(zip(nets, optimizers, seeds, strict=True)):
        check_count(f"seeds[{i}]", seed, least=0)
        check_optimizer(f"optimizers[{i}]", optimizer)
        entry = net.check_loss(loss, to_learn=True)
        kind = net.device, net.dtype, net.layer_sizes[0], net.layer_sizes[-1]
        if kind not in data:
            data[kind] = net.check_data(x, y, entry)
            net.backend.synchronize()  # the others may compute on other streams
        x_checked, y_checked = data[kind]
        index = None
        if rows is not None:
            index = _checked_rows(f"rows[{i}]", rows[i], len(x_checked))
        jobs.append(
            {
                **{"net": net, "x": x_checked, "y": y_checked, "index": index, "loss": entry},
                **{"optimizer": optimizer, "seed": seed, "epochs": epochs},
                **{"batch_size": batch_size, "shuffle": shuffle},
            }
        )
    histories: list[History | None] = [None] * len(nets)
    indices = None if rows is None else [job["index"] for job in jobs]
    together = bool(nets) and alike(nets, optimizers, indices)
    chosen: Plan | None = None
    for job in jobs:
        if chosen is None or not together:  # those that are alike have one plan
            chosen = plan(
                job["net"],
                samples=len(job["x"] if job["index"] is None else job["index"]),
                loss=job["loss"],
                optimizer=job["optimizer"],
                epochs=epochs * len(nets),  # one compilation serves them all
                batch_size=batch_size,
                path=path,
                networks=len(nets) if together else 1,
            )
        job["path"] = chosen.path
        shared_by = max(shared_by, chosen.threads or 1)
    if together and {job["path"] for job in jobs} == {"one launch"}:
        histories = train_together(
            nets,
            x_checked,
            y_checked,
            loss=entry,
            optimizers=optimizers,
            seeds=seeds if shuffle else None,
            rows=indices,
            epochs=epochs,
            batch_size=batch_size,
        )
    compiled = [i for i, job in enumerate(jobs) if job["path"] == "compiled"]
    stopped = Event()
    with ThreadPoolExecutor(max(1, workers // shared_by)) as pool:
        trained = pool.map(lambda i: _train_one(jobs[i], path, stopped), compiled)
        try:
            for i, history in zip(compiled, trained, strict=True):
                histories[i] = history
        finally:  # Ctrl-C comes to this thread alone
            stopped.set()
            pool.shutdown(cancel_futures=True)
    return [history or _train_one(jobs[i], path) for i, history in enumerate(histories)]


class _StoppedError(Exception):
    """Another network's training was interrupted, or failed."""


def _train_one(job: dict[str, Any], asked: PathName, stopped: Event | None = None) -> History:
    def look(run: Run) -> None:
        if stopped is not None and stopped.is_set():
            raise _StoppedError

    net, x, y, index = (job.pop(name) for name in ("net", "x", "y", "index"))
    if index is not None:
        with net.backend.computing():
            index = net.backend.asarray(index, index.dtype)
            x, y = x[index], y[index]
    try:
        with or_numpy(insists=asked == job["path"], stacklevel=3):
            return train(net, x, y, progress=look, **job)
        return train(net, x, y, progress=look, **job | {"path": "steps"})
    except TrainingDiverged as error:
        error.history.stopped_by = "divergence"
        return error.history


def _check_length(name: str, given: Any, nets: Sequence[MLP]) -> None:
    if not hasattr(given, "__len__") or len(given) != len(nets):
        count = len(given) if hasattr(given, "__len__") else repr(given)
        raise ShapeError(f"{name} has {count}; expected one for each of the {len(nets)} networks")


def _checked_rows(name: str, given: Any, samples: int) -> NDArray[np.int64]:
    index = np.asarray(to_cpu(given))
    if index.ndim != 1 or not len(index) or index.dtype.kind not in "iu":
        raise ShapeError(
            f"{name} has shape {index.shape} and dtype {index.dtype}; expected row numbers"
        )
    low, high = index.min(), index.max()
    if low < 0 or high >= samples:
        raise ShapeError(f"{name} holds {low} to {high}; expected 0 to {samples - 1}")
    return index.astype(np.int64)

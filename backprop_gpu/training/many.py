"""Many small networks at once: an ensemble over seeds, learning rates or bootstrap samples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from threading import Event
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.arrays import Array, to_cpu
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.checks import check_data, check_loss
from backprop_gpu.compiled import CompileError, or_numpy
from backprop_gpu.compiled.agreement import check_agreement
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
    bit. Networks on the CPU whose plan is "compiled" are spread over the cores. On a GPU, networks
    that differ in parameters, seeds, learning rates, weight decay and rows alone, and for which
    ``plan(networks=)`` says "one launch", share launches. Others take turns. For validation data,
    `sample_weight`, callbacks and what else only `train` has, call `train` in a loop.

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
        How many threads there are for all that are compiled; they change no bit. Default: as many
        as there are cores.

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
    nets = _checked_nets(nets)
    if not isinstance(optimizers, Sequence) or isinstance(optimizers, str):
        optimizers = [SGD() if optimizers is None else optimizers] * len(nets)
    seeds = range(len(nets)) if seeds is None else seeds
    epochs = check_count("epochs", epochs, least=0)
    workers = cores() if threads is None else check_count("threads", threads)
    jobs = _checked_jobs(nets, x, y, loss, optimizers, seeds, rows)
    if not jobs:
        return []
    indices = None if rows is None else [job.rows for job in jobs if job.rows is not None]
    together = alike(nets, optimizers, indices)
    # One compilation serves them all; and those that are alike have one plan.
    networks, all_epochs = (len(nets) if together else 1), epochs * len(nets)
    plans = [
        job.plan(all_epochs, batch_size, path, networks) for job in (jobs[:1] if together else jobs)
    ]
    plans *= len(jobs) // len(plans)
    compiled = [i for i, chosen in enumerate(plans) if chosen.path == "compiled"]
    shared_by = min(workers, max((plans[i].threads or 1 for i in compiled), default=1))
    histories: list[History | None] = [None] * len(jobs)
    if together and plans[0].path == "one launch":
        histories = train_together(
            nets,
            jobs[0].x,
            jobs[0].y,
            loss=jobs[0].loss,
            optimizers=optimizers,
            seeds=seeds if shuffle else None,
            rows=indices,
            epochs=epochs,
            batch_size=batch_size,
        )
    stopped = Event()

    def train_one(i: int, look: Callable[[Run], None] | bool = False) -> History:
        own, insists = plans[i].path, path == plans[i].path
        options = {"epochs": epochs, "batch_size": batch_size, "shuffle": shuffle, "progress": look}
        return jobs[i].train(own, insists, shared_by, **options)

    def look(run: Run) -> None:
        if stopped.is_set():
            raise _StoppedError

    with suppress(CompileError):  # which each training meets again
        for i in compiled:  # before any is trained
            jobs[i].check()
    with ThreadPoolExecutor(workers // shared_by) as pool:
        trained = pool.map(lambda i: train_one(i, look), compiled)
        try:
            for i, history in zip(compiled, trained, strict=True):
                histories[i] = history
        finally:  # Ctrl-C comes to this thread alone
            stopped.set()
            pool.shutdown(cancel_futures=True)
    return [history or train_one(i) for i, history in enumerate(histories)]


class _StoppedError(Exception):
    """Another network's training was interrupted, or failed."""


class _Job(NamedTuple):
    """The training of one network; `rows` are those that it is trained on, if not all."""

    net: MLP
    x: Array
    y: Array
    rows: NDArray[np.int64] | None
    loss: Loss
    optimizer: Optimizer
    seed: int

    def check(self) -> None:
        """Raise DomainError if expressions of one's own are not what their functions are."""
        net, outputs = self.net, self.net.layer_sizes[-1]
        check_agreement(net.activations, outputs, self.loss, self.optimizer, net.dtype)

    def plan(self, epochs: int, batch_size: int | None, path: PathName, networks: int) -> Plan:
        return plan(
            self.net,
            samples=len(self.x if self.rows is None else self.rows),
            loss=self.loss,
            optimizer=self.optimizer,
            epochs=epochs,
            batch_size=batch_size,
            path=path,
            networks=networks,
        )

    def train(self, path: PathName, insists: bool, threads: int, **options: Any) -> History:
        """Train on a path; by NumPy, if nothing can be compiled and nobody insists.

        So many `threads` share a batch in the compiled loop, at most.
        """
        net, x, y = self.net, self.x, self.y
        if self.rows is not None:
            with net.backend.computing():
                index = net.backend.asarray(self.rows, self.rows.dtype)
                x, y = x[index], y[index]
        options |= {"loss": self.loss, "optimizer": self.optimizer, "seed": self.seed}
        try:
            limited = _limited(net, threads) if path == "compiled" else nullcontext()
            with or_numpy(insists=insists, stacklevel=4), limited:
                return train(net, x, y, path=path, **options)
            return train(net, x, y, path="steps", **options)
        except TrainingDiverged as error:
            return error.history


@contextmanager
def _limited(net: MLP, threads: int) -> Iterator[None]:
    """Let a network have so many threads, or fewer if it is limited to fewer itself."""
    own, limited = net.backend, NumpyBackend(min(threads, net.threads or threads))
    net._compute_by(limited)
    try:
        yield
    finally:
        net._compute_by(own)


def _checked_nets(nets: Sequence[MLP]) -> list[MLP]:
    if isinstance(nets, MLP) or not isinstance(nets, Iterable):
        raise DtypeError(f"nets is {brief(nets)}; expected a list of MLPs")
    nets = list(nets)
    for i, net in enumerate(nets):
        if not isinstance(net, MLP):
            raise DtypeError(f"nets[{i}] is {brief(net)}; expected an MLP")
    if len({id(net) for net in nets}) < len(nets):
        raise DomainError("nets holds one network twice; give each a network of its own")
    return nets


def _checked_jobs(
    nets: Sequence[MLP],
    x: Any,
    y: Any,
    loss: str | Loss,
    optimizers: Sequence[Optimizer],
    seeds: Sequence[int],
    rows: Sequence[Any] | None,
) -> list[_Job]:
    _check_length("optimizers", optimizers, nets)
    _check_length("seeds", seeds, nets)
    if rows is not None:
        _check_length("rows", rows, nets)
    jobs = []
    data: dict[Hashable, tuple[Array, Array]] = {}  # networks of one kind share them
    for i, (net, optimizer, seed) in enumerate(zip(nets, optimizers, seeds, strict=True)):
        check_count(f"seeds[{i}]", seed, least=0)
        check_optimizer(f"optimizers[{i}]", optimizer)
        entry = check_loss(net, loss, to_learn=True)
        kind = net.device, net.dtype, net.layer_sizes[0], net.layer_sizes[-1]
        if kind not in data:
            data[kind] = check_data(net, x, y, entry)
            net.backend.synchronize()  # the others may compute on other streams
        samples = len(data[kind][0])
        index = None if rows is None else _checked_rows(f"rows[{i}]", rows[i], samples)
        jobs.append(_Job(net, *data[kind], index, entry, optimizer, seed))
    return jobs


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

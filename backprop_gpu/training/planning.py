"""Which of the ways to run training steps a training takes, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from backprop_gpu.arrays import step_flops
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.backends.cuda_backend import CudaBackend
from backprop_gpu.checks import check_loss
from backprop_gpu.compiled import seconds_worth_compiling, why_not
from backprop_gpu.compiled.compiler import NO_COMPILER, compiler
from backprop_gpu.compiled.threads import cores, worth_waking
from backprop_gpu.errors import DomainError, UnknownNameError, check_count, count_of
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP, check_network
from backprop_gpu.optimizers import SGD, Optimizer, check_optimizer
from backprop_gpu.training.crossovers import CROSSOVERS
from backprop_gpu.training.paths import one_launch
from backprop_gpu.training.paths.graphs import MOST, why_not_captured
from backprop_gpu.training.weighting import weighted as of_weighted

PathName = Literal["auto", "steps", "fused", "compiled", "one launch"]

# What NumPy's steps take: as measured on two cores of a server, the same for all since the path
# decides the last bits of what comes out. Each slot of the optimizer's state adds calls.
SECONDS_PER_STEP, SECONDS_PER_SLOT, SECONDS_PER_FLOP = 2e-5, 1e-5, 2e-11

# Compiling what is elementwise takes 0.2 s an entry, once on a machine. It saves a step so much for
# every output of every layer, and for every parameter and slot of the optimizer's state. (Two cores
# of a Sapphire-Rapids-class Xeon, 22 November 2026, 784-1024-1024-10; rounded down.)
WORTH_FUSING = 1.0
SAVED_PER_OUTPUT, SAVED_PER_SLOT = 1.5e-9, 1e-9


@dataclass(frozen=True)
class Plan:
    """How a training will run.

    Attributes
    ----------
    path : {"steps", "fused", "compiled", "one launch"}
        "steps": a step at a time, on the network's device, by its array library and the project's
        kernels. "fused": a step at a time on the CPU, products by BLAS, each elementwise operation
        one pass in C++, compiled for the entries on first use. "compiled": many steps in one call
        of C++, compiled for this network on first use. "one launch": many steps in one kernel on a
        GPU, likewise.
    why : str
        Why this one, and what stands against the other.
    threads : int or None
        How many threads compute; None leaves it to BLAS.
    """

    path: Literal["steps", "fused", "compiled", "one launch"]
    why: str
    threads: int | None

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def plan(
    net: MLP,
    *,
    samples: int,
    loss: str | Loss = "mse",
    optimizer: Optimizer | None = None,
    epochs: int = 1,
    batch_size: int | None = None,
    path: PathName = "auto",
    streams: bool = False,
    weighted: bool = False,
    singly: str | None = None,
    networks: int = 1,
) -> Plan:
    """Return how `train` would run, without running it.

    Parameters
    ----------
    net : MLP
    samples : int
        Rows of the training data.
    loss, optimizer, epochs, batch_size, path
        As for `train`.
    streams : bool
        Whether the data lie in files.
    weighted : bool
        Whether samples count differently, by `sample_weight`.
    singly : str, optional
        What needs single steps, in words for the reason: "clipping the gradients of samples".
    networks : int, optional
        How many `train_many` trains that may share a launch; `epochs` are those of all of them.

    Raises
    ------
    DomainError
        If the path that is asked for can't run this: with the reason.

    Examples
    --------
    >>> import backprop_gpu as bp
    >>> net = bp.MLP([5, 3, 4], device="cpu")
    >>> print(bp.plan(net, samples=100, epochs=3))
    steps: 3 steps are too few to be worth compiling a loop for
    """
    check_network(net)
    if path not in get_args(PathName):
        raise UnknownNameError("path", path, get_args(PathName))
    epochs = check_count("epochs", epochs, least=0)
    samples = check_count("samples", samples)
    rows = min(samples, samples if batch_size is None else check_count("batch_size", batch_size))
    steps = epochs * -(-samples // rows)
    flops = step_flops(net.layer_sizes, rows)
    entry, optimizer = check_loss(net, loss), optimizer or SGD()
    check_optimizer("optimizer", optimizer)
    if isinstance(net.backend, CudaBackend):
        singly = singly or ("streaming" if streams else "weighing samples" if weighted else None)
        entry = of_weighted(entry) if weighted else entry
        if path in ("auto", "one launch"):
            return _plan_on_gpu(net, entry, optimizer, rows, steps, path, singly, networks)
    obstacles = {
        "steps": None,
        "fused": _why_not_fused(net),
        "compiled": _why_not_compiled(net, entry, optimizer, singly),
        "one launch": f"it is for GPUs, and the network is on {net.device}",
    }
    sharing = worth_waking(flops, net.threads or cores())  # a batch, in the compiled loop
    if path != "auto":
        if (obstacle := obstacles[path]) is not None:
            raise DomainError(f"path={path!r} can't run this training: {obstacle}")
        return Plan(path, "asked for", sharing if path == "compiled" else net.threads)
    by_steps: Literal["steps", "fused"] = "steps"
    saved = steps * _saved_by_fusing(net, optimizer, rows)
    if obstacles["fused"] is None and saved >= WORTH_FUSING:
        by_steps = "fused"
    if (obstacle := obstacles["compiled"]) is not None:
        launches = _launches(net, entry, optimizer, singly)
        return Plan(by_steps, f"there is no compiled loop, for {obstacle}{launches}", net.threads)
    mkl = isinstance(net.backend, NumpyBackend) and net.backend.mkl is not None
    needed = seconds_worth_compiling(net.layer_sizes, rows, net.dtype, mkl=mkl)
    if needed == math.inf:
        why = "MKL is as fast as the compiled loop on products as large"
        return Plan(by_steps, why, net.threads)
    calls = SECONDS_PER_STEP + SECONDS_PER_SLOT * optimizer.slots
    if steps * (calls + flops * SECONDS_PER_FLOP) < needed:
        why = f"{_too_few(steps)} to be worth compiling a loop for"
        return Plan(by_steps, why, net.threads)
    why = f"{count_of(steps, 'step')} are worth compiling a loop for"
    return Plan("compiled", why, sharing)


def _plan_on_gpu(
    net: MLP,
    loss: Loss,
    optimizer: Optimizer,
    rows: int,
    steps: int,
    path: PathName,
    singly: str | None,
    networks: int,
) -> Plan:
    def launches() -> str:  # not worked out for each of thousands of networks
        return _launches(net, loss, optimizer, singly)

    kernel: one_launch.Kernel | str = f"{singly} takes single steps"
    if singly is None:
        kernel = one_launch.kernel_for(net, loss, optimizer, rows)
    if isinstance(kernel, str) and path == "one launch":
        raise DomainError(f"path='one launch' can't run this training: {kernel}")
    if isinstance(kernel, str):
        return Plan("steps", f"it takes more than one launch, for {kernel}{launches()}", None)
    products = f"; {kernel.worker} computes its products in {net.precision}"
    if path == "one launch":
        return Plan("one launch", f"asked for{products}", None)
    limit, saved = one_launch.limit_of(kernel), CROSSOVERS["seconds_saved"]
    multiprocessors = one_launch.gpu_of(net.backend).multiprocessors
    if not one_launch.worth_it(kernel, net.layer_sizes, rows, networks, multiprocessors):
        why = f"kernels that fill the GPU are faster on products as large ({limit}){launches()}"
        return Plan("steps", why, None)
    if steps * saved.value < CROSSOVERS["seconds_compiling"].value:
        why = f"{_too_few(steps)} to be worth compiling them ({saved}){launches()}"
        return Plan("steps", why, None)
    why = "small products, many steps: launches would take the time"
    if not one_launch.worth_it(kernel, net.layer_sizes, rows):
        why = f"of {networks:,} networks, {min(networks, multiprocessors)} train side by side"
    return Plan("one launch", f"{why} ({limit}){products}", None)


def _too_few(steps: int) -> str:
    return f"{count_of(steps, 'step')} {'is' if steps == 1 else 'are'} too few"


def _why_not_compiled(net: MLP, loss: Loss, optimizer: Optimizer, singly: str | None) -> str | None:
    """Return why the compiled loop can't run this, if it can't."""
    if type(net.backend) is not NumpyBackend:
        return f"the network is on {net.device}"
    if singly is not None:
        return f"{singly} takes single steps"
    return why_not(net.layer_sizes, net.activations, loss, optimizer, net.dtype)


def _why_not_fused(net: MLP) -> str | None:
    """Return why nothing elementwise can be compiled, if it can't."""
    if type(net.backend) is not NumpyBackend:
        return f"the network is on {net.device}"
    return None if compiler() else NO_COMPILER


def _saved_by_fusing(net: MLP, optimizer: Optimizer, rows: int) -> float:
    """Return the seconds that a step gains, roughly."""
    outputs = float(rows * sum(net.layer_sizes[1:]))
    return SAVED_PER_OUTPUT * outputs + SAVED_PER_SLOT * optimizer.slots * len(net.parameters)


def _launches(net: MLP, loss: Loss, optimizer: Optimizer, singly: str | None) -> str:
    """Return how the steps are launched on a GPU, as the end of a sentence."""
    if type(net.backend) is NumpyBackend:
        return ""
    why = why_not_captured(net, loss, optimizer)
    if why is not None:
        return f"; its kernels are launched one by one, for {why}"
    if singly is not None:
        return f"; gradients and update are a CUDA graph each, with {singly} between them"
    return f"; up to {MOST} steps are a CUDA graph"

"""From a plan to what runs the steps."""

from __future__ import annotations

from functools import partial

from backprop_gpu.backends import NumpyBackend
from backprop_gpu.compiled import or_numpy
from backprop_gpu.compiled.agreement import check_agreement
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.training.batches import ArrayBatches, Batches
from backprop_gpu.training.paths.compiled_steps import CompiledSteps
from backprop_gpu.training.paths.one_launch_steps import OneLaunchSteps
from backprop_gpu.training.paths.runner import StepRunner
from backprop_gpu.training.paths.single_steps import Steps
from backprop_gpu.training.paths.step import NO_LIMITS, Limits
from backprop_gpu.training.planning import PathName, Plan
from backprop_gpu.training.streams import StreamBatches
from backprop_gpu.training.weighting import WeightedBatches, weighted


def planned_steps(
    net: MLP,
    batches: Batches,
    loss: Loss,
    optimizer: Optimizer,
    chosen: Plan,
    *,
    insists: bool,
    stacklevel: int,
    seed: int | None = None,
    limits: Limits = NO_LIMITS,
    penalizes: bool = False,
) -> tuple[StepRunner, PathName]:
    """Return what runs the steps, and its path: NumPy's if the planned one does not compile.

    Parameters
    ----------
    net, batches, optimizer, limits, penalizes
        As of `Steps`.
    loss : Loss
        Of the samples, without their weights.
    chosen : Plan
    insists, stacklevel
        As of `or_numpy`.
    seed : int, optional
        What shuffles arrays. Default: the batches know their orders.
    """
    given, of_batches = batches, loss
    if isinstance(batches, WeightedBatches):
        given, of_batches = batches.unscaled, weighted(loss)
    by_steps = partial(
        Steps, net, batches, of_batches, optimizer, limits=limits, penalizes=penalizes
    )
    gpu = None if isinstance(net.backend, NumpyBackend) else net.backend
    with or_numpy(insists=insists, stacklevel=stacklevel):
        if gpu is not None or chosen.path in ("compiled", "fused"):
            check_agreement(net.activations, net.layer_sizes[-1], loss, optimizer, net.dtype, gpu)
        if chosen.path == "compiled" and isinstance(given, ArrayBatches | StreamBatches):
            compiled = CompiledSteps(
                net,
                given,
                loss,
                optimizer,
                seed if isinstance(given, ArrayBatches) else None,  # a stream shuffles itself
                chosen.threads or 1,
                penalizes=penalizes,
                weighted=given is not batches,
                limits=limits,
            )
            return compiled, "compiled"
        if chosen.path == "fused":
            return by_steps(fuses=True), "fused"
    if chosen.path == "one launch" and isinstance(batches, ArrayBatches):
        return OneLaunchSteps(net, batches, loss, optimizer, seed, limits), "one launch"
    return by_steps(), "steps"

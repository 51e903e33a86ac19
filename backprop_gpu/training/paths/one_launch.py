"""Training steps of small networks on a GPU, many steps and many networks in one launch.

Where the arithmetic of a step takes microseconds, launching its kernels takes most of the time.
`kernels/train_warp.cu` gives a network to a warp, which keeps it in registers;
`kernels/train_block.cu` to a block, which keeps it in shared memory, and can multiply in TF32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backprop_gpu import kernels
from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array, limit_in, weight_count
from backprop_gpu.backends.cuda_backend import CudaBackend
from backprop_gpu.errors import DomainError
from backprop_gpu.expressions import REAL, entries_source, missing_expression
from backprop_gpu.losses import Loss
from backprop_gpu.mlp import MLP
from backprop_gpu.optimizers import Optimizer
from backprop_gpu.shuffle import as_keys
from backprop_gpu.training.crossovers import CROSSOVERS, Crossover
from backprop_gpu.training.paths.step import NO_LIMITS, Limits

WARP_BATCH = CROSSOVERS["warp_batch"].value  # samples that a warp takes, one by one
TILE = 64  # samples that a block takes at once, where its shared memory is large enough
MOST_ORDERED = 1 << 22  # samples of one launch whose order is worked out beforehand

# Of the 255 registers of a thread, those for what it keeps of the parameters from step to step.
WARP_REGISTERS, BLOCK_REGISTERS = 168, 130

# Parts of a layer's gradient, as in patch.cuh, and in mma.cuh for TF32: rows and columns.
PARTS = {False: ((8, 8), (8, 4), (4, 4), (2, 2), (1, 1)), True: ((32, 32), (16, 16))}


class Gpu(NamedTuple):
    """What a GPU has for blocks of threads."""

    shared_bytes: int  # at most
    tf32: bool = True
    multiprocessors: int = 1  # each takes one block at least


class Kernel(NamedTuple):
    """A kernel's file, and what of a GPU each network takes."""

    file: Literal["train_warp", "train_block"]
    threads: int
    tile: int = 1
    shared_bytes: int = 0
    tf32: bool = False

    @property
    def worker(self) -> str:
        """Who trains a network, as a plan says it."""
        return "one warp" if self.file == "train_warp" else "one block"


def choose(
    layer_sizes: Sequence[int],
    activations: Sequence[Activation],
    loss: Loss,
    optimizer: Optimizer,
    precision: str,
    batch_size: int,
    gpu: Gpu,
) -> Kernel | str:
    """Return the kernel that trains such a network; why there is none, in a sentence, if so.

    `precision` is that of a network: what its products are computed in.
    """
    missing = missing_expression(activations, loss, optimizer)
    if missing is not None:
        return missing
    if precision == "bf16":
        return "one launch multiplies in float32 or TF32, and precision is 'bf16'"
    if precision == "tf32" and not gpu.tf32:
        return "precision is 'tf32', and the GPU has no TF32, being older than sm_80"
    itemsize = 8 if precision == "float64" else 4
    tf32 = precision == "tf32"
    block = _block(layer_sizes, activations, loss, itemsize, tf32, batch_size, gpu)
    if tf32:  # train_warp.cu multiplies no matrices
        return block
    warp = _warp(layer_sizes, optimizer, itemsize)
    if isinstance(warp, Kernel) and (batch_size <= WARP_BATCH or isinstance(block, str)):
        return warp
    return f"{warp}, and {block}" if isinstance(block, str) else block


def kernel_for(net: MLP, loss: Loss, optimizer: Optimizer, batch_size: int) -> Kernel | str:
    """Return the kernel that trains a network where it is; see `choose`."""
    entries = net.layer_sizes, net.activations, loss, optimizer
    return choose(*entries, net.precision, batch_size, gpu_of(net.backend))


def gpu_of(backend: Any) -> Gpu:
    """Return what a block has on the GPU of a backend."""
    cuda = getattr(backend.xp, "cuda", None)
    if cuda is None:  # what stands for a GPU in tests
        return Gpu(48 << 10)
    with backend.computing():
        device = cuda.Device()
        names = "MaxSharedMemoryPerBlockOptin", "MultiProcessorCount"
        shared_bytes, multiprocessors = (int(device.attributes[name]) for name in names)
        return Gpu(shared_bytes, int(device.compute_capability) >= 80, multiprocessors)


def worth_it(
    kernel: Kernel,
    layer_sizes: Sequence[int],
    batch_size: int,
    networks: int = 1,
    multiprocessors: int = 1,
) -> bool:
    """Return whether one launch is faster than a graph of each step, whose products fill a GPU.

    Graphs of many networks take turns, each at least as long as at the limit. In a launch they
    train side by side: as many as there are multiprocessors at once, in the time of one.
    """
    weights = 1 if kernel.file == "train_warp" else weight_count(layer_sizes)
    turns = -(-networks // multiprocessors)
    return batch_size * weights * turns <= limit_of(kernel).value * networks


def limit_of(kernel: Kernel) -> Crossover:
    """Return how many samples, or samples times weights in a block, are worth one launch."""
    if kernel.file == "train_warp":
        return CROSSOVERS["warp_alone_batch"]
    return CROSSOVERS["block_work_tf32" if kernel.tf32 else "block_work"]


class OneLaunch:
    """Training of networks of one architecture, all at once.

    Parameters
    ----------
    net : MLP
        One of them, on a GPU.
    loss : Loss
    optimizer : Optimizer
        The learning rate and the weight decay may differ from network to network.
    batch_size : int
    limits : Limits
        What gradients are clipped to, but for those of single samples.

    Raises
    ------
    DomainError
        If there is no kernel for this: with the reason.
    """

    def __init__(
        self,
        net: MLP,
        loss: Loss,
        optimizer: Optimizer,
        batch_size: int,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._backend: CudaBackend = net.backend  # type: ignore[assignment]
        self._dtype, self._batch_size = net.dtype, batch_size
        kernel = kernel_for(net, loss, optimizer, batch_size)
        if isinstance(kernel, str):
            raise DomainError(f"training takes more than one launch: {kernel}")
        entries = net.layer_sizes, net.activations, loss, optimizer
        clips = limits != NO_LIMITS
        self._kernel, self._source = kernel, source(*entries, net.dtype.name, kernel, clips)
        self._limits = [
            net.dtype.type(math.inf) if limit is None else limit_in(limit, net.dtype)
            for limit in (limits.value, limits.norm)
        ]

    def run(
        self,
        parameters: Array,
        state: Sequence[Array],
        x: Array,
        y: Array,
        *,
        steps: range,
        numbers: NDArray[np.float64],
        losses: Array,
        seeds: Sequence[int] | None = None,
        rows: Array | None = None,
    ) -> None:
        """Make steps; change `parameters`, `state` and `losses` in place.

        Parameters
        ----------
        parameters : array, shape (networks, size)
        state : sequence of array, shape (networks, state_length(size))
            As many as the optimizer has slots. Of one network, (1, size) will do.
        x, y : array, shapes (samples, inputs) and (samples, outputs)
            The data of all networks.
        steps : range
            Counted from 0 over all epochs.
        numbers : ndarray, shape (networks, steps, 4) or (1, steps, 4)
            See `numbers_of`; one table may serve all networks.
        losses : array, shape (networks, steps)
            Of every batch, before its update. A network stops at the first that is not finite,
            before its update; NaN comes after it.
        seeds : sequence of int, optional
            What shuffles each network's batches, as `shuffled` does.
        rows : array of int64, shape (networks, n), optional
            The rows of the data that each network is trained on. Default: all of them.
        """
        networks, n = len(parameters), len(x) if rows is None else rows.shape[1]
        order, order_stride, epoch_stride = None, 0, 0
        batches = -(-n // self._batch_size)
        first = steps.start % batches
        epochs = -(-(first + len(steps)) // batches)
        if rows is not None:
            order, order_stride = rows, n
        if seeds is not None and batches > 1:  # as for `Steps`, one batch keeps its order
            order = self._backend.empty((networks, epochs, n), np.dtype(np.int64))
            self._backend.shuffle(as_keys(seeds), steps.start // batches, order)
            order_stride, epoch_stride = epochs * n, n
            if rows is not None:
                order = self._backend.xp.take_along_axis(rows[:, None], order, axis=-1)
        losses.fill(math.nan)
        s0, s1, *_ = (*state, None, None)
        numbers_stride = 0 if len(numbers) == 1 else len(steps)
        sizes = (n, self._batch_size, first * self._batch_size, len(steps), epochs)
        self._backend.launch(
            self._source,
            "train",
            kernels.Launch((networks, 1, 1), (self._kernel.threads, 1, 1)),
            (
                *(parameters, s0, s1, x, y, order),
                *(self._backend.asarray(numbers, self._dtype), losses),
                *map(np.int64, (*sizes, order_stride, epoch_stride, numbers_stride)),
                *self._limits,
            ),
            self._kernel.shared_bytes,
        )


def state_length(size: int) -> int:
    """Return how far apart the state of networks lies: what is aligned in one is so in the next."""
    return -(-size // 4) * 4  # STATE of train.cuh


def most_steps(n: int, batch_size: int, networks: int) -> int:
    """Return how many steps one launch may make, for the memory that the order of samples takes."""
    return max(1, MOST_ORDERED // (n * networks)) * -(-n // batch_size)


def source(
    layer_sizes: Sequence[int],
    activations: Sequence[Activation],
    loss: Loss,
    optimizer: Optimizer,
    dtype: str,
    kernel: Kernel,
    clips: bool = False,
) -> str:
    """Return one complete translation unit, whose kernel is `train`."""
    constants = {
        **{"L": len(activations), "SLOTS": optimizer.slots, "THREADS": kernel.threads},
        **{"TILE": kernel.tile, "SHARED_BYTES": kernel.shared_bytes},
    }
    high, wide = zip(
        *(_gradient(*pair, kernel.tf32)[1] for pair in pairwise(layer_sizes)), strict=True
    )
    lists = {"SIZES": layer_sizes, "HIGH": high, "WIDE": wide}
    truths = {"TF32": kernel.tf32, "CLIPS": clips}
    network = (
        "#define INLINE static __device__ __forceinline__",
        *(f"constexpr int {name} = {value};" for name, value in constants.items()),
        *(f"constexpr bool {name} = {int(value)};" for name, value in truths.items()),
        *(f"constexpr int {name}[] = {{{', '.join(map(str, of))}}};" for name, of in lists.items()),
        entries_source(activations, loss),
    )
    functions = {"update_one": str(optimizer.cuda)}
    return kernels.assemble(kernel.file, REAL[dtype], functions, "\n".join(network))


def _warp(layer_sizes: Sequence[int], optimizer: Optimizer, itemsize: int) -> Kernel | str:
    if max(layer_sizes) > kernels.WARP:
        return f"a layer has {max(layer_sizes)} nodes, more than the {kernels.WARP} lanes of a warp"
    numbers = sum(inputs + 1 for inputs, _ in pairwise(layer_sizes)) * (2 + optimizer.slots)
    if numbers * itemsize > 4 * WARP_REGISTERS:
        return (
            f"with {type(optimizer).__name__}, a lane would keep {numbers} numbers of {itemsize} "
            "bytes, more than its registers hold"
        )
    return Kernel("train_warp", kernels.WARP)


def _block(
    layer_sizes: Sequence[int],
    activations: Sequence[Activation],
    loss: Loss,
    itemsize: int,
    tf32: bool,
    batch_size: int,
    gpu: Gpu,
) -> Kernel | str:
    *hidden, last = activations
    crosses = loss.is_canonical_for(last) and loss.cuda_canonical_rows == "softmax_cross_entropy"
    if any(g.cuda_rows for g in hidden) or (last.cuda_rows and not crosses):
        return "a block takes softmax only as the last layer's, under cross-entropy"
    threads, pairs = kernels.THREADS, [*pairwise(layer_sizes)]
    if max(layer_sizes) > threads:
        return f"a layer has {max(layer_sizes)} nodes, more than a block's {threads} threads"
    registers = sum(_gradient(inputs, nodes, tf32)[0] for inputs, nodes in pairs)
    if registers * itemsize > 4 * BLOCK_REGISTERS:
        return "its gradient is more than the registers of a block hold"
    # As train_block.cu lays them out: some layers keep z as well.
    at_once = 16 // itemsize
    strides = [
        (size + 7) // 16 * 16 + 8 if tf32 else at_once * (-(-size // at_once) | 1)
        for size in layer_sizes
    ]
    z_strides = [
        stride if g.derivative_from == "z" else 0
        for stride, g in zip(strides[1:], hidden, strict=False)
    ]
    weights = sum(nodes * stride for nodes, stride in zip(layer_sizes[1:], strides, strict=False))
    fixed = weights + sum(strides[1:]) + at_once * (z_strides.count(0) + 1)
    row = sum(strides) + sum(z_strides)
    wanted = min(TILE, batch_size)
    room = gpu.shared_bytes // itemsize - fixed - 2 * threads  # those for block_sum and block_max
    most = min(wanted, room // (row + 8 // itemsize))  # and where each sample is
    if most < min(wanted, 8):
        return (
            f"its parameters take more than the {gpu.shared_bytes:,} bytes that a block can share"
        )
    tiles = -(-batch_size // most)
    tile = -(-batch_size // tiles)  # alike: a smaller last one would take as long as the others
    return Kernel("train_block", threads, tile, (fixed + tile * row) * itemsize, tf32)


def _gradient(inputs: int, nodes: int, tf32: bool) -> tuple[int, tuple[int, int]]:
    """Return how many numbers of a layer's gradient a thread keeps, and in what parts."""
    sharing = kernels.WARP if tf32 else 1

    def shares(high: int, wide: int) -> int:
        return -(-(-(-nodes // high) * -(-inputs // wide) * sharing) // kernels.THREADS)

    def numbers(high: int, wide: int) -> int:
        return shares(high, wide) * high * wide // sharing

    def time(high: int, wide: int) -> int:  # as Products::time of patch.cuh
        return shares(high, wide) * (high * wide + 2 * (high + wide))

    part = min(PARTS[tf32], key=lambda part: (0 if tf32 else time(*part), numbers(*part)))
    return numbers(*part) + 1, part

"""A training loop that is one call: made for one network, loss, optimizer and batch size."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import DTYPES, weight_count
from backprop_gpu.compiled.compiler import NO_COMPILER, compiler, load, zeros
from backprop_gpu.compiled.source import BLOCK_BATCH, MOST_THREADS, source
from backprop_gpu.errors import DomainError, DtypeError, ShapeError, check_count
from backprop_gpu.expressions import SLOTS, missing_expression
from backprop_gpu.losses import Loss
from backprop_gpu.optimizers import Optimizer

Floats = NDArray[np.floating[Any]]

MOST_LAYERS = 16  # each takes the compiler a fraction of a second more
MOST_WEIGHTS = 1 << 26  # of which there are up to four copies
FEW_BYTES = 1e7  # of weights: with more, the loop gains a tenth over BLAS, and not much more

# Compiling takes a second or two, once for each kind of training on a machine. It is worth it where
# NumPy would take so many seconds: few weights, many weights.
WORTH_COMPILING, WORTH_COMPILING_LARGE = 1.0, 20.0


def why_not(
    layer_sizes: Sequence[int],
    activations: Sequence[Activation],
    loss: Loss,
    optimizer: Optimizer,
    dtype: Any,
) -> str | None:
    """Return why `CompiledLoop` can't train this, in a sentence; None if it can."""
    return why_no_library(layer_sizes, dtype) or missing_expression(activations, loss, optimizer)


def why_no_library(layer_sizes: Sequence[int], dtype: Any) -> str | None:
    """Return why nothing can be compiled for such layers, in a sentence; None if it can."""
    if np.dtype(dtype).name not in DTYPES:
        return f"the dtype is {dtype}, not float32 or float64"
    if compiler() is None:
        return NO_COMPILER
    if len(layer_sizes) - 1 > MOST_LAYERS:
        return f"the network has more than {MOST_LAYERS} layers"
    if weight_count(layer_sizes) > MOST_WEIGHTS:
        return f"the network has more than {MOST_WEIGHTS} weights"
    return None


def seconds_worth_compiling(
    layer_sizes: Sequence[int], batch_size: int, dtype: Any, *, mkl: bool = False
) -> float:
    """Return how many seconds NumPy has to take for a training to be worth a loop of its own.

    It is infinite where MKL's products are as fast. Single samples the loop takes as they come,
    whatever the network.
    """
    # The time of "fused" steps over the loop's, with plain gradient descent and with Adam, two
    # threads. (Two cores of a fourth-generation EPYC, 23 November 2026; up to 5.1 MB, before there
    # were panels, which gain nothing there. MKL's: of a Sapphire-Rapids-class Xeon, where the loop
    # still had blocks of 4 rows; these made it 1.2 times as slow on the EPYC.)
    #     layers          batch             MB       NumPy          MKL
    #     256-256-10          8   float32  0.3    2.0   1.3     1.7   1.3
    #     128-256-256-1    1024   float32  0.4    1.2   1.3     1.3   1.5
    #     128-256-256-1    1024   float64  0.8    1.4   1.4     1.2   1.1
    #     784-256-10        128   float32  0.8    1.3   1.0     1.5   1.1
    #     784-256-10        128   float64  1.6    1.2   1.2     1.1   0.9
    #     784-512-10        128   float32  1.6    2.2   1.1     0.8   1.0
    #     784-512-256-10     64   float32  2.1    1.2   1.2     0.7   0.8
    #     512-512-512       256   float32  2.1    1.1   1.0     1.0   0.8
    #     784-800-800-10    128   float32  5.1    1.1   1.0
    #     784-1024-1024-10   64   float32  7.4    1.1   1.2
    #     784-1024-1024-10 1024   float32  7.4    1.1   1.1
    #     784-1024-1024-10  256   float64   15    1.1
    #     784-2048-2048-10   64   float32   23    1.1   1.1
    #     784-2048-2048-10  256   float32   23    1.1   1.1
    #     784-2048-2048-10  256   float64   46          0.9
    #     2048-4096-4096-2048, 4096 float32 134   1.0 to 1.1
    weights = weight_count(layer_sizes)
    if batch_size < BLOCK_BATCH or weights <= 1 << 17:
        return WORTH_COMPILING
    if mkl:
        return math.inf
    large = weights * np.dtype(dtype).itemsize > FEW_BYTES
    return WORTH_COMPILING_LARGE if large else WORTH_COMPILING


class CompiledLoop:
    """Training steps in one call of a library that is compiled for them, or found in the cache.

    The call holds no lock of Python's. It can't be interrupted, so keep it short. Calls of one loop
    share its memory, and take turns.

    Parameters
    ----------
    layer_sizes : sequence of int
        Nodes in every layer, the input's first.
    activations : sequence of Activation
        One for every layer but the input.
    loss : Loss
    optimizer : Optimizer
    dtype : {"float32", "float64"}
    batch_size : int
        Samples in a batch; the last one of an epoch may be smaller.
    threads : int
        How many share each batch; their number changes no bit. Batches of very few
        samples are one thread's.
    penalizes : bool
        Whether the losses have the penalty of the weights in them; see `Step`.
    weighted : bool
        Whether y has one more column: how much each sample counts.
    clip_norm, clip_value : float
        The most that the norm of a gradient, and each number in it, may be; see `train`.

    Raises
    ------
    DomainError
        If `why_not` has a reason.
    CompileError
        With what the compiler says.
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activations: Sequence[Activation],
        loss: Loss,
        optimizer: Optimizer,
        dtype: Any,
        batch_size: int,
        threads: int = 1,
        *,
        penalizes: bool = False,
        weighted: bool = False,
        clip_norm: float = math.inf,
        clip_value: float = math.inf,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.batch_size = check_count("batch_size", batch_size)
        self.threads = min(check_count("threads", threads), MOST_THREADS)
        reason = why_not(layer_sizes, activations, loss, optimizer, dtype)
        if reason is not None:
            raise DomainError(f"there is no compiled training loop: {reason}")
        self._inputs, self._targets = layer_sizes[0], layer_sizes[-1] + weighted
        self._slots = optimizer.slots
        self._size = weight_count(layer_sizes) + sum(layer_sizes[1:])
        self._limits = clip_norm, clip_value
        entries = layer_sizes, activations, loss, optimizer
        text = source(
            *entries,
            self.dtype.name,
            batch_size,
            penalizes=penalizes,
            clips=min(self._limits) < math.inf,
            weighted=weighted,
        )
        library = load(text)
        self._train, self._memory_size = library.train, library.memory_size
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        self._train.argtypes = [*[pointer] * 5, *[integer] * 3, *[pointer] * 5, ctypes.c_int]
        self._train.argtypes += [ctypes.c_double] * 2
        self._memory_size.argtypes = [integer]
        self._train.restype = self._memory_size.restype = integer
        self._memory = zeros(0)
        self._turn = threading.Lock()

    def run(
        self,
        parameters: Floats,
        state: Sequence[Floats],
        x: Floats,
        y: Floats,
        *,
        first_step: int,
        numbers: NDArray[np.float64],
        losses: Floats,
        seed: int | None = None,
        orders: Sequence[NDArray[np.int64]] | None = None,
    ) -> int:
        """Run a step for every entry of `losses`; change `parameters` and `state` in place.

        Parameters
        ----------
        parameters : ndarray, shape (size,)
            All weights, layer by layer, then all biases.
        state : sequence of ndarray, shape (size,)
            As many as the optimizer has slots.
        x : ndarray, shape (n, inputs)
        y : ndarray, shape (n, outputs)
        first_step : int
            Steps are counted from 0: with B batches in an epoch, step t is batch t % B of epoch
            t // B.
        numbers : ndarray of float64, shape (steps, 4)
            Of each step: learning rate, weight decay, and the optimizer's two corrections.
        losses : ndarray, shape (steps,)
            Gets each batch's loss before its update.
        seed : int, optional
            Decides the order of the samples, as `shuffle.shuffled` does. Without it, and without
            `orders`, they are taken as they come.
        orders : sequence of ndarray of int64, shape (n,), optional
            The order of every epoch that the steps are in, in place of a seed.

        Returns
        -------
        int
            How many losses were written: all of them, or those up to and with the first that is
            not finite; its update is not made.

        Raises
        ------
        DtypeError, ShapeError, DomainError
            Before anything is changed.
        MemoryError
        """
        n, steps = len(x), len(losses)
        if len(state) != self._slots:
            raise ShapeError(f"state has {len(state)} arrays; expected {self._slots}")
        arrays = [
            _checked("parameters", parameters, self.dtype, (self._size,)),
            *[_checked("state", slot, self.dtype, (self._size,)) for slot in state],
            *[None] * (SLOTS - len(state)),
            _checked("x", x, self.dtype, (n, self._inputs)),
            _checked("y", y, self.dtype, (n, self._targets)),
        ]
        seed_place = None if seed is None else ctypes.byref(ctypes.c_uint64(seed))
        with self._turn:
            ran: int = self._train(
                *arrays,
                n,
                first_step,
                steps,
                _checked("numbers", numbers, np.dtype(np.float64), (steps, 4)),
                _checked("losses", losses, self.dtype, (steps,)),
                seed_place,
                self._places(orders, range(first_step, first_step + steps), n),
                self._place_to_work(0 if seed is None else n),
                self.threads,
                *self._limits,
            )
        return ran

    def _place_to_work(self, shuffled: int) -> int:
        """Return the address of the memory that calls keep, for so many shuffled samples."""
        size = self._memory_size(shuffled)
        if len(self._memory) != size:
            self._memory = zeros(size)
        return self._memory.ctypes.data

    def _places(
        self, orders: Sequence[NDArray[np.int64]] | None, steps: range, n: int
    ) -> ctypes.Array[ctypes.c_void_p] | None:
        """Return the addresses of the orders of the steps' epochs."""
        if orders is None:
            return None
        batches = -(-n // self.batch_size)
        epochs = -(-steps.stop // batches) - steps.start // batches
        if len(orders) != epochs:
            raise ShapeError(f"there are {len(orders)} orders; the steps are in {epochs} epochs")
        places = [_checked("an order", order, np.dtype(np.int64), (n,)) for order in orders]
        low, high = min(map(np.min, orders)), max(map(np.max, orders))
        if low < 0 or high >= n:
            raise DomainError(f"orders hold {low} to {high}; expected 0 to {n - 1}")
        return (ctypes.c_void_p * epochs)(*places)


def _checked(name: str, array: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """Return the array's address; C++ reads what is there without asking."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise DtypeError(f"{name} is {array.dtype}; expected {dtype}, C-contiguous")
    if array.shape != shape:
        raise ShapeError(f"{name} has shape {array.shape}; expected {shape}")
    return array.ctypes.data

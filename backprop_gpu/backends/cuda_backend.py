"""The CUDA backend: cuBLAS for matrix products, the project's fused kernels for everything else.

What it needs of the GPU is an array module and a way to launch a kernel, both passed in. On a GPU
those are CuPy and its RawKernel (see `cupy_device`); the tests pass NumPy and a launcher that runs
the very same sources on the CPU.

A kernel is put together from an entry's CUDA expressions. An activation, loss or optimizer without
them is computed by the entry's array functions, as on the CPU.

Whatever a method does goes through `_call`, which can write it down instead of doing it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from backprop_gpu import kernels
from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array, ArrayModule, limit_in, on_gpu
from backprop_gpu.backends.protocol import Precision
from backprop_gpu.backends.recording import Capture, Recording, Replay
from backprop_gpu.backends.uploads import NoUploads, Uploads
from backprop_gpu.errors import DeviceError, DtypeError, ShapeError
from backprop_gpu.expressions import REAL, of_output
from backprop_gpu.losses import Loss
from backprop_gpu.optimizers import Optimizer, own_update
from backprop_gpu.shuffle import orders


class Launcher(Protocol):
    """Compiles a source once and launches a kernel of it."""

    def launch(
        self,
        source: str,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: Sequence[Array | np.generic | None],
        shared_bytes: int = 0,
    ) -> None:
        """Launch `name` of `source`; None is a null pointer.

        `shared_bytes` are the dynamic shared memory of a block.
        """


# Samples of an epoch up to which each one's place in the order is found by counting, n^2
# comparisons in one launch: an estimate. Sorting takes CuPy a dozen launches, and memory.
MOST_COUNTED = 1 << 12

# A kernel file and the device functions it calls: (file, (name, body), ...).
Program = tuple[Any, ...]


class CudaBackend:
    """Arrays are on a CUDA device.

    Parameters
    ----------
    xp : module
        CuPy, or what stands for it.
    launcher : Launcher
    device : str
        "cuda:0", ...
    on_device : callable
        Returns a context in which `xp` and `launcher` use this device.
    multiply : callable (A, B, out), optional
        A matrix product that can be captured. Default: `xp.dot`, which can't.
    send : callable (values, out)
        Copies from the CPU. Default: for arrays that are there.
    turn : callable () -> int
        Returns the number of the stream that the device works on now. Default: there is one.
    descend : callable (A, B, W, numbers), optional
        Gradient descent in one with its product; see `Backend.descend`.
    capture : Capture, optional
        Makes CUDA graphs. Default: there are none.
    precision : {"float32", "tf32", "bf16"}
        How `multiply` takes float32.
    uploads : callable
        Makes what `Backend.uploads` returns. Default: for arrays that are on the CPU.
    """

    def __init__(
        self,
        xp: ArrayModule,
        launcher: Launcher,
        device: str,
        on_device: Callable[[], AbstractContextManager[Any]],
        multiply: Callable[[Array, Array, Array], None] | None = None,
        capture: Capture | None = None,
        precision: Precision = "float32",
        uploads: Callable[[], Uploads] = NoUploads,
        descend: Callable[[Array, Array, Array, Array], None] | None = None,
        turn: Callable[[], int] = lambda: 0,
        send: Callable[[NDArray[Any], Array], None] = lambda values, out: np.copyto(out, values),
    ) -> None:
        self.xp = xp
        self._on_device = on_device
        self.device = device
        self.precision = precision
        self.threads: int | None = None
        self._launcher = launcher
        self._multiply = multiply
        self._descend = descend
        self._capture = capture
        self._uploads = uploads
        self._turn = turn
        self._send = send
        self._recording: Recording | None = None

    def computing(self, flops: float = math.inf) -> AbstractContextManager[Any]:
        return self._on_device()

    def asarray(self, values: Any, dtype: np.dtype[Any]) -> Array:
        with self.computing():
            if on_gpu(values) and not hasattr(values, "__cuda_array_interface__"):
                values = self.xp.from_dlpack(values)
            if on_gpu(values):
                values = self._brought_here(values)
            else:  # what CuPy has no dtype for, NumPy converts
                with np.errstate(over="ignore"):
                    values = np.ascontiguousarray(values, dtype=dtype)
            return self.xp.ascontiguousarray(self.xp.asarray(values), dtype=dtype)

    def _brought_here(self, values: Array) -> Array:
        """Return a copy of CuPy's array if it is on another GPU, or else what there is.

        CuPy copies between GPUs what is contiguous, and the streams of one don't know the other's.
        """
        cuda = getattr(self.xp, "cuda", None)
        if cuda is None or not isinstance(values, self.xp.ndarray):
            return values
        if values.device == cuda.Device():
            return values
        with values.device:
            values = self.xp.ascontiguousarray(values)
            cuda.get_current_stream().synchronize()
        copied = values.copy()
        self.synchronize()  # before the memory that was copied from is somebody else's
        return copied

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        return array.get() if hasattr(array, "get") else np.asarray(array)

    def write(self, values: np.ndarray[Any, Any], out: Array) -> None:
        with np.errstate(over="ignore"):
            self._send(values, out)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        with self.computing():
            return self.xp.empty(shape, dtype)

    def gemm(self, A: Array, B: Array, out: Array) -> None:
        if self._multiply is not None:
            self._call(self._multiply, A, B, out)
        else:
            self._call_uncaptured("CuPy's products can't be captured", self.xp.dot, A, B, out)

    def descends(self, flops: float) -> bool:
        return self._descend is not None

    def descend(self, A: Array, B: Array, W: Array, numbers: Array) -> None:
        assert self._descend is not None  # as `descends` says
        self._call(self._descend, A, B, W, numbers)

    def bias_activation(self, z: Array, b: Array, activation: Activation, a: Array) -> None:
        arrays = (z, b, None if a is z else z, a)
        if activation.cuda_rows is not None:
            name = activation.cuda_rows
            self._launch_by_rows((name,), f"bias_{name}", *arrays)
        elif activation.cuda is not None:
            program = ("bias_activation", ("g", f"return {activation.cuda};"))
            sizes = (np.int64(z.size), np.int32(z.shape[1]))
            launch = kernels.elementwise(z.size)
            self._launch(program, "bias_activation", launch, (*arrays, *sizes))
        else:
            self._call(self.xp.add, z, b, z)
            self._call_own(_lacks_cuda(activation), activation.apply, self.xp, z, a)

    def delta(
        self,
        dC_da: Array,
        activation: Activation,
        reference: Array,
        delta: Array,
        dC_db: Array,
    ) -> None:
        arrays = (dC_da, reference, delta)
        if activation.cuda_rows is not None:
            name = activation.cuda_rows
            self._launch_by_rows((name,), f"{name}_delta", *arrays)
        elif activation.cuda_derivative is not None and activation.jacobian_product is None:
            g_prime = f"g_prime_of_{activation.derivative_from}"
            program = ("delta", (g_prime, f"return {activation.cuda_derivative};"))
            self._two_stages(program, "delta_bias", arrays, delta, dC_db)
            return
        else:
            self._call_own(_lacks_cuda(activation), activation.delta, self.xp, *arrays)
        self.column_sum(delta, dC_db)

    def output_delta(
        self,
        loss: Loss,
        activation: Activation,
        z: Array,
        a: Array,
        y: Array,
        C: Array,
        dC_da: Array | None = None,
        delta: Array | None = None,
    ) -> None:
        n, outputs = a.shape
        one_over_n = a.dtype.type(1 / n)
        canonical = loss.is_canonical_for(activation)
        functions = _loss_functions(loss, activation)
        if canonical and loss.cuda_canonical_rows and activation.cuda_rows:
            program: Program = (activation.cuda_rows,)
            name, launch = loss.cuda_canonical_rows, kernels.warp_rows(n)
            partial_sums, size = n, n
        elif functions is not None:
            program = ("loss", *functions)
            name, launch = "loss_delta", kernels.elementwise(a.size)
            partial_sums, size = launch.grid[0], a.size
        else:
            what = _lacks_cuda(loss if loss.cuda is None else activation)
            self._call_own(
                what,
                loss.output_delta,
                self.xp,
                activation,
                z,
                a,
                y,
                C,
                dC_da,
                delta,
            )
            return
        by_rows = program[0] == "loss" and activation.cuda_rows is not None
        by_rows = by_rows and delta is not None and not canonical
        lost = dC_da is None or dC_da is a  # but a is needed until delta is there
        slope = self._scratch("slope", a.shape, a.dtype) if by_rows and lost else dC_da
        sums = self._scratch("sums", (partial_sums,), a.dtype)
        z_in = z if canonical or activation.derivative_from == "z" else None
        arrays = (z_in, a, y, slope, None if by_rows else delta, sums)
        self._launch(
            program, name, launch, (*arrays, np.int64(size), np.int32(outputs), one_over_n)
        )
        self._launch(
            ("loss_finish",),
            "loss_finish",
            kernels.one_block(),
            (sums, C, np.int32(partial_sums), one_over_n),
        )
        if by_rows:  # dC/dz of one output depends on dC/da of all
            name = f"{activation.cuda_rows}_delta"
            self._launch_by_rows((activation.cuda_rows,), name, slope, a, delta)

    def penalize(self, C: Array, weights: Array, numbers: Array) -> None:
        launch = kernels.elementwise(weights.size)
        blocks = launch.grid[0]
        sums = self._scratch("sums", (blocks,), C.dtype)
        self._launch(("penalty",), "squares", launch, (weights, sums, np.int64(weights.size)))
        finish = (sums, C, numbers, np.int32(blocks))
        self._launch(("penalty",), "penalize", kernels.one_block(), finish)

    def clip_values(self, gradient: Array, limit: float) -> None:
        size, most = np.int64(gradient.size), limit_in(limit, gradient.dtype)
        launch = kernels.elementwise(gradient.size)
        self._launch(("clip",), "clip_values", launch, (gradient, most, size))

    def clip_norm(self, gradient: Array, limit: float) -> None:
        size, most = np.int64(gradient.size), limit_in(limit, gradient.dtype)
        launch = kernels.elementwise(gradient.size)
        blocks = launch.grid[0]
        peaks, sums = (self._scratch(name, (blocks,), gradient.dtype) for name in ("peaks", "sums"))
        count = np.int32(blocks)
        self._launch(("clip",), "find_peaks", launch, (gradient, peaks, size))
        self._launch(("clip",), "scaled_squares", launch, (gradient, peaks, sums, count, size))
        self._launch(("clip",), "clip_norm", launch, (gradient, peaks, sums, most, count, size))

    def column_sum(self, array: Array, out: Array) -> None:
        self._two_stages(("column_sum",), "column_sum", (array,), array, out)

    def gather(self, rows: Array, index: Array, out: Array) -> None:
        self._launch_by_rows(("gather",), "gather", rows, index, out)

    def shuffle(self, seeds: NDArray[np.uint64], first_epoch: int, out: Array) -> None:
        _, epochs, n = out.shape
        if n > MOST_COUNTED:
            out[...] = orders(n, range(first_epoch, first_epoch + epochs), seeds, self.xp)
            return
        launch, parts = kernels.parts_of(n, len(seeds) * epochs)
        several = self.asarray(seeds, seeds.dtype) if len(seeds) > 1 else None
        sizes = map(np.int64, (first_epoch, epochs, n, parts))
        args = (several, seeds[0], out, *sizes)
        self._launch(("shuffle",), "shuffle", launch, args, real="float")

    def all_finite(self, arrays: Sequence[Array], out: Array) -> None:
        self._call(out.fill, 1)
        for array in arrays:
            launch = kernels.elementwise(array.size)
            args = (array, out, np.int64(array.size))
            self._launch(("finite",), "find_infinite", launch, args)

    def copy_if(self, condition: Array, values: Array, out: Array) -> None:
        args = (condition, values, out, np.int64(values.size))
        self._launch(("finite",), "copy_if", kernels.elementwise(values.size), args)

    def update(
        self,
        optimizer: Optimizer,
        parameters: Array,
        gradient: Array,
        state: Sequence[Array],
        numbers: Array,
        decayed: int,
    ) -> None:
        if optimizer.cuda is None:
            values = [numbers[i, ...] for i in range(len(numbers))]
            self._call_own(
                f"{type(optimizer).__name__} has no CUDA expression",
                own_update,
                optimizer,
                self.xp,
                parameters,
                gradient,
                state,
                values,
                decayed,
            )
            return
        s0, s1, *_ = (*state, None, None)
        self._launch(
            ("update", ("update_one", optimizer.cuda)),
            "update",
            kernels.elementwise(parameters.size),
            (
                *(parameters, gradient, s0, s1, numbers),
                *(np.int64(parameters.size), np.int64(decayed)),
            ),
        )

    def record(self, work: Callable[[Any], None]) -> Callable[[], None]:
        """Return what repeats the work: a CUDA graph from the second time on, where it can be."""
        twin = copy(self)
        twin._recording = recording = Recording()
        work(twin)
        return Replay(recording, self._capture)

    def launch(
        self,
        source: str,
        name: str,
        launch: kernels.Launch,
        args: Sequence[Array | np.generic | None],
        shared_bytes: int = 0,
    ) -> None:
        """Launch a kernel of a complete source on this device."""
        with self.computing():
            self._launcher.launch(source, name, launch.grid, launch.block, args, shared_bytes)

    def turn(self) -> int:
        with self.computing():
            return self._turn()

    def uploads(self) -> Uploads:
        with self.computing():
            return self._uploads()

    def synchronize(self) -> None:
        cuda = getattr(self.xp, "cuda", None)
        if cuda is not None:
            with self.computing():
                cuda.get_current_stream().synchronize()

    def _launch(
        self,
        program: Program,
        name: str,
        launch: kernels.Launch,
        args: Sequence[Array | np.generic | None],
        real: str | None = None,
    ) -> None:
        """Launch a kernel in the dtype of its first array, unless `real` says in which."""
        dtype = next(arg.dtype for arg in args if arg is not None)
        self._call(
            self._launcher.launch,
            _source(program, real or REAL[dtype.name]),
            name,
            launch.grid,
            launch.block,
            args,
        )

    def _launch_by_rows(self, program: Program, name: str, *arrays: Array) -> None:
        """Launch a kernel that gives a warp every row of its last array."""
        rows, columns = arrays[-1].shape
        sizes = (np.int64(rows), np.int32(columns))
        self._launch(program, name, kernels.warp_rows(rows), (*arrays, *sizes))

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        if self._recording is None:
            function(*args)
        else:
            self._recording.calls.append(partial(function, *args))

    def _call_uncaptured(self, obstacle: str, function: Callable[..., Any], *args: Any) -> None:
        """Call what may allocate, or wait for the device; `obstacle` says why."""
        if self._recording is not None:
            self._recording.obstacle = obstacle
        self._call(function, *args)

    def _call_own(self, obstacle: str, function: Callable[..., Any], *args: Any) -> None:
        """Call functions that an entry has of its own; what they raise says what they work on."""
        note = (
            f"{obstacle}, so its own functions are given arrays of {self.xp.__name__} on "
            f"{self.device}; compute with the array module that they are given as xp"
        )
        self._call_uncaptured(obstacle, _with_note, note, function, *args)

    def _scratch(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array for one operation's own use."""
        if self._recording is None:
            return self.empty(shape, dtype)
        return self._recording.array(name, shape, dtype, self.empty)

    def _two_stages(
        self,
        program: Program,
        name: str,
        arrays: tuple[Array, ...],
        summed: Array,
        out: Array,
    ) -> None:
        """Launch a kernel that leaves partial column sums of `summed`, and add those up."""
        rows, columns = summed.shape
        launch, rows_per_block = kernels.column_tiles(rows, columns)
        row_blocks = launch.grid[1]
        sums = self._scratch("sums", (row_blocks * columns,), out.dtype)
        sizes = (np.int64(rows), np.int32(columns), np.int64(rows_per_block))
        self._launch(program, name, launch, (*arrays, sums, *sizes))
        self._launch(
            ("column_sum",),
            "column_sum_finish",
            kernels.columns(columns),
            (sums, out, np.int32(row_blocks), np.int32(columns)),
        )


def _lacks_cuda(entry: Activation | Loss) -> str:
    return f"{entry.name!r} has no CUDA expressions"


def _with_note(note: str, function: Callable[..., Any], *args: Any) -> None:
    try:
        function(*args)
    except (MemoryError, DeviceError, DtypeError, ShapeError):  # say what there is to say
        raise
    except Exception as error:
        error.add_note(note)
        raise


@cache
def _source(program: Program, real: str) -> str:
    file, *functions = program
    return kernels.assemble(file, real, dict(functions))


def _loss_functions(loss: Loss, activation: Activation) -> tuple[tuple[str, str], ...] | None:
    """Return the device functions of `loss_delta`, or None if an expression is missing."""
    term, dC_da, dC_dz = of_output(loss, activation)
    if dC_dz is None and activation.cuda_rows:
        dC_dz = "real(0)"  # by a kernel of its own
    if term is None or dC_da is None or dC_dz is None:
        return None
    named = ("loss_term", term), ("loss_slope", dC_da), ("output_slope", dC_dz)
    return tuple((name, f"return {expression};") for name, expression in named)

"""The NumPy backend: the specification of what every backend computes.

Every operation is a few NumPy calls that fill arrays that are there already. So a step can be
recorded once, as a list of calls, and then repeated without the Python code in between. For this,
all calls go through `_call` or `_begin`: `NumpyBackend` makes them, `NumpyRecording` lists them.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backprop_gpu.activations import Activation
from backprop_gpu.arrays import Array, limit_in, on_gpu
from backprop_gpu.backends.mkl import Mkl
from backprop_gpu.backends.protocol import Precision
from backprop_gpu.backends.uploads import NoUploads, Uploads
from backprop_gpu.errors import DeviceError, check_count
from backprop_gpu.losses import Loss
from backprop_gpu.optimizers import Optimizer, own_update
from backprop_gpu.shuffle import orders

# Elementwise work goes through an array in pieces of so many entries, which stay in a core's cache
# from one pass to the next: 256 KiB of float32. Measured best between 2^14 and 2^18 entries.
TILE = 1 << 16

# In a step of fewer FLOPs than this, BLAS's second thread costs more than it saves. On a machine
# that does other things, too, it costs many times as much, because the threads wait spinning.
SMALL = 5e7

# With fewer FLOPs than this, BLAS itself takes one thread.
TINY = 2e5

# With fewer FLOPs than this, MKL loses: a call by ctypes takes a microsecond longer.
WORTH_MKL = 1e6


class _Threads:
    """Limits BLAS's threads while any context is open: the setting is the whole process's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: list[int] = []
        self._before: list[int] = []

    @contextmanager
    def __call__(self, count: int) -> Iterator[None]:
        with self._lock:
            if not self._wanted:
                self._before = [library.get_num_threads() for library in _blas()]
            self._wanted.append(count)
            self._set()
        try:
            with np.errstate(all="ignore"):
                yield
        finally:
            with self._lock:
                self._wanted.remove(count)
                self._set()

    def _set(self) -> None:
        """Let BLAS have the fewest threads that an open context wants."""
        for library, before in zip(_blas(), self._before, strict=True):
            library.set_num_threads(min([before, *self._wanted]))


_quietly_on_threads = _Threads()


@cache  # looking for the libraries takes as long as many small steps
def _blas() -> Sequence[Any]:
    """Return what controls the threads of NumPy's BLAS; nothing without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return ()
    found: Sequence[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


def tiles(array: Array) -> list[slice]:
    """Return slices of rows that hold about TILE entries each."""
    if array.size <= TILE:
        return [slice(0, len(array))]
    step = max(1, TILE * len(array) // array.size)
    return [slice(start, start + step) for start in range(0, len(array), step)]


@cache  # one a batch size
def _ones(n: int, dtype: np.dtype[Any]) -> Array:
    return np.ones(n, dtype)


class NumpyBackend:
    """Arrays are `numpy.ndarray`, on the CPU.

    Parameters
    ----------
    threads : int, optional
        How many threads BLAS may use, at most; needs threadpoolctl (extra ``threads``). Default:
        as many as BLAS likes, but one for small steps.
    mkl : Mkl, optional
        Multiplies all but small matrices. NumPy's own BLAS then has one thread.
    """

    device = "cpu"
    xp = np
    precision: Precision = "float32"

    def __init__(self, threads: int | None = None, mkl: Mkl | None = None) -> None:
        self.threads = None if threads is None else check_count("threads", threads)
        self.mkl = mkl
        self._xp: Any = np

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.threads, self.mkl)  # a module can't be pickled

    def computing(self, flops: float = math.inf) -> AbstractContextManager[Any]:
        threads = 1 if flops < SMALL else self.threads
        if flops >= TINY and self.mkl is not None:
            return self._by_mkl(self.mkl, threads)
        if threads is None or flops < TINY:
            return np.errstate(all="ignore")
        return _quietly_on_threads(threads)

    def asarray(self, values: Any, dtype: np.dtype[Any]) -> Array:
        if on_gpu(values):
            raise DeviceError(
                f"an array ({type(values).__module__}.{type(values).__name__}) is in GPU memory "
                "and the network on the CPU; bring the array to the CPU first, or build the "
                "network with device='cuda'"
            )
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes an infinity
            return np.ascontiguousarray(values, dtype=dtype)

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array)

    def write(self, values: np.ndarray[Any, Any], out: Array) -> None:
        out[...] = values

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return np.empty(shape, dtype)

    def gemm(self, A: Array, B: Array, out: Array) -> None:
        if self.mkl is not None and 2.0 * out.size * A.shape[1] >= WORTH_MKL:
            self._call(self.mkl.gemm(A, B, out))
        else:
            self._call(A.dot, B, out)  # half the call overhead of np.dot

    def descends(self, flops: float) -> bool:
        return self.mkl is not None and flops >= SMALL

    def descend(self, A: Array, B: Array, W: Array, numbers: Array) -> None:
        if self.mkl is not None:
            self._call(self.mkl.descend(A, B, W, numbers))
            return
        product = np.empty_like(W)
        self.gemm(A, B, product)
        xp = self._begin()
        xp.multiply(product, numbers[2, ...], out=product)
        xp.multiply(W, numbers[3, ...], out=W)
        xp.add(W, product, out=W)

    def bias_activation(self, z: Array, b: Array, activation: Activation, a: Array) -> None:
        if len(z) == 1:
            b = b[None]  # arrays of one shape are added in half the time
        for rows in tiles(z):
            z_rows = z[rows]
            a_rows = z_rows if a is z else a[rows]
            xp = self._begin()
            xp.add(z_rows, b, out=z_rows)
            if activation.in_place:
                activation.apply(xp, z_rows, a_rows)
            else:
                self._call(activation.apply, np, z_rows, a_rows)

    def delta(
        self,
        dC_da: Array,
        activation: Activation,
        reference: Array,
        delta: Array,
        dC_db: Array,
    ) -> None:
        parts = tiles(delta)
        sums = _partial_sums(parts, delta, dC_db)
        for i, rows in enumerate(parts):
            delta_rows = delta[rows]
            self._begin()
            self._delta(activation, dC_da[rows], reference[rows], delta_rows)
            self._sum_rows(delta_rows, sums[i])  # while delta is in the cache
        if len(parts) > 1:
            self._call(np.add.reduce, sums, 0, None, dC_db)

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
        n, parts, value_and_gradient = len(a), tiles(a), loss.in_place
        sums = C if len(parts) == 1 else np.empty(len(parts), a.dtype)
        for i, rows in enumerate(parts):
            z_rows, a_rows, y_rows = z[rows], a[rows], y[rows]
            delta_rows = None if delta is None else delta[rows]
            slope = delta_rows if dC_da is delta else None if dC_da is None else dC_da[rows]
            if value_and_gradient is None or loss.is_canonical_for(activation):
                arrays = z_rows, a_rows, y_rows, sums[i : i + 1], slope, delta_rows
                self._call(loss.output_delta, np, activation, *arrays, n)
                continue
            xp = self._begin()
            if slope is None or delta is a:
                slope = xp.empty_like(a_rows)
            value_and_gradient(xp, a_rows, y_rows, 1 / n, sums[i : i + 1], slope)
            if delta_rows is not None:
                reference = z_rows if activation.derivative_from == "z" else a_rows
                self._delta(activation, slope, reference, delta_rows)
        if sums is not C:
            self._call(np.add.reduce, sums, None, None, C, True)

    def penalize(self, C: Array, weights: Array, numbers: Array) -> None:
        square = np.empty((1, 1), C.dtype)
        self._call(weights[None].dot, weights[:, None], square)
        xp = self._begin()
        for factor in (numbers[1, ...], 0.5):
            xp.multiply(square, factor, out=square)
        xp.add(C, square[0], out=C)

    def clip_values(self, gradient: Array, limit: float) -> None:
        most = limit_in(limit, gradient.dtype)
        self._call(np.clip, gradient, -most, most, gradient)

    def clip_norm(self, gradient: Array, limit: float) -> None:
        self._call(_clip_norm, gradient, limit_in(limit, gradient.dtype))

    def column_sum(self, array: Array, out: Array) -> None:
        parts = tiles(array)
        sums = _partial_sums(parts, array, out)
        for i, rows in enumerate(parts):
            self._sum_rows(array[rows], sums[i])
        if len(parts) > 1:
            self._call(np.add.reduce, sums, 0, None, out)

    def gather(self, rows: Array, index: Array, out: Array) -> None:
        self._call(np.take, rows, index, 0, out, "clip")  # "raise" would copy once more

    def shuffle(self, seeds: NDArray[np.uint64], first_epoch: int, out: Array) -> None:
        epochs = range(first_epoch, first_epoch + out.shape[1])
        out[...] = orders(out.shape[2], epochs, seeds, np)

    def all_finite(self, arrays: Sequence[Array], out: Array) -> None:
        # Not by BLAS, whose threads would go on spinning where compiled steps want the cores.
        out[0] = all(np.isfinite(array).all() for array in arrays)

    def copy_if(self, condition: Array, values: Array, out: Array) -> None:
        if condition[0]:
            out[...] = values

    def update(
        self,
        optimizer: Optimizer,
        parameters: Array,
        gradient: Array,
        state: Sequence[Array],
        numbers: Array,
        decayed: int,
    ) -> None:
        values = [numbers[i, ...] for i in range(len(numbers))]
        in_place = getattr(optimizer, "in_place", False)
        for part in tiles(parameters):
            slots = [slot[part] for slot in state]
            weights = max(0, decayed - part.start)
            arrays = parameters[part], gradient[part], slots, values, weights
            if in_place:
                optimizer.update(self._begin(), *arrays)
            else:
                self._call(own_update, optimizer, np, *arrays)

    def record(self, work: Callable[[Any], None]) -> Callable[[], None]:
        return NumpyRecording(self.mkl).of(work)

    def turn(self) -> int:
        return 0

    def uploads(self) -> Uploads:
        return NoUploads()

    def synchronize(self) -> None:
        pass

    @contextmanager
    def _by_mkl(self, mkl: Mkl, threads: int | None) -> Iterator[None]:
        """Leave NumPy's BLAS one thread: two pools would wait for each other, spinning."""
        with _quietly_on_threads(1), mkl.on_threads(threads):
            yield

    def _delta(self, activation: Activation, dC_da: Array, reference: Array, out: Array) -> None:
        """Compute delta in one tile, as a part of an operation that has begun."""
        if activation.in_place and activation.jacobian_product is None:
            activation.delta(self._xp, dC_da, reference, out)
        else:
            self._call(activation.delta, np, dC_da, reference, out)

    def _begin(self) -> Any:
        """Begin an operation; return the array module for its calls, each with ``out=``."""
        return self._xp

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        function(*args)

    def _sum_rows(self, array: Array, out: Array) -> None:
        if len(array) == 1:
            self._call(np.copyto, out, array[0])
        else:
            self._call(_ones(len(array), array.dtype).dot, array, out)  # faster than np.add.reduce


class NumpyRecording(NumpyBackend):
    """Lists the calls that the NumPy backend would make."""

    def __init__(self, mkl: Mkl | None) -> None:
        super().__init__(mkl=mkl)
        self._calls: list[Callable[[], Any]] = []
        self._xp = _Recorder(self._calls)

    def of(self, work: Callable[[Any], None]) -> Callable[[], None]:
        """Return a function that makes the calls of `work(backend)`."""
        work(self)
        return partial(_repeat, self._calls)

    def _begin(self) -> Any:
        self._xp.begin()
        return self._xp

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        self._calls.append(partial(function, *args))


class _Recorder:
    """Stands for NumPy in a recording: it lists calls instead of making them.

    Numbers become arrays of shape (), which NumPy takes faster. Operations share their scratch
    arrays, because one operation is done before the next begins.
    """

    def __init__(self, calls: list[Callable[[], Any]]) -> None:
        self._calls = calls
        self._scratch: dict[tuple[Any, ...], Array] = {}
        self._taken = 0

    def begin(self) -> None:
        self._taken = 0

    def empty_like(self, array: Array, dtype: Any = None) -> Array:
        self._taken += 1
        key = self._taken, array.shape, np.dtype(dtype or array.dtype)
        if key not in self._scratch:
            self._scratch[key] = np.empty(*key[1:])
        return self._scratch[key]

    def copyto(self, out: Array, values: Any) -> None:
        self._calls.append(partial(np.copyto, out, values))

    def dot(self, A: Array, B: Array, out: Array) -> None:
        self._calls.append(partial(A.dot, B, out))

    def __getattr__(self, name: str) -> Callable[..., None]:
        function = getattr(np, name)

        def write_down(*args: Any, out: Array) -> None:
            (dtype, *_) = [arg.dtype for arg in args if hasattr(arg, "dtype")]
            fixed = [arg if hasattr(arg, "dtype") else np.array(arg, dtype) for arg in args]
            if name in ("maximum", "minimum"):  # these two need out by name, which costs 0.1 us
                self._calls.append(partial(function, *fixed, out=out))
            else:
                self._calls.append(partial(function, *fixed, out))

        return write_down


def _clip_norm(gradient: Array, limit: Any) -> None:
    peak = np.maximum(np.abs(gradient).max(), np.finfo(gradient.dtype).tiny)
    scaled = gradient / peak  # the square of a large number would overflow
    kept = limit / np.sqrt(np.dot(scaled, scaled))  # what the largest number becomes
    if not kept >= peak:  # true for NaN, which goes into every number
        np.multiply(scaled, kept, gradient)


def _repeat(calls: Sequence[Callable[[], Any]]) -> None:
    for call in calls:
        call()


def _partial_sums(parts: Sequence[slice], array: Array, out: Array) -> Array:
    """Return an array for the tiles' column sums; a sum of sums rounds less than one long sum."""
    return out[None] if len(parts) == 1 else np.empty((len(parts), len(out)), array.dtype)

"""Who is timed on a GPU: this library in its ways, and what its users would take instead.

A contestant makes steps of full-batch gradient descent on the mean squared error, with data and
parameters of its own on the device. Asking for steps and waiting until they are done are two
calls, so that the host's time and the device's can be told apart. Nothing is read back between
steps, by anyone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import backprop_gpu as bp
from backprop_gpu.backends import Backend
from backprop_gpu.batches import shuffled_batches
from backprop_gpu.benchmark import Products
from backprop_gpu.network import feed_forward, propagate_back
from backprop_gpu.optimizers import numbers_of
from backprop_gpu.steps import Steps
from backprop_gpu.windows import MOST
from benchmarks import plain_numpy

LEARNING_RATE = 0.01
HEAVY = 1e11  # FLOPs of a step
TORCH_DEVICE, JAX_PLATFORM = "cuda", "gpu"


@dataclass(frozen=True)
class Contestant:
    """Does the work.

    Attributes
    ----------
    ask : callable (times) -> losses
        Ask for so many steps. The losses may be on the device.
    wait : callable () -> None
        Wait until all is done.
    mark, between : callable, optional
        Record an event in the stream; the milliseconds between two of them.
    least : int
        Steps that are asked for at once, at least.
    """

    ask: Callable[[int], Any]
    wait: Callable[[], None]
    mark: Callable[[], Any] | None = None
    between: Callable[[Any, Any], float] | None = None
    least: int = 1


Build = Callable[[bp.MLP, np.ndarray, np.ndarray, str], Contestant]
"""Given a network on the CPU, its data and a precision."""


def open_backend(precision: str) -> Backend:
    from backprop_gpu.backends.cupy_device import open_gpu

    return open_gpu(0, "float32" if precision == "float64" else precision)


def of_backend(backend: Backend, ask: Callable[[int], Any], least: int = 1) -> Contestant:
    """Return a contestant on a backend; CUDA's events come from CuPy, where that is below."""
    cuda = getattr(backend.xp, "cuda", None)
    if cuda is None:
        return Contestant(ask, backend.synchronize, least=least)

    def mark() -> Any:
        event = cuda.Event()
        event.record()
        return event

    return Contestant(ask, backend.synchronize, mark, cuda.get_elapsed_time, least)


def at_once(net: bp.MLP, x: Any) -> int:
    """Return how many steps to ask for at once, at least: few, where one takes milliseconds."""
    return MOST if 6.0 * len(x) * net.weight_count < HEAVY else 2


def graphs(net: bp.MLP, x: Any, y: Any, precision: str) -> Contestant:
    """Return the library's steps as CUDA graphs, once they run."""
    net = net.copy(device=open_backend(precision))
    loss = net.check_loss("mse")
    x, y = net.check_data(x, y, loss)
    batches = shuffled_batches(x, y, len(x), None, net.backend)
    optimizer = bp.SGD(LEARNING_RATE)
    steps = Steps(net, batches, loss, optimizer)

    def ask(times: int) -> np.ndarray:
        run = range(times)
        with net.backend.computing():
            return steps.run(run, numbers_of(optimizer, run, np.zeros(times)))[0]

    return of_backend(net.backend, ask, 1 + at_once(net, x))


def single_launches(net: bp.MLP, x: Any, y: Any, precision: str) -> Contestant:
    """Return the library's steps, each kernel launched from Python."""
    net = net.copy(device=open_backend(precision))
    loss, optimizer = net.check_loss("mse"), bp.SGD(LEARNING_RATE)
    x, y = net.check_data(x, y, loss)
    trace, gradients = net.new_trace(x), net.new_gradients(len(x))
    numbers = net.backend.asarray([LEARNING_RATE, 0, 0, 0], net.dtype)
    update = optimizer, net.parameters, gradients.flat, [], numbers, net.weight_count

    def ask(times: int) -> list[Any]:
        losses = []
        with net.backend.computing():
            for _ in range(times):
                feed_forward(net.backend, net.layers, trace)
                propagate_back(net.backend, net.layers, trace, y, loss, gradients, gradients.C)
                losses.append(gradients.C.copy())
                net.backend.update(*update)
        return losses

    return of_backend(net.backend, ask)


def trained(net: bp.MLP, x: Any, y: Any, precision: str) -> Contestant:
    """Return `train` itself, with all that it does around the steps, on the path it chooses."""
    net = net.copy(device=open_backend(precision))
    x, y = net.check_data(x, y, net.check_loss("mse"))
    optimizer = bp.SGD(LEARNING_RATE)

    def ask(times: int) -> list[float]:
        return bp.train(net, x, y, optimizer=optimizer, epochs=times).loss

    return of_backend(net.backend, ask, 10 * at_once(net, x))


def products(net: bp.MLP, x: Any, y: Any, precision: str) -> Contestant:
    """Return the matrix products of a step with nothing around them: the floor."""
    net = net.copy(device=open_backend(precision))
    loss = net.check_loss("mse")
    x, y = net.check_data(x, y, loss)
    trace, gradients = net.new_trace(x), net.new_gradients(len(x))
    written: Any = Products()
    unit = at_once(net, x)
    feed_forward(written, net.layers, trace)
    propagate_back(written, net.layers, trace, y, loss, gradients, gradients.C)

    def many(backend: Backend) -> None:
        for A, B, out in written.operands * unit:
            backend.gemm(A, B, out)

    repeat = net.backend.record(many)

    def ask(times: int) -> None:
        with net.backend.computing():
            for _ in range(times // unit):
                repeat()

    return of_backend(net.backend, ask, unit)


def plain_cupy(net: bp.MLP, x: Any, y: Any, precision: str) -> Contestant:
    """Return a notebook's NumPy script on CuPy's arrays, as users move it to a GPU."""
    backend = open_backend(precision)
    weights = [backend.asarray(W, net.dtype) for W in net.weights]
    biases = [backend.asarray(b[:, None], net.dtype) for b in net.biases]
    columns = [backend.asarray(np.ascontiguousarray(data.T), net.dtype) for data in (x, y)]

    def ask(times: int) -> list[Any]:
        with backend.computing():
            return plain_numpy.train(weights, biases, *columns, times, LEARNING_RATE)

    return of_backend(backend, ask)


def torch_eager(net: bp.MLP, x: Any, y: Any, precision: str) -> Contestant:
    torch, model, x, y = _in_torch(net, x, y, precision)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)

    def ask(times: int) -> list[Any]:
        losses = []
        for _ in range(times):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    return _of_torch(torch, ask)


def torch_compiled(net: bp.MLP, x: Any, y: Any, precision: str) -> Contestant:
    """Return torch.compile of the whole step, with the CUDA graphs that it makes by itself."""
    torch, model, x, y = _in_torch(net, x, y, precision)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)

    @torch.compile(mode="reduce-overhead", dynamic=False)
    def loss_of() -> Any:
        return torch.nn.functional.mse_loss(model(x), y)

    update = torch.compile(optimizer.step)

    def ask(times: int) -> list[Any]:
        losses = []
        for _ in range(times):
            torch.compiler.cudagraph_mark_step_begin()
            optimizer.zero_grad(set_to_none=False)
            loss = loss_of()
            loss.backward()
            update()
            losses.append(loss.detach().clone())
        return losses

    return _of_torch(torch, ask)


def torch_graph(net: bp.MLP, x: Any, y: Any, precision: str) -> Contestant:
    """Return PyTorch's step as one CUDA graph, by its manual."""
    torch, model, x, y = _in_torch(net, x, y, precision)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)
    before = [p.detach().clone() for p in model.parameters()]

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    with torch.no_grad():  # warming up has changed them
        for p, kept in zip(model.parameters(), before, strict=True):
            p.copy_(kept)

    def ask(times: int) -> list[Any]:
        losses = []
        for _ in range(times):
            graph.replay()
            losses.append(loss.detach().clone())
        return losses

    return _of_torch(torch, ask)


def _in_torch(net: bp.MLP, x: Any, y: Any, precision: str) -> tuple[Any, Any, Any, Any]:
    import torch

    if TORCH_DEVICE == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no GPU")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    modules: list[Any] = []
    for l, (W, b, _) in enumerate(net.layers):
        linear = torch.nn.Linear(W.shape[1], W.shape[0], dtype=getattr(torch, net.dtype.name))
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(W))
            linear.bias.copy_(torch.from_numpy(b))
        modules += [linear, torch.nn.LeakyReLU(0.1) if l == 0 else torch.nn.Sigmoid()]
    model = torch.nn.Sequential(*modules).to(TORCH_DEVICE)
    x, y = (torch.from_numpy(data).to(TORCH_DEVICE) for data in (x, y))
    return torch, model, x, y


def _of_torch(torch: Any, ask: Callable[[int], Any]) -> Contestant:
    def mark() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    if TORCH_DEVICE == "cpu":
        return Contestant(ask, lambda: None)
    return Contestant(ask, torch.cuda.synchronize, mark, lambda one, two: one.elapsed_time(two))


def jax_scan(net: bp.MLP, x: Any, y: Any, precision: str) -> Contestant:
    """Return JAX, with as many steps as are asked for in one program."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if jax.default_backend() != JAX_PLATFORM:
        raise RuntimeError(f"this JAX computes on the {jax.default_backend()}")
    mode = "tensorfloat32" if precision == "tf32" else "highest"
    jax.config.update("jax_default_matmul_precision", mode)
    jax.config.update("jax_enable_x64", net.dtype == np.float64)
    own = [(jax.numpy.array(W), jax.numpy.array(b)) for W, b, _ in net.layers]
    x, y = jax.numpy.array(x), jax.numpy.array(y)

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        for l, (W, b) in enumerate(parameters):
            z = x @ W.T + b
            x = jax.nn.leaky_relu(z, 0.1) if l == 0 else jax.nn.sigmoid(z)
        return jax.numpy.mean((x - y) ** 2)

    @partial(jax.jit, static_argnames="times", donate_argnames="parameters")
    def loop(parameters: Any, x: Any, y: Any, times: int) -> Any:
        def body(parameters: Any, _: None) -> Any:
            loss, slopes = jax.value_and_grad(loss_of)(parameters, x, y)
            return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, slopes), loss

        return jax.lax.scan(body, parameters, length=times)

    def ask(times: int) -> Any:
        nonlocal own
        own, losses = loop(own, x, y, times)
        return losses

    return Contestant(ask, lambda: jax.block_until_ready(own), least=at_once(net, x))


CONTESTANTS: dict[str, Build] = {
    "backprop_gpu, graphs": graphs,
    "matrix products alone": products,
    "backprop_gpu, train": trained,
    "backprop_gpu, single launches": single_launches,
    "PyTorch, CUDA graph": torch_graph,
    "JAX, scan": jax_scan,
    "PyTorch": torch_eager,
    "torch.compile": torch_compiled,
    "CuPy script": plain_cupy,
}
"""In the order of their turns: time may run out."""


def precisions_of(name: str, layer_sizes: Sequence[int], dtype: str) -> tuple[str, ...]:
    """Return in which precisions a contestant is timed on a network."""
    heavy = sum(a * b for a, b in pairwise(layer_sizes)) > 1e6 and dtype == "float32"
    if not heavy or name == "CuPy script":
        return (dtype,)
    own = name.startswith(("backprop_gpu", "matrix"))
    return ("float32", "tf32", "bf16") if own else ("float32", "tf32")

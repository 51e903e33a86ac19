"""Who is timed on a GPU beside the library: what its users would take instead."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from benchmarks import plain_numpy
from benchmarks.gpu import contestants, rows
from benchmarks.gpu.contestants import LEARNING_RATE, Contestant, Entry, at_once, of_backend
from benchmarks.gpu.rows import Case
from benchmarks.torch_network import sequential

TORCH_DEVICE, JAX_PLATFORM = "cuda", "gpu"
EPOCH_FLOPS, EPOCH = 1e9, 1024  # where a step has no more, one program makes so many of them


def plain_cupy(case: Case) -> Contestant:
    """Return a notebook's NumPy script on CuPy's arrays, as users move it to a GPU."""
    net, *data = case.network.build("cpu", case.network.batch)
    backend = contestants.open_backend(case.precision)
    weights = [backend.asarray(W, net.dtype) for W in net.weights]
    biases = [backend.asarray(b[:, None], net.dtype) for b in net.biases]
    columns = [backend.asarray(np.ascontiguousarray(array.T), net.dtype) for array in data]

    def ask(times: int) -> list[Any]:
        with backend.computing():
            return plain_numpy.train(weights, biases, *columns, times, LEARNING_RATE)

    return of_backend(backend, ask, "NumPy's script on CuPy's arrays")


def torch_eager(case: Case) -> Contestant:
    torch, _, step = _torch_step(case)

    def ask(times: int) -> list[Any]:
        return [step().detach() for _ in range(times)]

    return _of_torch(torch, ask, "eager")


def torch_compiled(case: Case) -> Contestant:
    """Return torch.compile, with the CUDA graphs that it makes by itself."""
    torch, _, step = _torch_step(case, compiled=True)

    def ask(times: int) -> list[Any]:
        losses = []
        for _ in range(times):
            torch.compiler.cudagraph_mark_step_begin()
            losses.append(step().detach().clone())
        return losses

    return _of_torch(torch, ask, 'torch.compile, mode="reduce-overhead"')


def torch_graph(case: Case) -> Contestant:
    """Return PyTorch's step as one CUDA graph, by its manual."""
    torch, model, step = _torch_step(case)
    before = [p.detach().clone() for p in model.parameters()]
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

    return _of_torch(torch, ask, "a CUDA graph of a step")


def torch_together(case: Case) -> Contestant:
    """Return many networks as torch.func has them, eagerly: each operation for all at once."""
    torch, model, x, y, mixed = _in_torch(case)
    parameters = {
        name: p.detach().expand(case.networks, *p.shape).contiguous()
        for name, p in model.named_parameters()
    }

    def loss_of(parameters: Any) -> Any:
        with mixed():
            output = torch.func.functional_call(model, parameters, (x,))
            return torch.nn.functional.mse_loss(output, y)

    step = torch.func.vmap(torch.func.grad_and_value(loss_of))

    def ask(times: int) -> list[Any]:
        losses = []
        for _ in range(times):
            slopes, loss = step(parameters)
            for name, p in parameters.items():
                p.sub_(slopes[name], alpha=LEARNING_RATE)
            losses.append(loss[0])
        return losses

    return _of_torch(torch, ask, "vmap, eager")


def _torch_step(case: Case, compiled: bool = False) -> tuple[Any, Any, Callable[[], Any]]:
    """Return torch, the network, and what makes a step and returns its loss."""
    torch, model, x, y, mixed = _in_torch(case)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE)

    def loss_of() -> Any:
        with mixed():
            return torch.nn.functional.mse_loss(model(x), y)

    update = optimizer.step
    if compiled:
        torch.compiler.reset()  # what was compiled for eight cases is not compiled for a ninth
        loss_of = torch.compile(loss_of, mode="reduce-overhead", dynamic=False)
        update = torch.compile(update)

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        update()
        return loss

    return torch, model, step


def _in_torch(case: Case) -> tuple[Any, Any, Any, Any, Callable[[], AbstractContextManager[Any]]]:
    """Return torch, the network, the data, and the context of a forward pass."""
    import torch

    if TORCH_DEVICE == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no GPU")
    torch.set_float32_matmul_precision("high" if case.precision == "tf32" else "highest")
    mixed = nullcontext
    if case.precision == "bf16":  # parameters and their gradients stay float32
        mixed = partial(torch.autocast, TORCH_DEVICE, torch.bfloat16)
    net, *data = case.network.build("cpu", case.network.batch)
    model = sequential(net).to(TORCH_DEVICE)
    x, y = (torch.from_numpy(array).to(TORCH_DEVICE) for array in data)
    return torch, model, x, y, mixed


def _of_torch(torch: Any, ask: Callable[[int], Any], plan: str) -> Contestant:
    def mark() -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    if TORCH_DEVICE == "cpu":
        return Contestant(ask, lambda: None, plan)
    elapsed: Callable[[Any, Any], float] = lambda one, other: one.elapsed_time(other)  # noqa: E731
    return Contestant(ask, torch.cuda.synchronize, plan, mark=mark, between=elapsed)


def jax_scan(case: Case) -> Contestant:
    """Return JAX, with many steps as one program; many networks as one, too."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if jax.default_backend() != JAX_PLATFORM:
        raise RuntimeError(f"this JAX computes on the {jax.default_backend()}")
    jax.config.update(
        "jax_default_matmul_precision", "tensorfloat32" if case.precision == "tf32" else "highest"
    )
    jax.config.update("jax_enable_x64", case.precision == "float64")
    net, *data = case.network.build("cpu", case.network.batch)
    x, y = map(jax.numpy.array, data)
    own = [(jax.numpy.array(W), jax.numpy.array(b)) for W, b, _ in net.layers]
    if case.networks > 1:
        own = jax.tree.map(lambda p: jax.numpy.stack([p] * case.networks), own)

    # To JAX on a GPU a precision named bfloat16 is TF32. As autocast has it: parameters and their
    # gradients stay float32, products and all between them are bf16.
    computed = jax.numpy.bfloat16 if case.precision == "bf16" else x.dtype

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        x, parameters = jax.tree.map(lambda p: p.astype(computed), (x, parameters))
        for l, (W, b) in enumerate(parameters):
            z = x @ W.T + b
            x = jax.nn.leaky_relu(z, 0.1) if l == 0 else jax.nn.sigmoid(z)
        return jax.numpy.mean((x.astype(y.dtype) - y) ** 2)

    slope_of = jax.value_and_grad(loss_of)
    if case.networks > 1:
        slope_of = jax.vmap(slope_of, in_axes=(0, None, None))

    @partial(jax.jit, static_argnames="times", donate_argnames="parameters")
    def program(parameters: Any, x: Any, y: Any, times: int) -> Any:
        def body(parameters: Any, _: None) -> Any:
            loss, slopes = slope_of(parameters, x, y)
            return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, parameters, slopes), loss

        return jax.lax.scan(body, parameters, length=times)

    light = case.networks * case.network.flops("step", case.network.batch) < EPOCH_FLOPS
    epoch = EPOCH if light else at_once(case)

    def ask(times: int) -> Any:
        nonlocal own
        for _ in range(-(-times // epoch)):
            own, losses = program(own, x, y, min(times, epoch))
        return losses.reshape(len(losses), -1)[:, 0]

    plan = f"lax.scan of {epoch} steps" + (", vmap" if case.networks > 1 else "")
    return Contestant(ask, lambda: jax.block_until_ready(own), plan, epoch)


PEERS: dict[str, Entry] = {
    "CuPy script": Entry(plain_cupy, rows.OWN_PRECISION),
    "PyTorch": Entry(torch_eager, rows.MAIN, "torch"),
    "PyTorch, CUDA graph": Entry(torch_graph, rows.MAIN, "torch"),
    "PyTorch, vmap": Entry(torch_together, rows.ENSEMBLES, "torch"),
    "JAX, scan": Entry(jax_scan, [*rows.MAIN, *rows.ENSEMBLES], "jax"),
    "torch.compile": Entry(torch_compiled, rows.MAIN, "torch"),
}
"""In the order of their turns: those that compile take longest."""

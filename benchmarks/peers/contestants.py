"""Who is timed: this library, and what a user could take instead, each as its users write it.

A contestant is built with a network's parameters and data, and makes steps of full-batch gradient
descent on the mean squared error. To add one, write its function and a line in CONTESTANTS.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.backends.mkl import open_mkl
from benchmarks import plain_numpy
from benchmarks.torch_network import sequential


@dataclass(frozen=True)
class Contestant:
    """Does the work on parameters of its own.

    Attributes
    ----------
    train : callable (times, learning_rate) -> sequence of float
        Make so many steps: forward, backward, update. Return the loss before each.
    parameters : callable () -> list of arrays
        Every W, shape (nodes, inputs), then every b, shape (nodes,), as NumPy arrays.
    predict : callable () -> array, shape (n, outputs), or None
        Feed the same batch forward; None if that is what another contestant does.
    """

    train: Callable[[int, float], Sequence[float]]
    parameters: Callable[[], list[np.ndarray]]
    predict: Callable[[], Any] | None


class Skipped(Exception):
    """A contestant has no reason to take part."""


Build = Callable[[bp.MLP, np.ndarray, np.ndarray], Contestant]


@dataclass(frozen=True)
class Entry:
    """A contestant that can be built.

    Attributes
    ----------
    build : callable (net, x, y) -> Contestant
    package, module : str
        What has to be installed, and how it is imported.
    activations : (str, str), optional
        Of hidden layers and of the last, where it can't have those of the others.
    """

    build: Build
    package: str = "numpy"
    module: str = "numpy"
    activations: tuple[str, str] | None = None


def own(net: bp.MLP, x: np.ndarray, y: np.ndarray, path: str | None = None) -> Contestant:
    """Return this library on the path that it takes for a long training, or on another."""
    net, usual = net.copy(), usual_path(net, len(x))
    if path == usual:
        raise Skipped(f"it is what {OWN} does there")
    settings: dict[str, Any] = {"loss": "mse", "path": path or usual}
    predict = net.predictor() if path is None else net

    def train(times: int, learning_rate: float) -> Sequence[float]:
        return bp.train(net, x, y, optimizer=bp.SGD(learning_rate), epochs=times, **settings).loss

    return Contestant(
        train,
        lambda: [array.copy() for array in (*net.weights, *net.biases)],
        lambda: predict(x),
    )


def own_with_mkl(net: bp.MLP, x: np.ndarray, y: np.ndarray) -> Contestant:
    """Return this library where MKL is installed, on networks whose products are not its own."""
    mkl = open_mkl()
    if mkl is None:
        raise Skipped("mkl is not installed")
    if usual_path(net, len(x)) == "compiled":
        raise Skipped("the compiled loop has products of its own")
    return own(net.copy(device=NumpyBackend(mkl=mkl)), x, y)


def usual_path(net: bp.MLP, samples: int) -> str:
    """Return what a training takes that is long enough for compiling to be worth it."""
    return bp.plan(net, samples=samples, epochs=1_000_000).path


def plain(net: bp.MLP, x: np.ndarray, y: np.ndarray) -> Contestant:
    """Return the script of a notebook."""
    weights = [W.copy() for W in net.weights]
    biases = [b[:, None].copy() for b in net.biases]
    x, y = x.T.copy(), y.T.copy()
    return Contestant(
        partial(plain_numpy.train, weights, biases, x, y),
        lambda: [array.copy() for array in (*weights, *(b[:, 0] for b in biases))],
        lambda: plain_numpy.forward(weights, biases, x)[1][-1].T,
    )


def scikit_learn(net: bp.MLP, x: np.ndarray, y: np.ndarray) -> Contestant:
    """Return MLPRegressor, with everything off that the others don't do.

    Its loss is half the mean squared error, and its gradient that of half the *sum* over outputs.
    Twice the loss, and 2 / outputs of the learning rate, are those of the others.
    """
    from sklearn.neural_network import MLPRegressor

    n, outputs = y.shape
    target = y[:, 0] if outputs == 1 else y
    model = MLPRegressor(
        hidden_layer_sizes=net.layer_sizes[1:-1],
        activation=net.activations[0].name,
        solver="sgd",
        alpha=0,
        momentum=0,
        batch_size=n,
        shuffle=False,
        tol=0,
        n_iter_no_change=np.inf,
        warm_start=True,
    )

    def train(times: int, learning_rate: float) -> Sequence[float]:
        model.set_params(max_iter=times, learning_rate_init=learning_rate * 2 / outputs)
        with warnings.catch_warnings():  # it has not converged
            warnings.simplefilter("ignore")
            model.fit(x, target)
        return 2 * np.array(model.loss_curve_[-times:])

    with warnings.catch_warnings():  # a batch has more samples than these
        warnings.simplefilter("ignore")
        model.partial_fit(x[:1], target[:1])  # makes arrays for the parameters
    for theirs, W in zip(model.coefs_, net.weights, strict=True):
        theirs[...] = W.T
    for theirs, b in zip(model.intercepts_, net.biases, strict=True):
        theirs[...] = b
    return Contestant(
        train,
        lambda: [*(W.T.copy() for W in model.coefs_), *(b.copy() for b in model.intercepts_)],
        lambda: model.predict(x).reshape(n, outputs),
    )


def torch_eager(net: bp.MLP, x: np.ndarray, y: np.ndarray) -> Contestant:
    """Return PyTorch as its tutorials have it."""
    torch, model, x, y = _in_torch(net, x, y)

    def train(times: int, learning_rate: float) -> Sequence[float]:
        optimizer = torch.optim.SGD(model.parameters(), learning_rate)
        losses = []
        for _ in range(times):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return Contestant(train, partial(_of_torch, model), partial(_inferred, model, x))


def torch_compiled(net: bp.MLP, x: np.ndarray, y: np.ndarray) -> Contestant:
    """Return torch.compile, of the whole step as one function.

    So it is up to seven times as fast on a small network as if the model alone is compiled:
    nothing is left for Python but a call.
    """
    torch, model, x, y = _in_torch(net, x, y)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss_of(parameters: Mapping[str, Any], x: Any, y: Any) -> Any:
        return torch.nn.functional.mse_loss(torch.func.functional_call(model, parameters, (x,)), y)

    @torch.compile(fullgraph=True, dynamic=False)
    def step(parameters: Mapping[str, Any], x: Any, y: Any, learning_rate: Any) -> Any:
        gradients, loss = torch.func.grad_and_value(loss_of)(parameters, x, y)
        for name, p in parameters.items():
            p.sub_(learning_rate * gradients[name])
        return loss

    def train(times: int, learning_rate: float) -> Sequence[float]:
        rate = torch.tensor(learning_rate, dtype=x.dtype)  # a number would be compiled in
        return [step(parameters, x, y, rate).item() for _ in range(times)]

    compiled = torch.compile(model, dynamic=False)
    return Contestant(train, partial(_of_torch, model), partial(_inferred, compiled, x))


def _in_torch(net: bp.MLP, x: np.ndarray, y: np.ndarray) -> tuple[Any, Any, Any, Any]:
    """Return torch, a network of its own with the same parameters, and the data."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes that wait for work
    import torch

    return torch, sequential(net), torch.from_numpy(x), torch.from_numpy(y)


def _of_torch(model: Any) -> list[np.ndarray]:
    linear = [module for module in model if hasattr(module, "weight")]
    parameters = [*(module.weight for module in linear), *(module.bias for module in linear)]
    return [p.detach().numpy().copy() for p in parameters]


def _inferred(model: Any, x: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(x)


def jax_step(net: bp.MLP, x: np.ndarray, y: np.ndarray, whole_loop: bool = False) -> Contestant:
    """Return JAX with a jitted step, or with all steps as one program."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    if net.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    own = [(jax.numpy.array(W), jax.numpy.array(b)) for W, b, _ in net.layers]
    x, y = jax.numpy.array(x), jax.numpy.array(y)

    def forward(parameters: Any, x: Any) -> Any:
        for l, (W, b) in enumerate(parameters):
            z = x @ W.T + b
            x = jax.nn.leaky_relu(z, 0.1) if l == 0 else jax.nn.sigmoid(z)
        return x

    def loss_of(parameters: Any, x: Any, y: Any) -> Any:
        return jax.numpy.mean((forward(parameters, x) - y) ** 2)

    def step(parameters: Any, x: Any, y: Any, learning_rate: float) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters, x, y)
        descend = partial(jax.tree.map, lambda p, g: p - learning_rate * g)
        return descend(parameters, gradients), loss

    @partial(jax.jit, static_argnames="times", donate_argnames="parameters")
    def loop(parameters: Any, x: Any, y: Any, learning_rate: float, times: int) -> Any:
        def body(parameters: Any, _: None) -> Any:
            return step(parameters, x, y, learning_rate)

        return jax.lax.scan(body, parameters, length=times)

    jitted = jax.jit(step, donate_argnums=0)

    def train_stepwise(times: int, learning_rate: float) -> Sequence[float]:
        nonlocal own
        losses = []
        for _ in range(times):
            own, loss = jitted(own, x, y, learning_rate)
            losses.append(loss)
        return [float(loss) for loss in losses]

    def train_at_once(times: int, learning_rate: float) -> Sequence[float]:
        nonlocal own
        own, losses = loop(own, x, y, learning_rate, times)
        return np.asarray(losses).tolist()

    def parameters() -> list[np.ndarray]:
        weights, biases = zip(*own, strict=True)
        return [np.array(array) for array in (*weights, *biases)]

    if whole_loop:
        return Contestant(train_at_once, parameters, None)
    infer = jax.jit(forward)
    return Contestant(train_stepwise, parameters, lambda: infer(own, x).block_until_ready())


OWN = "backprop_gpu"
CONTESTANTS = {
    OWN: Entry(own),
    f"{OWN}, steps": Entry(partial(own, path="steps")),
    f"{OWN}, MKL": Entry(own_with_mkl, "mkl"),
    "plain NumPy": Entry(plain),
    "scikit-learn": Entry(scikit_learn, "scikit-learn", "sklearn", ("relu", "identity")),
    "PyTorch": Entry(torch_eager, "torch", "torch"),
    "torch.compile": Entry(torch_compiled, "torch", "torch"),
    "JAX, a step": Entry(jax_step, "jax", "jax"),
    "JAX, whole loop": Entry(partial(jax_step, whole_loop=True), "jax", "jax"),
}
"""Who is timed, in the table's order. The first is what the others are compared with."""


def with_activations(net: bp.MLP, entry: Entry) -> bp.MLP:
    """Return the network that a contestant computes, with the same parameters."""
    if entry.activations is None:
        return net
    hidden, last = entry.activations
    names = [hidden for _ in pairwise(net.layer_sizes[:-1])] + [last]
    other = bp.MLP(net.layer_sizes, names, device=net.device, dtype=net.dtype)
    other.set_parameters(net.weights, net.biases)
    return other

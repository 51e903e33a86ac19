"""The plain NumPy script that people know from notebooks: the baseline of the benchmarks.

It is right, and it is written as such scripts are: one sample a column, a fresh array for every
result, the sigmoid computed once more for its derivative, W and b updated one by one. Where x is
float32, ``np.where(z > 0, 1, 0.1)`` is float64 all the same, and so is what is computed from it.
Hardly anyone notices, so it stays: this is what a user of NumPy has.
"""

import numpy as np


def leaky_relu(z):
    return np.where(z > 0, z, 0.1 * z)


def leaky_relu_dash(z):
    return np.where(z > 0, 1, 0.1)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def sigmoid_dash(z):
    return sigmoid(z) * (1 - sigmoid(z))


def mse(y, y_hat):
    return np.mean((y_hat - y) ** 2)


def mse_grad(y, y_hat):
    return 2 * (y_hat - y) / y.size


def activations(layers):
    """Leaky ReLU in the first layer and sigmoid in the others, each with its derivative."""
    return [(leaky_relu, leaky_relu_dash)] + [(sigmoid, sigmoid_dash)] * (layers - 1)


def forward(weights, biases, x):
    """Feed x forward; return every z, and every a, of which the first is x."""
    z, a = [], [x]
    for W, b, (g, _) in zip(weights, biases, activations(len(weights)), strict=True):
        z.append(W @ a[-1] + b)
        a.append(g(z[-1]))
    return z, a


def backward(weights, z, a, y):
    """Return the gradients of the mean squared error: one for every W, and one for every b."""
    grad_W, grad_b = [], []
    grad = mse_grad(y, a[-1])
    g = activations(len(weights))
    for l in reversed(range(len(weights))):
        _, g_dash = g[l]
        delta = grad * g_dash(z[l])
        grad_W.insert(0, delta @ a[l].T)
        grad_b.insert(0, np.sum(delta, axis=1, keepdims=True))
        if l > 0:
            grad = weights[l].T @ delta
    return grad_W, grad_b


def train(weights, biases, x, y, epochs, learning_rate=0.01):
    """Descend the gradient of all samples, in place; return the loss before every update."""
    losses = []
    for _ in range(epochs):
        z, a = forward(weights, biases, x)
        losses.append(mse(y, a[-1]))
        grad_W, grad_b = backward(weights, z, a, y)
        for l in range(len(weights)):
            weights[l] -= learning_rate * grad_W[l]
            biases[l] -= learning_rate * grad_b[l]
    return losses


def plain(net, x, y):
    """The script as a `benchmark.speed.Contestant`, with copies of a network's parameters.

    It runs on the CPU only.
    """
    if net.device != "cpu":
        return {}
    weights = [W.copy() for W in net.weights]
    biases = [b[:, None].copy() for b in net.biases]
    x, y = x.T.copy(), y.T.copy()
    z, a = forward(weights, biases, x)

    def repeat_forward(times):
        for _ in range(times):
            forward(weights, biases, x)

    def repeat_backward(times):
        for _ in range(times):
            backward(weights, z, a, y)

    return {
        "forward": repeat_forward,
        "backward": repeat_backward,
        "step": lambda times: train(weights, biases, x, y, times),
    }

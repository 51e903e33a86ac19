"""Networks, data, and how arrays are compared."""

import numpy as np

import backprop_gpu as bp


def make(backend="cpu", dtype="float64", seed=7):
    activations = [bp.LeakyReLU(0.1), "tanh", "sigmoid"]
    net = bp.MLP([5, 3, 5, 4], activations, device=backend, dtype=dtype, seed=seed)
    random = np.random.default_rng(seed)
    net.set_parameters(on_cpu(net, net.weights), [random.normal(size=b.shape) for b in net.biases])
    return net


def data(n, seed=1):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, 5)), random.uniform(size=(n, 4))


def on_cpu(net, arrays):
    return [net.backend.to_numpy(array) for array in arrays]


def every_array(net, trace, grads):
    parameters = [*grads.weights, *grads.biases, grads.flat, grads.C]
    return on_cpu(net, [*trace.a, *trace.z, *grads.deltas, *grads.activations, *parameters])


def relative_to_largest(actual, expected, dtype, eps=16):
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=eps * np.finfo(dtype).eps * np.abs(expected).max()
    )

"""Networks, and files with their bits."""

import numpy as np

import backprop_gpu as bp

SIZES = (3, 4, 2)


def network(g=("tanh", "identity"), dtype="float32", device="cpu", sizes=SIZES):
    net = bp.MLP(sizes, list(g), device=device, dtype=dtype, seed=1)
    rng = np.random.default_rng(2)
    net.set_parameters(
        [rng.normal(size=W.shape) for W in net.weights],
        [rng.normal(size=b.shape) for b in net.biases],
    )
    return net


def bits(net):
    return net.backend.to_numpy(net.parameters).tobytes()


NOTES = {"classes": ["a", "ü", "\0"], "number": 0.1, "none": None, "nested": {"x": [1, [True]]}}

"""Trainings that more than one way to run them is tested with."""

from __future__ import annotations

import numpy as np

import backprop_gpu as bp
from backprop_gpu.backends import NumpyBackend
from backprop_gpu.losses import find_loss
from backprop_gpu.optimizers import numbers_of
from backprop_gpu.training.paths.step import NO_LIMITS

# An activation of one's own.
SOFTSIGN = bp.Activation(
    "own softsign",
    function=lambda xp, z: z / (1 + xp.abs(z)),
    derivative=lambda xp, z: 1 / (1 + xp.abs(z)) ** 2,
    derivative_from="z",
    cuda="z / (real(1) + fabs(z))",
    cuda_derivative="real(1) / ((real(1) + fabs(z)) * (real(1) + fabs(z)))",
)

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

HEADS = [
    ("softmax", "categorical_cross_entropy"),
    ("softmax", "mse"),
    ("sigmoid", "binary_cross_entropy"),
    ("softmax", "binary_cross_entropy"),
    ("sigmoid", "categorical_cross_entropy"),
    ("identity", "sse"),
    ("silu", "mse"),
]

OPTIMIZERS = [
    bp.SGD(0.1, weight_decay=0.1),
    bp.SGD(0.1, momentum=0.9),
    bp.SGD(bp.schedules.StepDecay(0.1, every=1), momentum=0.9, nesterov=True, weight_decay=0.1),
    bp.Adam(0.01),
    bp.Adam(0.01, weight_decay=0.1),
    bp.AdamW(0.01, weight_decay=0.1),
]


class TrainingCase:
    """A network, data, and how it is trained."""

    def __init__(
        self,
        sizes,
        activations,
        loss="mse",
        optimizer=None,
        *,
        dtype="float64",
        n=7,
        batch_size=3,
        steps=5,
        first_step=0,
        seed=None,
        limits=NO_LIMITS,
    ):
        self.net = bp.MLP(sizes, activations, device="cpu", dtype=dtype, seed=3)
        self.loss, self.optimizer = find_loss(loss), optimizer or bp.SGD(0.1)
        self.batch_size, self.seed, self.limits = batch_size, seed, limits
        self.steps = range(first_step, first_step + steps)
        self.batches = -(-n // batch_size)
        random = np.random.default_rng(4)
        self.x = random.normal(size=(n, sizes[0])).astype(dtype)
        self.y = random.uniform(size=(n, sizes[-1])).astype(dtype)
        self.y /= self.y.sum(axis=1, keepdims=True)  # a distribution
        self.net.parameters[...] += random.normal(size=self.net.parameters.size) / 50
        # Second moments are never negative.
        self.state = [abs(self.net.parameters) / (9 + i) for i in range(self.optimizer.slots)]
        self.numbers = numbers_of(self.optimizer, self.steps, np.array(self.steps) / self.batches)

    def check_close(self, ours, numpys):
        """Compare losses, parameters and state."""
        tolerance = TOLERANCE[self.net.dtype.name]
        for own, expected in zip(ours, numpys, strict=True):
            np.testing.assert_allclose(own, expected, tolerance, tolerance * abs(expected).max())


class ReadsLate(NumpyBackend):
    """Losses are read when a chunk of steps is over, as on a GPU."""

    device = "late"


class Killed(BaseException):
    """Stands for the end of a process: nothing that catches errors catches it."""


def killed_after(epochs):
    def callback(epoch):
        if epoch.number + 1 == epochs:
            raise Killed

    return callback

"""Runs to interrupt: a network, data, and what comes out."""

import numpy as np

import backprop_gpu as bp

SIZES = (3, 5, 2)
EPOCHS = 7
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
HELD_OUT = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))

STOPPING = {
    "no": {},
    "validation": {
        "validation": HELD_OUT,
        "early_stopping": bp.EarlyStopping(2),
    },
    "training loss": {"early_stopping": bp.EarlyStopping(2, min_delta=0.02)},
    "without restoring": {
        "validation": HELD_OUT,
        "early_stopping": bp.EarlyStopping(3, restore_best=False),
    },
}


def network(device="cpu", dtype="float32", **options):
    return bp.MLP(SIZES, ["tanh", "identity"], device=device, dtype=dtype, seed=1, **options)


def train(net, folder=None, *, resume=False, **options):
    options = {"epochs": EPOCHS, "batch_size": 6, "optimizer": bp.Adam(0.05)} | options
    return bp.train(net, X, Y, checkpoint=folder, resume=resume, **options)


def outcome(net, history):
    return (
        net.backend.to_numpy(net.parameters).tobytes(),
        history.loss,
        history.validation_loss,
        history.learning_rate,
        history.stopped_by,
        history.best_epoch,
    )


def uninterrupted(device="cpu", **options):
    net = network(device)
    options = {key: value for key, value in options.items() if not key.startswith("checkpoint_")}
    return outcome(net, train(net, **options))


def resumed(folder, device="cpu", **options):
    net = network(device)
    if steps_in(folder):
        net.parameters[...] = 7  # what it had is of no matter
    return outcome(net, train(net, folder, resume=True, **options))


def steps_in(folder):
    return [int(file.stem.removeprefix("step-")) for file in sorted(folder.glob("step-*"))]


def newest(folder):
    return sorted(folder.glob("step-*"))[-1]

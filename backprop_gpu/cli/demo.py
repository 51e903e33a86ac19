"""The demonstration: the textbook network, then real handwritten digits, then a picture of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import backprop_gpu as bp
from backprop_gpu.backends import Backend, choose_backend
from backprop_gpu.cli.report import device_taken
from backprop_gpu.errors import MissingExtraError
from backprop_gpu.figures import new_figure, save_figure
from backprop_gpu.text_table import aligned

TEXTBOOK_EPOCHS = 10_000
DIGIT_EPOCHS = 60
LEAK = 0.1


@dataclass(frozen=True)
class Task:
    """What came of one of the two networks.

    Attributes
    ----------
    name : str
    net : MLP
    history : History
    before, after : float
        The loss of the training data before training and after it.
    right : float or None
        The share of the test samples that are classified right.
    """

    name: str
    net: bp.MLP
    history: bp.History
    before: float
    after: float
    right: float | None = None

    @property
    def sizes(self) -> str:
        """The nodes of every layer."""
        return "-".join(map(str, self.net.layer_sizes))


def run_demo(
    device: str,
    picture: Path,
    *,
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> list[Task]:
    """Train both networks, say how it goes, and save their loss curves.

    Parameters
    ----------
    device : str
        As for `MLP`.
    picture : Path
        Where the loss curves go.
    progress : bool
        Whether to show progress bars.
    say : callable
        Is given the lines to print.

    Returns
    -------
    list of Task
        The textbook network, and the digits.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "sklearn", "the demo's data set") from error
    figure = new_figure("the demo's picture", figsize=(11, 4.4), layout="constrained")
    backend, _ = choose_backend(device)
    say(f"Device: {device_taken(device, backend.device)}\n")
    tasks = [learn_textbook(backend, progress, say), learn_digits(backend, 0, progress, say)]
    say(_summary(tasks))
    for panel, task in zip(figure.subplots(1, len(tasks)), tasks, strict=True):
        task.history.plot(ax=panel)
        result = "" if task.right is None else f": {task.right:.1%} of the test digits right"
        title = f"{task.name}, {task.sizes}{result}"
        panel.set_title(title, loc="left", fontsize=11, pad=26)  # above the legend
    save_figure(figure, picture)
    say(f"\nThe loss curves are in {picture}")
    return tasks


def learn_textbook(backend: Backend, progress: bool, say: Callable[[str], object]) -> Task:
    """Feed forward, train, feed forward again, and compare with what is desired."""
    net, x, y = bp.textbook(device=backend)
    say(f"1. The textbook network: one sample, mean squared error, {net!r}")
    predicted_before, before = net(x), net.loss(x, y)
    say(f"Loss before training: {before:.6g}")
    optimizer = bp.SGD(learning_rate=0.01)
    history = bp.train(net, x, y, optimizer=optimizer, epochs=TEXTBOOK_EPOCHS, progress=progress)
    predicted, after = net(x), net.loss(x, y)
    say(f"Loss after {len(history.loss):,} epochs: {after:.6g}\n")
    values = zip(predicted_before[0], predicted[0], y[0], strict=True)
    rows = [[str(j), *(f"{value:.8f}" for value in row)] for j, row in enumerate(values)]
    say(aligned(rows, ["output", "before", "predicted", "true"]) + "\n")
    return Task("textbook", net, history, before, after)


def learn_digits(backend: Backend, seed: int, progress: bool, say: Callable[[str], object]) -> Task:
    """Learn to read digits from four fifths of them, and read the others.

    The seed decides the test split, the initial weights and the batches.
    """
    x, y, x_test, y_test = load_digits(seed)
    net = bp.MLP(
        [64, 256, 128, 10],
        activations=[bp.LeakyReLU(LEAK), bp.LeakyReLU(LEAK), "sigmoid"],
        device=backend,
        seed=seed,
    )
    targets = bp.one_hot(y, 10)
    before = net.loss(x, targets)
    say(f"2. Handwritten digits, 8x8: {len(x):,} to learn from, {len(x_test)} to be tested on")
    say(f"{net!r}, batches of 32, Adam\nLoss before training: {before:.6g}")
    history = bp.train(
        net,
        x,
        targets,
        optimizer=bp.Adam(bp.CosineDecay(0.002, epochs=DIGIT_EPOCHS)),
        epochs=DIGIT_EPOCHS,
        batch_size=32,
        seed=seed,
        validation=(x_test, bp.one_hot(y_test, 10)),  # drawn, and of no influence
        progress=progress,
    )
    right = net(x_test).argmax(axis=1) == y_test
    after = net.loss(x, targets)
    say(f"Loss after {len(history.loss)} epochs: {after:.6g}")
    say(f"Right: {right.sum()} of the {len(right)} digits never seen before ({right.mean():.1%})\n")
    return Task("digits", net, history, before, after, float(right.mean()))


def load_digits(seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return x and labels to learn from, and x and labels of a fifth of every digit to test on."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    pixels, labels = load(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        pixels / 16, labels, test_size=0.2, stratify=labels, random_state=seed
    )
    return x, y, x_test, y_test


def _summary(tasks: list[Task]) -> str:
    heading = ["task", "network", "device", "epochs", "seconds", "loss before", "after", "right"]
    rows = [
        [
            task.name,
            task.sizes,
            task.net.device,
            f"{len(task.history.loss):,}",
            f"{task.history.seconds:.2f}",
            f"{task.before:.3g}",
            f"{task.after:.3g}",
            "-" if task.right is None else f"{task.right:.1%}",
        ]
        for task in tasks
    ]
    return aligned(rows, heading)

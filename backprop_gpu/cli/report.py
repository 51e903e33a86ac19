"""What the command line says about this machine, about a network and about its training."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from backprop_gpu import MLP, History, __version__
from backprop_gpu.backends import choose_backend
from backprop_gpu.backends.cupy_device import describe_gpus
from backprop_gpu.checkpoint import SavedNetwork
from backprop_gpu.cli.preparation import Preparation
from backprop_gpu.compiled.compiler import compiler

Rows = list[tuple[str, str]]
OF_DEVELOPERS = ("dev", "nvrtc", "peers", "test")  # extras


def about_machine() -> Rows:
    """Return what is installed, which device "auto" takes and why, and the GPUs."""
    backend, reason = choose_backend("auto")
    rows = [
        ("backprop_gpu", __version__),
        ("Python", f"{platform.python_version()} on {platform.system()}, {platform.machine()}"),
        ("NumPy", f"{np.__version__}, {_blas()}"),
        ("C++ compiler", _compiler()),
        ("device", f'"auto" takes {backend.device}: {reason}'),
    ]
    rows += [("GPU", line) for line in describe_gpus() or ["none that can be used"]]
    return rows + [(f"extra {name}", state) for name, state in _extras().items()]


def about_network(saved: SavedNetwork, preparation: Preparation) -> Rows:
    """Return what is in a saved network."""
    net = saved.net
    rows = [("network", describe(net))]
    rows += [
        (f"layer {l}", f"{W.shape[1]} -> {W.shape[0]}, {g}")
        for l, (W, _, g) in enumerate(net.layers, start=1)
    ]
    scaled = " (standardized)"
    names = {
        "inputs": _counted(preparation.features, net.layer_sizes[0])
        + scaled * (preparation.of_inputs is not None),
        "outputs": _counted(preparation.targets, net.layer_sizes[-1])
        + scaled * (preparation.of_targets is not None),
        "classes": named(preparation.classes),
    }
    rows += [(name, text) for name, text in names.items() if text]
    known = {"features", "targets", "classes"}
    return rows + [(str(k), f"{v}"[:200]) for k, v in saved.notes.items() if k not in known]


def about_training(history: History, samples: int) -> Rows:
    """Return how a training went."""
    epochs = len(history.loss)
    rate = samples * epochs / max(history.seconds, 1e-9)
    rows = [("training loss", f"{history.loss[0]:.4g} at first, {history.loss[-1]:.4g} at last")]
    how = "" if history.stopped_by == "epochs" else f", ended by {history.stopped_by}"
    best = history.best_epoch
    kept = "" if best is None else f"; the parameters are the best epoch's, number {best + 1:,}"
    rows.append(("epochs", f"{epochs:,}{how}{kept}"))
    rows.append(("time", f"{history.seconds:.2f} s, {rate:,.0f} samples/s"))
    return rows


def describe(net: MLP) -> str:
    """Return a network in one line."""
    sizes = "-".join(map(str, net.layer_sizes))
    names = ", ".join(map(str, net.activations))
    return f"{sizes}; {names}; {net.dtype}; {net.parameters.size:,} parameters"


def named(names: Sequence[Any], most: int = 12) -> str:
    """Return how many names there are, and the first of them."""
    shown = ", ".join(map(str, names[:most])) + (", ..." if len(names) > most else "")
    return f"{len(names)}: {shown}" if names else ""


def _counted(names: Sequence[Any], count: int) -> str:
    return named(names) if names else str(count)


def _compiler() -> str:
    command = compiler()
    return Path(command[0]).name if command else "none: install g++ or clang++, or set CXX"


def _blas() -> str:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        build: Any = np.show_config(mode="dicts")
        blas = build["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas['version']} (threads: install threadpoolctl to see them)"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return ", ".join(
        f"{pool['internal_api']} {pool['version']} with {pool['num_threads']} thread(s)"
        for pool in pools
    )


def _extras() -> dict[str, str]:
    """Return for every extra that users choose whether its package is installed."""
    try:
        needs = metadata.requires("backprop-gpu") or []
    except metadata.PackageNotFoundError:
        return {}
    extras: dict[str, str] = {}
    for need in needs:
        match = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", need)
        if match and match[2] not in OF_DEVELOPERS and match[1] != "backprop-gpu":
            extras.setdefault(match[2], match[1])
    return {name: _version(package) for name, package in extras.items()}


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"{package} is not installed"

"""What is installed on a machine, and what its speed depends on."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from backprop_gpu.backends import choose_backend
from backprop_gpu.backends.cupy_device import describe_gpus
from backprop_gpu.compiled.compiler import compiler
from backprop_gpu.compiled.threads import cores
from backprop_gpu.version import __version__

OF_DEVELOPERS = ("dev", "nvrtc", "peers", "test")  # extras


def about_machine() -> list[tuple[str, str]]:
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


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    about = {"date": date.today().isoformat(), "CPU": f"{_cpu()}, {cores()} core(s)"}
    for name, text in about_machine():
        if not name.startswith("extra "):
            about[name] = f"{about[name]}; {text}" if name in about else text
    if hasattr(os, "getloadavg"):
        about["load"] = f"{os.getloadavg()[0]:.1f} process(es) in the minute before"
    threads = [f"{name}={n}" for name, n in os.environ.items() if name.endswith("_NUM_THREADS")]
    return about | ({"environment": " ".join(threads)} if threads else {})


def _cpu() -> str:
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


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

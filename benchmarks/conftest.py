"""Options of the suite, and what its JSON says about the machine."""

import pytest

from backprop_gpu.benchmark.machine import machine
from backprop_gpu.benchmark.speed import NETWORKS

MACHINE = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser):
    group = parser.getgroup("benchmarks")
    group.addoption(
        "--networks",
        type=lambda text: text.split(","),
        default=list(NETWORKS),
        metavar="NAME,...",
        help=f"which of {', '.join(NETWORKS)}; all unless told",
    )
    group.addoption(
        "--quick", action="store_true", help="each network's own batch size only, and not for long"
    )


def pytest_configure(config):
    config.stash[MACHINE] = machine()  # now: later, the load would be that of the benchmarks


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["backprop_gpu"] = config.stash[MACHINE]

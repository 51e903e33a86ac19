"""Forward and backward passes and training steps: five networks, batches from 1 to 16,384.

pytest-benchmark times the library, a block of calls a round. What it is compared with, the bare
matrix products and the rivals, is timed between its rounds. A group holds the same work on
different devices; a benchmark's extra_info is a row of the table, in seconds per call.
"""

import pytest

from backprop_gpu.backends.cupy_device import unusable
from backprop_gpu.benchmark.speed import NETWORKS, Case
from backprop_gpu.benchmark.table import PARTS
from benchmarks.plain_numpy import plain

BATCHES = (1, 16, 256, 4096, 16_384)
MOST_FLOPS = 1e12  # a step of more takes too long on a CPU
SECONDS, QUICK_SECONDS = 0.4, 0.05
RIVALS = {"plain": plain}  # by name: what else is timed on the same data


def batches(network, quick):
    if quick:
        return [network.batch]
    affordable = (n for n in BATCHES if network.flops("step", n) <= MOST_FLOPS)
    return sorted({network.batch, *affordable})


def pytest_generate_tests(metafunc):
    option = metafunc.config.getoption
    networks = [NETWORKS[name] for name in option("networks")]
    cases = [
        pytest.param(
            (network, batch, device),
            id=f"{network.name}-{batch}-{device}",
            marks=pytest.mark.gpu if device == "cuda" else (),
        )
        for network in networks
        for batch in batches(network, option("quick"))
        for device in ("cpu", "cuda")
    ]
    metafunc.parametrize("case", cases, indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request):
    network, batch, device = request.param
    if device == "cuda" and (reason := unusable()):
        pytest.skip(f"no GPU: {reason}")
    return Case(network, batch, device, RIVALS)


@pytest.mark.parametrize("part", PARTS)
def test_throughput(case, part, benchmark, request):
    def timer(block, before, rounds):
        benchmark.pedantic(block, setup=before, rounds=rounds)
        return benchmark.stats.stats.data

    seconds = QUICK_SECONDS if request.config.getoption("quick") else SECONDS
    benchmark.group = f"{case.network.name}, batch {case.batch}, {part}"
    benchmark.extra_info.update(case.measure(part, seconds, timer).record())

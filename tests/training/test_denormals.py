"""Numbers that are closer to 0 than normal ones: they take processors a hundred times as long."""

import numpy as np
import pytest
from host.needs import needs_compiler

import backprop_gpu as bp
from backprop_gpu.losses import find_loss
from backprop_gpu.optimizers import numbers_of
from backprop_gpu.training.batches import shuffled_batches
from backprop_gpu.training.paths import single_steps
from backprop_gpu.training.paths.compiled_steps import CompiledSteps
from backprop_gpu.training.paths.single_steps import Steps


@pytest.mark.parametrize(
    "way",
    ["steps", *(pytest.param(way, marks=needs_compiler) for way in ("fused", "compiled"))],
)
def test_what_an_optimizer_keeps_becomes_0_and_not_next_to_it(way):
    """Of a node that is dead after the first step."""
    net = bp.MLP([1, 1], ["relu"], device="cpu")
    net.set_parameters([[[1.0]]], [[0.0]])
    x, y = np.float32([[1]]), np.float32([[-100]])
    batches, optimizer = shuffled_batches(x, y, 1, None, net.backend), bp.SGD(1.0, momentum=0.9)
    given = net, batches, find_loss("mse"), optimizer
    if way == "compiled":
        runner = CompiledSteps(*given, None, 1)
    else:
        runner = Steps(*given, fuses=way == "fused")
    steps = range(2 * single_steps.STEPS_TO_CLEARING)
    runner.run(steps[:1], numbers_of(optimizer, steps[:1], np.zeros(1)))
    assert runner.state[0].all()
    runner.run(steps[1:], numbers_of(optimizer, steps[1:], np.zeros(len(steps) - 1)))
    assert not runner.state[0].any()

"""Expressions of one's own that are not the functions beside them are refused."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from cases import SOFTSIGN
from host.needs import needs_compiler

import backprop_gpu as bp
from backprop_gpu.activations import find_activation
from backprop_gpu.compiled import agreement
from backprop_gpu.compiled.agreement import check_agreement
from backprop_gpu.compiled.compiler import compiler
from backprop_gpu.losses import find_loss

OF_A = bp.Activation(
    "own tanh",
    function=lambda xp, z: xp.tanh(z),
    derivative=lambda xp, a: 1 - a**2,
    derivative_from="a",
    cuda="tanh(z)",
    cuda_derivative="real(1) - a * a",
)
LOG = bp.Activation(  # nothing for half of the numbers
    "own log",
    function=lambda xp, z: xp.log(z),
    derivative=lambda xp, z: 1 / z,
    derivative_from="z",
    cuda="log(z > real(0) ? z : real(1))",
    cuda_derivative="real(1) / z",
)
HUBER = bp.Loss(
    "own huber",
    value=lambda xp, a, y: xp.where(xp.abs(a - y) < 1, (a - y) ** 2 / 2, xp.abs(a - y) - 1 / 2).sum(
        axis=1
    ),
    gradient=lambda xp, a, y: xp.clip(a - y, -1, 1),
    cuda="fabs(a - y) < real(1) ? (a - y) * (a - y) / real(2) : fabs(a - y) - real(0.5)",
    cuda_gradient="a - y < real(-1) ? real(-1) : a - y > real(1) ? real(1) : a - y",
)
CROSS_ENTROPY = replace(find_loss("binary_cross_entropy"), name="own cross-entropy")


@dataclass(frozen=True)
class Lion:
    learning_rate: float = 0.01
    weight_decay: float = 0.0
    slots: int = 1
    cuda: str = (
        "real m = real(0.9) * s0 + real(0.1) * g; s0 = real(0.99) * s0 + real(0.01) * g;"
        " p -= learning_rate * ((m > 0) - (m < 0) + decay * p);"
    )

    def corrections(self, step):
        return 0.0, 0.0

    def update(self, xp, p, g, state, numbers, decayed):
        p[:decayed] -= numbers[0] * numbers[1] * p[:decayed]
        p -= numbers[0] * xp.sign(0.9 * state[0] + 0.1 * g)
        state[0][...] = 0.99 * state[0] + 0.01 * g


RIGHT = {
    **{g.name: ((g, "identity"), "mse", bp.SGD()) for g in (SOFTSIGN, OF_A, LOG)},
    "last": (("tanh", SOFTSIGN), "mse", bp.SGD()),
    "huber": (("tanh", "identity"), HUBER, bp.SGD()),
    "huber of a softmax": (("tanh", "softmax"), HUBER, bp.SGD()),
    "cross-entropy": (("tanh", "sigmoid"), CROSS_ENTROPY, bp.SGD()),
    "lion": (("tanh", "identity"), "mse", Lion(weight_decay=0.1)),
}


def slip(entry, **cuda):
    return replace(entry, **cuda)


# What is wrong, and what is said of it.
WRONG = {
    "function": (
        (slip(SOFTSIGN, cuda="z / (real(1) + z)"), "identity"),
        *("mse", bp.SGD()),
        r"'own softsign' has a cuda that is not its function: for z = -3.7 it gives 1.37037 in "
        r"C\+\+, and function gives -0.787234; make them the same",
    ),
    "derivative": (
        (slip(SOFTSIGN, cuda_derivative="real(1) / (real(1) + fabs(z))"), "identity"),
        *("mse", bp.SGD()),
        "'own softsign' has a cuda_derivative that is not its derivative: for z = -3.7 ",
    ),
    "derivative of a": (
        (slip(OF_A, cuda_derivative="real(1) - a"), "identity"),
        *("mse", bp.SGD()),
        "'own tanh' has a cuda_derivative that is not its derivative: for a = -0.9988 ",
    ),
    "built in but for": (
        ("tanh", slip(find_activation("gelu"), cuda="z / (real(1) + exp(real(-1.702) * z))")),
        *("mse", bp.SGD()),
        "'gelu' has a cuda that is not its function",
    ),
    "value": (
        ("tanh", "identity"),
        *(slip(HUBER, cuda="(a - y) * (a - y) / real(2)"), bp.SGD()),
        r"'own huber' has a cuda that is not its value: for a = \[-3.7, -2.9909\] and y = \[0.0",
    ),
    "gradient": (
        ("tanh", "softmax"),
        *(slip(HUBER, cuda_gradient="y - a"), bp.SGD()),
        "'own huber' has a cuda_gradient that is not its gradient",
    ),
    "canonical value": (
        ("tanh", "sigmoid"),
        *(slip(CROSS_ENTROPY, cuda_canonical="z - y * z"), bp.SGD()),
        "'own cross-entropy' has a cuda_canonical that is not its canonical_value",
    ),
    "update": (
        ("tanh", "identity"),
        *("mse", Lion(cuda="s0 = g; p -= learning_rate * g;")),
        "the optimizer Lion has a cuda that is not its update: for p = -3.7 and g = ",
    ),
    "state": (
        ("tanh", "identity"),
        *("mse", Lion(cuda=Lion.cuda.replace("0.01", "0.02"))),
        "the optimizer Lion has a cuda that is not its update",
    ),
}
rng = np.random.default_rng(0)
X, Y = rng.uniform(0.1, 0.9, (2, 6, 2))


def check(entries, loss, optimizer, dtype, gpu=None):
    net = bp.MLP([2, 3, 2], entries, device="cpu", dtype=dtype)
    check_agreement(net.activations, 2, find_loss(loss), optimizer, net.dtype, gpu)


def place(backend):
    """What is compiled for the CPU, or a GPU's kernels."""
    if backend.device == "cpu" and not compiler():
        pytest.skip("no C++ compiler")
    return None if backend.device == "cpu" else backend


@pytest.mark.parametrize("case", RIGHT)
def test_expressions_that_are_their_functions_are_taken(case, backend, dtype):
    check(*RIGHT[case], dtype, place(backend))


@pytest.mark.parametrize("case", WRONG)
def test_expressions_that_are_not_are_named_with_a_number(case, backend, dtype):
    *entries, says = WRONG[case]
    for _ in range(2):
        with pytest.raises(bp.DomainError, match=says):
            check(*entries, dtype, place(backend))


@needs_compiler
@pytest.mark.parametrize("path", ["fused", "compiled"])
@pytest.mark.parametrize("case", ["function", "gradient", "update"])
def test_what_is_compiled_to_train_is_compared_before_anything_changes(case, path, tmp_path):
    entries, loss, optimizer, says = WRONG[case]
    net, folder = bp.MLP([2, 3, 2], entries, device="cpu"), tmp_path / "run"
    before = net.parameters.copy()
    options = {"loss": loss, "optimizer": optimizer, "checkpoint": folder}
    with pytest.raises(bp.DomainError, match=says):
        bp.train(net, X, Y, path=path, **options)
    np.testing.assert_array_equal(net.parameters, before)
    assert not [*folder.glob("step-*")]
    bp.train(net, X, Y, path="steps", **options)  # which are the functions


@needs_compiler
@pytest.mark.parametrize("cuda_derivative", [SOFTSIGN.cuda_derivative, None], ids=["", "no slope"])
def test_what_is_compiled_to_predict_is_compared(cuda_derivative):
    right = slip(SOFTSIGN, cuda_derivative=cuda_derivative)
    bp.MLP([2, 2], [right], device="cpu").predictor(path="compiled")
    net = bp.MLP([2, 2], [slip(right, cuda="z")], device="cpu")
    for path in ("auto", "compiled"):
        with pytest.raises(bp.DomainError, match="cuda that is not its function"):
            net.predictor(path=path)
    net.predictor(path="steps")


@pytest.mark.parametrize(
    "backend", ["emulated", pytest.param("gpu", marks=pytest.mark.gpu)], indirect=True
)
@pytest.mark.parametrize("path", ["steps", "one launch"])
def test_kernels_are_compared_before_anything_changes(backend, path):
    entries, _, _, says = WRONG["function"]
    nets = [bp.MLP([2, 3, 2], entries, device=backend) for _ in range(2)]
    before = nets[0].parameters.copy()
    with pytest.raises(bp.DomainError, match=says):
        bp.train(nets[0], X, Y, path=path)
    with pytest.raises(bp.DomainError, match=says):
        bp.train_many(nets, X, Y, path=path)
    assert (nets[0].parameters == before).all()


def test_built_in_entries_cost_nothing(monkeypatch):
    monkeypatch.setattr(agreement, "_computed", None)
    for g in ("sigmoid", bp.LeakyReLU(0.3), "softmax"):
        for loss in ("mse", "cce"):
            check(("relu", g), loss, bp.AdamW(), "float32")


@needs_compiler
def test_a_loss_is_compared_for_as_many_outputs_as_there_are():
    options = {"value": lambda xp, a, y: ((a - y) ** 2).mean(axis=1)}
    options["gradient"] = lambda xp, a, y: 2 * (a - y) / a.shape[1]
    for_two, for_ten = (
        bp.Loss(
            "mean",
            **options,
            cuda=f"(a - y) * (a - y) / real({m})",
            cuda_gradient=f"real(2) * (a - y) / real({m})",
        )
        for m in (2, 10)
    )
    identity = [find_activation("identity")]
    for loss, right, wrong in ((for_two, 2, 10), (for_ten, 10, 2)):
        check_agreement(identity, right, loss, None, np.dtype("float64"))
        with pytest.raises(bp.DomainError, match="a cuda that is not its value"):
            check_agreement(identity, wrong, loss, None, np.dtype("float64"))


@needs_compiler
def test_what_a_function_refuses_is_not_compared():
    def value(xp, a, y):
        if not xp.isin(y, (-1, 1)).all():
            raise ValueError("targets are -1 and 1")
        return xp.maximum(0, 1 - a * y).sum(axis=1)

    hinge = bp.Loss("hinge", value, lambda xp, a, y: -y * (a * y < 1), cuda="a", cuda_gradient="y")
    identity = [find_activation("identity")]
    check_agreement(identity, 1, hinge, None, np.dtype("float64"))


@needs_compiler
def test_kinks_are_left_out():
    clip = bp.Activation(
        "clip",
        lambda xp, z: xp.clip(z, -3.7, 4.1),
        lambda xp, z: 1.0 * ((z >= -3.7) & (z <= 4.1)),
        "z",
        kinks=(-3.7, 4.1),
        cuda="z < real(-3.7) ? real(-3.7) : z > real(4.1) ? real(4.1) : z",
        cuda_derivative="z > real(-3.7) && z < real(4.1) ? real(1) : real(0)",
    )
    check_agreement([clip], 1, None, None, np.dtype("float64"))


def test_the_estimators_losses_are_the_librarys():
    losses = pytest.importorskip("backprop_gpu.estimators.losses")
    entries = losses.SQUARED_ERROR, losses.POISSON, losses.LOG_LOSS, losses.BINARY_LOG_LOSS
    assert all(entry.is_built_in for entry in entries)
    assert not replace(losses.POISSON, cuda_gradient="a").is_built_in


@needs_compiler
def test_many_networks_are_compared_before_one_is_trained():
    nets = [bp.MLP([2, 3, 2], ["tanh", "identity"], device="cpu") for _ in "12"]
    before = nets[0].parameters.copy()
    optimizers = [bp.SGD(0.1), Lion(cuda="p -= learning_rate * g;")]
    with pytest.raises(bp.DomainError, match="Lion has a cuda"):
        bp.train_many(nets, X, Y, optimizers=optimizers, epochs=2, path="compiled")
    np.testing.assert_array_equal(nets[0].parameters, before)

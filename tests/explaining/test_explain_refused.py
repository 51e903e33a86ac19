"""Explanations: wrong gradients are found, wrong options are named."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from explained import data, network, some_of_every_layer
from host.backend import emulated_backend
from host.needs import needs_gpp

import backprop_gpu as bp
from backprop_gpu.explaining.explain import explain, explain_activation, explain_bias
from backprop_gpu.mlp import MLP

# ---- the comparison with backward ----------------------------------------------------------------


@pytest.fixture
def tampered(monkeypatch, textbook):
    """The textbook network; tamper(change) lets backward's gradients be changed."""
    backward = MLP.backward

    def tamper(change):
        def wrong(self, *args, **options):
            grads = backward(self, *args, **options)
            change(grads)
            return grads

        monkeypatch.setattr(MLP, "backward", wrong)
        return textbook

    return tamper


def test_a_wrong_weight_gradient_is_found(tampered):
    def change(grads):
        grads.weights[1][1, 2] *= 1 + 1e-12

    with pytest.raises(bp.GradientError, match=r"dC/dw_1,2\[2\] is 0\.00138.*in backward.*differ"):
        explain(*tampered(change), 2, 1, 2)


def test_a_wrong_bias_gradient_is_found(tampered):
    def change(grads):
        grads.biases[2][0] += 1e-12

    with pytest.raises(bp.GradientError, match=r"dC/db_0\[3\]"):
        explain_bias(*tampered(change), 3, 0)


def test_a_wrong_sum_is_found_where_it_is(tampered):
    def change(grads):
        grads.activations[2][0, 3] *= 1 + 1e-12

    tampered = tampered(change)
    with pytest.raises(bp.GradientError, match=r"dC/da_3\[2\]"):
        explain_activation(*tampered, 2, 3)
    with pytest.raises(bp.GradientError, match=r"dC/da_3\[2\]"):
        explain(*tampered, 1, 0, 0, depth=2)


def test_rounding_is_no_difference(tampered):
    def change(grads):
        for array in (*grads.weights, *grads.biases):
            array[...] = np.nextafter(array, 1)

    explain(*tampered(change), 2, 1, 2)


@needs_gpp
def test_a_kernel_with_another_derivative_is_found():
    g = bp.Activation(
        "cubic",
        function=lambda xp, z: z**3,
        derivative=lambda xp, z: 3 * z**2,
        derivative_from="z",
        cuda="z * z * z",
        cuda_derivative="real(3) * z",
    )
    net = network(g, emulated_backend(), last="identity")
    with pytest.raises(bp.GradientError, match="by the chain rule"):
        explain(net, *data(1), 1, 0, 0)


# ---- what users add ------------------------------------------------------------------------------


def test_entries_without_formulas():
    g = bp.Activation("mine", lambda xp, z: z * 2, lambda xp, z: xp.full_like(z, 2), "z")
    loss = bp.Loss("cubes", lambda xp, a, y: (a**3).sum(axis=1), lambda xp, a, y: 3 * a**2)
    net, (x, y) = network(g), data(1)
    e = explain(net, x, y, 3, 1, 0, loss)
    assert [part.rule for part in e.term.parts] == ["value", "function", "value"]
    assert "g'(z_j)" in str(e)
    assert "as backward has it" in str(e)
    ET.fromstring(e._repr_html_())


def test_an_activation_of_whole_rows_that_is_not_softmax():
    """Its Jacobian has no formula here: dC/dz is shown as it is."""
    g = bp.Activation(
        "centred",
        function=lambda xp, z: z - z.mean(axis=-1, keepdims=True),
        derivative=lambda xp, z: xp.ones_like(z),
        derivative_from="z",
        jacobian_product=lambda xp, dC_da, z: dC_da - dC_da.mean(axis=-1, keepdims=True),
    )
    net, (x, y) = network(g), data(3)
    for e in some_of_every_layer(net, x, y, "mse", depth="full"):
        assert e.value == pytest.approx(e.backward, rel=1e-9, abs=1e-15)
    e = explain(net, x, y, 2, 0, 0)
    assert [part.name for part in e.term.parts] == ["dC_i/dz_0[2]", "dz_0[2]/dw_0,0[2]"]
    assert e.term.parts[0].rule == "value"


# ---- what is wrong is said -----------------------------------------------------------------------

WRONG = [
    (
        lambda n, x, y: explain(n, x, y, 0, 0, 0),
        "layer is 0; expected .* 1 to 3; layer 0 is the in",
    ),
    (lambda n, x, y: explain(n, x, y, 4, 0, 0), "layer is 4; expected a whole number from 1 to 3"),
    (lambda n, x, y: explain(n, x, y, -1, 0, 0), "layer is -1"),
    (lambda n, x, y: explain(n, x, y, True, 0, 0), "layer is True"),
    (lambda n, x, y: explain(n, x, y, 1.0, 0, 0), "layer is 1.0"),
    (lambda n, x, y: explain(n, x, y, None, 0, 0), "layer is None"),
    (lambda n, x, y: explain(n, x, y, 3, 4, 0), "j is 4; layer 3 has 4 .* from 0 to 3"),
    (lambda n, x, y: explain(n, x, y, 3, -1, 0), "j is -1; layer 3"),
    (lambda n, x, y: explain(n, x, y, 3, 0.0, 0), "j is 0.0; layer 3"),
    (lambda n, x, y: explain(n, x, y, 3, False, 0), "j is False"),
    (lambda n, x, y: explain(n, x, y, 3, 0, 5), "k is 5; layer 2 has 5 .* from 0 to 4"),
    (lambda n, x, y: explain(n, x, y, 1, 0, "2"), "k is '2'; layer 0 has 5"),
    (lambda n, x, y: explain_bias(n, x, y, 0, 0), "layer is 0"),
    (lambda n, x, y: explain_bias(n, x, y, 1, 3), "j is 3; layer 1 has 3"),
    (lambda n, x, y: explain_activation(n, x, y, 4, 0), "layer is 4; .* from 0 to 3"),
    (lambda n, x, y: explain_activation(n, x, y, 0, 5), "k is 5; layer 0 has 5"),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, depth=-1), 'depth is -1; .* 0 or above, or "full"'),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, depth=1.5), "depth is 1.5"),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, depth=True), "depth is True"),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, depth="all"), "depth is 'all'"),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, largest=0), "largest is 0; .* 1 or above"),
    (lambda n, x, y: explain(n, x, y, 1, 0, 0, largest=2.0), "largest is 2.0"),
]


@pytest.mark.parametrize(("call", "message"), WRONG, ids=[message for _, message in WRONG])
def test_options_that_are_wrong(call, message, textbook):
    with pytest.raises(bp.DomainError, match=message):
        call(*textbook)


def test_data_and_losses_that_are_wrong(textbook):
    net, x, y = textbook
    with pytest.raises(bp.UnknownNameError, match=r"'msee'.*'mse'"):
        explain(net, x, y, 1, 0, 0, "msee")
    with pytest.raises(bp.DomainError, match="targets from"):
        explain(net, x, y + 1, 1, 0, 0, "bce")
    with pytest.raises(bp.DomainError, match="'binary_cross_entropy' needs outputs between 0"):
        explain(network("tanh"), *data(1), 1, 0, 0, "bce")
    with pytest.raises(bp.NonFiniteError, match="x holds 1 value"):
        explain(net, np.where(x == x[0, 0], np.nan, x), y, 1, 0, 0)
    with pytest.raises(bp.ShapeError, match=r"x has shape \(5,\)"):
        explain(net, x[0], y, 1, 0, 0)
    with pytest.raises(bp.ShapeError, match="x has 2 rows and y has 1"):
        explain(net, np.repeat(x, 2, 0), y, 1, 0, 0)

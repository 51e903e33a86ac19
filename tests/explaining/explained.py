"""Networks to explain, and the same numbers by a calculation without matrices."""

import math
import re

import numpy as np
import pytest

import backprop_gpu as bp
from backprop_gpu.explaining.explain import explain, explain_activation, explain_bias
from backprop_gpu.explaining.formulas import Cases, Fraction, Leaf, Row, Scripts
from backprop_gpu.explaining.outline import with_numbers

SIZES = (3, 4, 2, 3)


def network(g, backend="cpu", dtype="float64", last=None):
    before = "tanh" if str(g) == "exp" else g  # e^e^e^z is infinite
    net = bp.MLP(SIZES, [before, before, last or g], device=backend, dtype=dtype, seed=3)
    random = np.random.default_rng(4)
    biases = [random.normal(size=b.shape) for b in net.biases]
    net.set_parameters([net.backend.to_numpy(W) for W in net.weights], biases)
    return net


def data(n):
    random = np.random.default_rng(n)
    return random.normal(size=(n, SIZES[0])), random.dirichlet(np.ones(SIZES[-1]), n)


def some_of_every_layer(net, x, y, loss, **options):
    """The explanation of a weight, a bias and an activation of every layer."""
    for l in (1, 2, 3):
        yield explain(net, x, y, l, l % SIZES[l], l % SIZES[l - 1], loss, **options)
        yield explain_bias(net, x, y, l, SIZES[l] - 1, loss, **options)
    for l, nodes in enumerate(SIZES):
        yield explain_activation(net, x, y, l, (l + 1) % nodes, loss, **options)


FUNCTIONS = {
    "sigma": lambda z: 1 / (1 + math.exp(-z)),
    "Phi": lambda z: math.erfc(-z / math.sqrt(2)) / 2,
    "phi": lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    "ln": math.log,
    "max": max,
    "tanh": math.tanh,
    "e": math.e,
    "float": float,
}


def python(node):
    """A formula of numbers as Python: operands next to each other are multiplied."""
    match node:
        case Leaf(_, _, "mspace"):
            return ""
        case Leaf(text):
            signs = {"[": "float(", "]": ")", "=": "=="}
            return signs.get(text, f"({text})" if node.element == "mn" else text)
        case Row(items):
            source = ""
            for item in filter(None, map(python, items)):
                end = re.search(r"\w+$|\)$", source)
                starts = re.match(r"[\w(]", item)
                call = end and end[0] in FUNCTIONS and end[0] != "e"
                source += "*" if end and starts and not call else ""
                source += item
            return source
        case Fraction(above, below):
            return f"(({python(above)})/({python(below)}))"
        case Scripts(base, None, sup):
            return f"(({python(base)})**({python(sup)}))"
        case Cases(((value, condition),)):
            return f"({python(value)} if {python(condition)} else None)"
    raise AssertionError(f"{node} has an index and no number")


def assert_made_of_its_parts(term, tolerance=1e-11):
    """Every value follows from those below it, by the rule that it states."""
    for part in term.walk():
        below = [p.values for p in part.parts]
        scale = np.abs(part.values).max() + 1e-300
        if part.rule == "product":
            np.testing.assert_allclose(part.values, math.prod(below), rtol=1e-14)
        elif part.rule == "sum":
            assert part.omitted or not part.omitted_values.any()
            scale = np.abs(below).sum(0).max() + scale
            total = np.sum(below, axis=0) + part.omitted_values
            np.testing.assert_allclose(part.values, total, rtol=0, atol=1e-14 * scale)
        elif part.rule == "function":
            for i, value in enumerate(part.values):
                own = eval(python(with_numbers(part, i, digits=17)), dict(FUNCTIONS))
                assert value == pytest.approx(own, rel=tolerance, abs=tolerance), part.name
        else:
            assert part.rule == "value"
            assert not part.parts

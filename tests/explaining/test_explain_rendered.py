"""Explanations as values, as text, LaTeX and HTML."""

import re
import xml.etree.ElementTree as ET
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from explained import data, network

from backprop_gpu.explaining.explain import explain, explain_activation, explain_bias

# ---- values --------------------------------------------------------------------------------------


def test_an_explanation_is_a_value(textbook):
    net, x, y = textbook
    before = net.parameters.copy()
    e = explain(net, x, y, 2, 1, 2)
    with pytest.raises(FrozenInstanceError):
        e.value = 0.0
    with pytest.raises(FrozenInstanceError):
        e.term.values = None
    for part in e.term.walk():
        assert part.values.shape == part.omitted_values.shape == (1,)
        assert part.values.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            part.values[0] = 0
    assert replace(e, loss="other").loss == "other"
    np.testing.assert_array_equal(net.parameters, before)
    assert repr(e) == "<Explanation dC/dw_1,2[2] = 0.001382674: 37 terms>"


def test_numpy_integers_are_indices(textbook):
    e = explain(*textbook, np.int64(3), np.uint8(1), np.int32(2))
    assert (e.layer, e.j, e.k) == (3, 1, 2)
    assert type(e.j) is int


# ---- renderings ----------------------------------------------------------------------------------

OUTPUT_WEIGHT = """\
dC/dw_1,2[3] = 0.002934922
the weight from node 2 of layer 2 to node 1 of layer 3, now 0.3910606
MLP(5-3-5-4; leaky_relu(0.1), sigmoid, sigmoid; float64 on cpu)
loss mse, C = 0.1059626, 1 sample

dC/dw_jk[3] = dC/da_j[3] * da_j[3]/dz_j[3] * dz_j[3]/dw_jk[3]

  loss term        dC/da_1[3]         0.03327859   = 2/m (a_j - y_j)
                                                   = 2/4 (0.8965572 - 0.83)
  activation term  da_1[3]/dz_1[3]    0.09274241   = a_j (1 - a_j)
                                                   = 0.8965572 (1 - 0.8965572)
  input term       dz_1[3]/dw_1,2[3]  0.9509406    = a_k[2]
  -----------------------------------------------
  product          dC/dw_1,2[3]       0.002934922

The matrix products of backward give the same, to rounding:
  grads.weights[2][1, 2] = 0.002934922"""

INPUT = """\
dC/da_2[0] = 0.000842468
input 2
MLP(5-3-5-4; leaky_relu(0.1), sigmoid, sigmoid; float64 on cpu)
loss mse, C = 0.1059626, 1 sample

dC/da_k[0] = sum_q dC/da_q[1] * da_q[1]/dz_q[1] * w_qk[1]
  da_q[1]/dz_q[1] = 1 where z_q > 0, 0.1 where z_q <= 0
  w_qk[1]         = dz_q[1]/da_k[0]
"""


def test_text_of_an_output_weight(textbook):
    assert str(explain(*textbook, 3, 1, 2)) == OUTPUT_WEIGHT


def test_text_of_an_input(textbook):
    text = str(explain_activation(*textbook, 0, 2, largest=2))
    assert text.startswith(INPUT)
    assert re.search(r"1 more +[-\d.e]+\n +sum = dC/da_2\[0\] +0\.000842468", text)


def batch(g, loss, n, k):
    return explain(network(g, last="softmax"), *data(n), 1, 1, k, loss, depth="full", largest=2)


RENDERED = {
    "a weight": lambda book: explain(*book, 3, 1, 2),
    "to full depth": lambda book: explain(*book, 1, 1, 2, depth="full"),
    "a bias": lambda book: explain_bias(*book, 3, 0, "bce"),
    "an output": lambda book: explain_activation(*book, 3, 0, "bce"),
    "one number": lambda book: explain_activation(*book, 2, 0, depth=0),
    "silu": lambda book: batch("silu", "cce", 1, 0),
    "gelu, a batch": lambda book: batch("gelu", "mse", 3, 1),
    "relu, a batch": lambda book: batch("relu", "sse", 3, 2),
}


@pytest.mark.parametrize("name", RENDERED)
def test_every_rendering(name, textbook):
    e = RENDERED[name](textbook)
    text = str(e)
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"[^\x20-\x7e\n]", text)
    assert not re.search(r" $|\\", text, re.MULTILINE)

    html = ET.fromstring(e._repr_html_())
    numbers = "".join(html.itertext())
    assert f"{e.backward:.7g}" in numbers
    assert not re.search(r"https?://(?!www\.w3\.org/1998/Math/MathML)", e._repr_html_())
    assert html.find(".//script") is None
    for table in html.iter("table"):
        widths = {sum(int(c.get("colspan", 1)) for c in row) for row in table.iter("tr")}
        assert len(widths) == 1

    latex = e.latex()
    assert latex.startswith("\\begin{align*}\n")
    assert latex.endswith("\n\\end{align*}")
    assert e._repr_latex_().startswith("$$\n\\begin{aligned}")
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", latex):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    for line in latex.split("\\\\\n"):
        assert re.sub(r"\\begin\{cases\}.*?\\end\{cases\}", "", line).count("&") == 1
    assert latex.count(r"\Bigl(") == latex.count(r"\Bigr)")
    assert len(re.findall(r"\\begin", latex)) == len(re.findall(r"\\end", latex))
    # Nothing but commands that LaTeX with amsmath knows.
    known = "begin end frac partial cdot sum quad underbrace text times Bigl Bigr bigl bigr"
    known += " sigma varphi Phi le max tanh ln"
    assert set(re.findall(r"\\([a-zA-Z]+)", latex)) <= set(known.split())

"""Formulas as text, LaTeX and MathML: everything that entries and explanations are written with."""

import xml.etree.ElementTree as ET

import pytest

from backprop_gpu.activations import ACTIVATIONS
from backprop_gpu.explaining.formulas import parse, substitute, symbols, to_text
from backprop_gpu.explaining.markup import number_latex, to_latex, to_mathml
from backprop_gpu.losses import LOSSES

ENTRIES = [
    *(
        formula
        for build in ACTIVATIONS.values()
        for formula in (build().latex, build().latex_derivative)
    ),
    *(formula for loss in LOSSES.values() for formula in (loss.latex, loss.latex_gradient)),
]
CHAIN = (
    r"\frac{\partial C}{\partial w_{jk}^{[3]}} = \frac{\partial C}{\partial a_{j}^{[3]}} \cdot "
    r"\frac{\partial a_{j}^{[3]}}{\partial z_{j}^{[3]}} \cdot "
    r"\frac{\partial z_{j}^{[3]}}{\partial w_{jk}^{[3]}}"
)


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (CHAIN, "dC/dw_jk[3] = dC/da_j[3] * da_j[3]/dz_j[3] * dz_j[3]/dw_jk[3]"),
        (r"w_{1,2}^{[3]}", "w_1,2[3]"),
        (r"a_q\,([q = j] - a_j)", "a_q ([q = j] - a_j)"),
        (r"\frac{1}{n}\sum_i \frac{\partial C_i}{\partial a_j}", "1/n sum_i dC_i/da_j"),
        (r"-\sum_j \bigl(y_j \ln a_j\bigr)", "-sum_j (y_j ln a_j)"),
        (r"\ln(1 + e^{-(a+b)})", "ln(1 + e^(-(a + b)))"),
        (r"\max(0, z)", "max(0, z)"),
        (r"\begin{cases} 1 & z > 0 \\ 0 & z \le 0 \end{cases}", "1 where z > 0, 0 where z <= 0"),
        (r"(\delta^{[3]})^{\top} \, a^{[2]}", "(delta[3])^T a[2]"),
        (r"\frac{a - b}{2} - \frac{-y}{a}", "(a - b)/2 - (-y/a)"),
        (r"\softsign z", "softsign z"),  # a command that nobody has heard of
    ],
)
def test_text(latex, text):
    assert to_text(latex) == text


@pytest.mark.parametrize(
    ("latex", "values", "text"),
    [
        (r"\frac{2}{m}\,(a_j - y_j)", {"a_j": "0.5", "m": "4"}, "2/4 (0.5 - y_j)"),
        (r"a\,(1 - a)", {"a": "-0.5"}, "-0.5 (1 - (-0.5))"),
        (r"1 - a^2", {"a": "-0.5"}, "1 - (-0.5)^2"),
        (r"\sigma(z)\,(1 + z)", {"z": "-2"}, "sigma(-2) (1 + (-2))"),
        (r"1 - a_j^2", {"a_j": "0.5"}, "1 - 0.5^2"),
        (r"a_j^{[2]}", {"a_j": "0.5"}, "a_j[2]"),
        (r"a_j - a", {"a": "1"}, "a_j - 1"),  # a_j is not a
    ],
)
def test_numbers_in_the_place_of_letters(latex, values, text):
    assert to_text(substitute(latex, values)) == text


CASES = r"\begin{cases} 1 & z_j > 0 \\ 0.01 & z_j \le 0 \end{cases}"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"z_j": "2.5"}, "1 where 2.5 > 0"),
        ({"z_j": "-2.5e-05"}, "0.01 where -2.5e-05 <= 0"),
        ({"z_j": "0"}, "0.01 where 0 <= 0"),
        ({"a_j": "2.5"}, "1 where z_j > 0, 0.01 where z_j <= 0"),
    ],
)
def test_of_cases_the_one_that_holds_is_left_where_numbers_tell(values, text):
    assert to_text(substitute(CASES, values)) == text


def test_symbols():
    assert {"a_j", "y_j", "m"} <= symbols(r"\frac{2}{m}\,(a_j - y_j)")
    assert "a" not in symbols(r"\begin{cases} 1 & z > 0 \\ 0 & z \le 0 \end{cases}")


@pytest.mark.parametrize("latex", [*ENTRIES, CHAIN])
def test_latex_that_is_parsed_and_written_says_the_same(latex):
    assert to_text(to_latex(parse(latex))) == to_text(latex)


@pytest.mark.parametrize("latex", [*ENTRIES, CHAIN, "a < b", "1 & 2", "3.5 > x", "a_", r"\frac"])
def test_mathml_is_well_formed(latex):
    math = ET.fromstring(to_mathml(latex))
    assert math.tag == "{http://www.w3.org/1998/Math/MathML}math"
    for element in math.iter():  # scripts and fractions have as many children as they must
        name = element.tag.partition("}")[2]
        expected = {"mfrac": 2, "msub": 2, "msup": 2, "msubsup": 3}.get(name)
        assert expected is None or len(element) == expected


def test_mathml_of_numbers_and_letters():
    math = to_mathml(substitute("a - z", {"a": "-3.5e-05", "z": "2"}))
    assert "<mn>3.5</mn>" in math
    assert "<msup><mn>10</mn>" in math
    assert "<mn>2</mn>" in math
    assert "display" in to_mathml("a", display=True)


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("0.25", "0.25"),
        ("-3e-05", r"-3 \times 10^{-5}"),
        ("1.5e+20", r"1.5 \times 10^{20}"),
        ("-inf", r"-\infty"),
    ],
)
def test_numbers(text, latex):
    assert number_latex(text) == latex

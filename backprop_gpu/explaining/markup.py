r"""Formulas for pages and papers: MathML, which browsers show without any help, and LaTeX."""

from __future__ import annotations

from html import escape

from backprop_gpu.explaining.formulas import (
    SYMBOLS,
    Cases,
    Fraction,
    Leaf,
    Node,
    Row,
    Scripts,
    parse,
)


def to_latex(formula: Row) -> str:
    """Return a tree as LaTeX."""
    return _latex(formula).strip()


def to_mathml(latex: str | Row, display: bool = False) -> str:
    """Return a formula as a ``<math>`` element, which browsers show without any help."""
    tree = parse(latex) if isinstance(latex, str) else latex
    block = ' display="block"' if display else ""
    return f'<math xmlns="http://www.w3.org/1998/Math/MathML"{block}>{_mathml(tree)}</math>'


def number_latex(text: str) -> str:
    r"""Return a number as LaTeX: 3e-05 with a power of ten.

    Examples
    --------
    >>> number_latex("3.5e-05")
    '3.5 \\times 10^{-5}'
    """
    mantissa, _, exponent = text.partition("e")
    if mantissa.removeprefix("-") == "inf":
        return mantissa.replace("inf", r"\infty")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}" if exponent else mantissa


def _latex(node: Node) -> str:
    match node:
        case Leaf(text, character, "mspace"):
            return r"\," if character else " "
        case Leaf(text, _, "mn"):
            return number_latex(text)
        case Leaf(text, character, element):
            command = next((name for name, symbol in SYMBOLS.items() if symbol[1] == character), "")
            if command or (element == "mi" and len(text) > 1):
                return rf"\{command or text} "
            return text
        case Row(items):
            return "".join(map(_latex, items))
        case Fraction(above, below):
            return rf"\frac{{{_latex(above)}}}{{{_latex(below)}}}"
        case Scripts(base, sub, sup):
            text = f"{{{_latex(base)}}}" if isinstance(base, Row) else _latex(base).strip()
            text += f"_{{{_latex(sub)}}}" if sub is not None else ""
            return text + (f"^{{{_latex(sup)}}}" if sup is not None else "")
        case Cases(lines):
            rows = r" \\ ".join(" & ".join(map(_latex, line)) for line in lines)
            return rf"\begin{{cases}} {rows} \end{{cases}}"


def _mathml(node: Node) -> str:
    match node:
        case Leaf(_, character, "mspace"):
            return '<mspace width="0.17em"/>' if character else ""
        case Leaf(text, _, "mn") if "e" in text:
            return _mathml(parse(number_latex(text)))
        case Leaf(_, character, element):
            return f"<{element}>{escape(character)}</{element}>"
        case Row(items):
            return f"<mrow>{''.join(map(_mathml, items))}</mrow>"
        case Fraction(above, below):
            return f"<mfrac>{_mathml(above)}{_mathml(below)}</mfrac>"
        case Scripts(base, sub, sup):
            inside = "".join(_mathml(part) for part in (base, sub, sup) if part is not None)
            name = "sub" * (sub is not None) + "sup" * (sup is not None)
            return f"<m{name}>{inside}</m{name}>"
        case Cases(lines):
            rows = "".join(
                "<mtr>"
                + "".join(f'<mtd style="text-align: left">{_mathml(cell)}</mtd>' for cell in line)
                + "</mtr>"
                for line in lines
            )
            return f"<mrow><mo>{{</mo><mtable>{rows}</mtable></mrow>"

r"""Formulas: the LaTeX that entries and explanations carry, as a tree and as plain text.

A small part of LaTeX: letters, numbers, operators, ``\frac``, sub- and superscripts, ``cases`` and
the commands of SYMBOLS. A command that is not known stands for its own name.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

# Command: (plain text, character, element of MathML).
SYMBOLS = {
    "partial": ("d", "∂", "mi"),
    "delta": ("delta", "δ", "mi"),
    "sigma": ("sigma", "σ", "mi"),
    "Phi": ("Phi", "Φ", "mi"),
    "varphi": ("phi", "φ", "mi"),
    "cdot": ("*", "·", "mo"),
    "odot": ("*", "⊙", "mo"),
    "le": ("<=", "≤", "mo"),
    "ge": (">=", "≥", "mo"),
    "times": ("*", "×", "mo"),
    "infty": ("inf", "∞", "mi"),
    "sum": ("sum", "∑", "mo"),
    "top": ("T", "⊤", "mi"),
}
SPACES = {r"\,", r"\;", r"\:", r"\ ", r"\quad", r"\qquad", "~"}
LOOSE = {"+", "-", "=", "<", ">", "<=", ">=", "*"}  # text has a space on either side of these
IGNORED = {"left", "right", "displaystyle", "mathrm", "text"} | {
    size + side for size in ("big", "Big", "bigg") for side in ("", "l", "r")
}

COMPARISONS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}

TOKEN = re.compile(r"(\\[a-zA-Z]+)\s*|(\\.)|(\d+(?:\.\d+)?)|(\s+)|(.)", re.DOTALL)


@dataclass(frozen=True)
class Leaf:
    """A number, a letter, an operator, or a name of several letters."""

    text: str
    character: str
    element: str


@dataclass(frozen=True)
class Row:
    """One after the other."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Fraction:
    """A numerator over a denominator."""

    above: Row
    below: Row


@dataclass(frozen=True)
class Scripts:
    """Something with a subscript, a superscript or both."""

    base: Node
    sub: Row | None = None
    sup: Row | None = None


@dataclass(frozen=True)
class Cases:
    """Lines of a value and a condition."""

    lines: tuple[tuple[Row, ...], ...]


Node = Leaf | Row | Fraction | Scripts | Cases
SPACE = Leaf(" ", " ", "mspace")
BLANK = Leaf(" ", "", "mspace")  # between two words in text, and nothing elsewhere


def parse(latex: str) -> Row:
    """Return a formula as a tree."""
    tokens = [next(filter(None, match)) for match in TOKEN.findall(latex)]
    return _Parser(tokens).row()


def to_text(latex: str | Row) -> str:
    r"""Return a formula in plain text, in the notation of docs/maths.md.

    Examples
    --------
    >>> to_text(r"\frac{\partial C}{\partial w_{1,2}^{[3]}}")
    'dC/dw_1,2[3]'
    >>> to_text(r"\frac{1}{1 + e^{-z}}")
    '1/(1 + e^-z)'
    """
    text = _text(parse(latex) if isinstance(latex, str) else latex)
    return re.sub(" +", " ", text).replace("( ", "(").replace(" )", ")").replace(" ,", ",").strip()


def symbols(formula: str) -> set[str]:
    r"""Return every symbol of a formula in plain text; an index belongs to its letter.

    Examples
    --------
    >>> sorted(symbols(r"\frac{2}{m}\,(a_j - y_j)"))
    ['(', ')', '-', '2', 'a_j', 'm', 'y_j']
    """
    found: set[str] = set()

    def visit(node: Node) -> None:
        match node:
            case Leaf(text):
                found.add(text)
            case Row(items):
                for item in items:
                    visit(item)
            case Fraction(above, below):
                visit(above)
                visit(below)
            case Scripts(base, sub, sup):
                found.add(_text(Scripts(base, sub) if sub else base))
                if sup:
                    visit(sup)
            case Cases(lines):
                for cell in itertools.chain.from_iterable(lines):
                    visit(cell)

    visit(parse(formula))
    return found - {" "}


def substitute(formula: str, values: Mapping[str, str]) -> Row:
    r"""Return a formula with numbers in the place of some symbols; of cases, the one that holds.

    Parameters
    ----------
    formula : str
    values : mapping
        From the plain text of a symbol, ``a_j`` or ``z`` say, to its number. A letter with an
        index is a symbol of its own.

    Examples
    --------
    >>> to_text(substitute(r"\frac{2}{m}\,(a_j - y_j)", {"a_j": "0.5", "m": "4"}))
    '2/4 (0.5 - y_j)'
    >>> to_text(substitute(r"\begin{cases} 1 & z > 0 \\ 0.1 & z \le 0 \end{cases}", {"z": "-2"}))
    '0.1 where -2 <= 0'
    """
    return _filled(parse(formula), values)


def _filled(row: Row, values: Mapping[str, str]) -> Row:
    return Row(tuple(_bracketed([_substitute(item, values) for item in row.items])))


def _substitute(node: Node, values: Mapping[str, str]) -> Node:
    def inside(row: Row) -> Row:
        return _filled(row, values)

    if isinstance(node, Leaf | Scripts) and (number := values.get(_text(node))) is not None:
        return Leaf(number, number.replace("-", "−"), "mn")
    match node:
        case Row():
            return inside(node)
        case Fraction(above, below):
            return Fraction(inside(above), inside(below))
        case Scripts(base, sub, sup):
            power = sup and not _text(sup).startswith("[")  # not the layer
            if power and sub and _text(Scripts(base, sub)) in values:  # a_j^2
                base, sub = Scripts(base, sub), None
            if not (isinstance(base, Leaf) and sub):
                base = Row(tuple(_bracketed([_substitute(base, values)], first=False)))
            return Scripts(base, sub and inside(sub), sup and inside(sup))
        case Cases(lines):
            filled = [tuple(map(inside, line)) for line in lines]
            taken = [line for line in filled if _holds(line[-1])]
            return Cases(tuple(taken[:1] or filled))
    return node


def _holds(condition: Row) -> bool:
    """Return whether a condition compares two numbers, and is true."""
    match to_text(condition).split():
        case left, sign, right if sign in COMPARISONS:
            with suppress(ValueError):  # a symbol
                one, other = (float(number.strip("()")) for number in (left, right))
                is_rounded = one == other != 0  # and so they may differ
                return not is_rounded and bool(COMPARISONS[sign](one, other))
    return False


def _bracketed(items: list[Node], first: bool = True) -> Iterator[Node]:
    """Put brackets around negative numbers that follow something."""
    for item in items:
        if isinstance(item, Leaf) and item.text.startswith("-") and item.element == "mn":
            yield item if first else Row((Leaf("(", "(", "mo"), item, Leaf(")", ")", "mo")))
        else:
            yield item
        if item not in (SPACE, BLANK):
            first = isinstance(item, Leaf) and item.text in ("(", "[")


class _Parser:
    """Descends through the tokens of a formula."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0

    def next(self) -> str:
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        self.at += 1
        return token

    def row(self, *ends: str) -> Row:
        """Read up to one of the tokens in `ends`, which is taken too, or to the end."""
        items: list[Node] = []
        while (token := self.next()) and token not in ends:
            if token in ("_", "^"):
                items.append(self.scripts(items.pop() if items else Row(()), token))
            elif (node := self.node(token)) is not None:
                items.append(node)
        return Row(tuple(items))

    def argument(self) -> Row:
        token = self.next()
        if token == "{":
            return self.row("}")
        node = self.node(token)
        return Row(() if node is None else (node,))

    def scripts(self, base: Node, token: str) -> Scripts:
        scripts = base if isinstance(base, Scripts) else Scripts(base)
        return replace(scripts, **{"sub" if token == "_" else "sup": self.argument()})

    def node(self, token: str) -> Node | None:
        name = token[1:] if token.startswith("\\") else ""
        if token in SPACES:
            return SPACE
        if token.isspace():
            return BLANK
        if token == "{":
            return self.row("}")
        if name in IGNORED:
            return None
        if name == "frac":
            return Fraction(self.argument(), self.argument())
        if name == "begin":
            return self.cases()
        if name in SYMBOLS:
            return Leaf(*SYMBOLS[name])
        if name.isalpha():
            return Leaf(name, name, "mi")
        if not token:
            return None
        if token[0].isdigit():
            return Leaf(token, token, "mn")
        token = name or token
        character = {"-": "−", "'": "′"}.get(token, token)
        return Leaf(token, character, "mi" if token.isalpha() else "mo")

    def cases(self) -> Cases:
        self.argument()
        lines: list[tuple[Row, ...]] = []
        cells: list[Row] = []
        while self.at < len(self.tokens):
            cells.append(self.row("&", "\\\\", "\\end"))
            end = self.tokens[self.at - 1]
            if end != "&":
                lines.append(tuple(cells))
                cells = []
            if end == "\\end":
                self.argument()
                break
        return Cases(tuple(lines))


def _text(node: Node) -> str:
    match node:
        case Leaf(text):
            return text
        case Row(items):
            return _spaced(items)
        case Fraction(above, below):
            return f"{_grouped(above)}/{_grouped(below)}"
        case Scripts(base, sub, sup):
            text = _text(base)
            if sub is not None:
                text += f"_{to_text(sub)}".replace(" ", "")
            if sup is not None:
                raised = to_text(sup)
                # [l] is the layer, as in docs/maths.md; anything else is a power.
                text += raised if raised.startswith("[") else f"^{_grouped(sup)}"
            return text
        case Cases(lines):
            return ", ".join(" where ".join(to_text(cell) for cell in line) for line in lines)


def _spaced(items: tuple[Node, ...]) -> str:
    text, before = "", "("
    for item in items:
        own = _text(item)
        if own in LOOSE and before not in {"(", "[", *LOOSE}:  # else it is a sign
            own = f" {own} "
        elif before == "*" or (text[-1:].isalnum() and _is_word(item)):
            own = f" {own}"
        if _is_word(item):
            own += " "
        if isinstance(item, Fraction) and own.startswith("-") and before != "(":
            own = f"({own})"
        text += own
        before = own.strip() or before
    # The bracket of a function's argument stands close to its name.
    return re.sub(r"\b(ln|max|tanh|sigma|Phi|phi) +\(", r"\1(", text)


def _is_word(item: Node) -> bool:
    """Return whether this stands apart from what is around it: ln, delta, sum_j."""
    if isinstance(item, Scripts):
        return isinstance(item.base, Leaf) and _is_word(item.base)
    return isinstance(item, Leaf) and item.element in ("mi", "mo") and len(item.text) > 1


def _grouped(row: Row) -> str:
    text = to_text(row)
    return f"({text})" if " " in text.removeprefix("-") else text

"""Arithmetic as people and models write it, evaluated by a small parser with bounds and no eval.

    sum     := product (("+" | "-") product)*
    product := signed (("*" | "/" | "//" | "%") signed)*
    signed  := ("+" | "-") signed | power
    power   := atom ("**" signed)?
    atom    := number | "pi" | "e" | name "(" sum ("," sum)* ")" | "(" sum ")"

The rules are Python's, and so are the values: whole numbers are exact. Source: precedence climbing
(Clarke, 1986).
"""

import math
import re
from collections.abc import Callable

from llmos.syscalls.errors import E_TOOL

MAX_EXPRESSION_CHARS = 2_000
MAX_DEPTH = 50
MAX_BITS = 3_322  # 1,000 decimal digits
MAX_ROUND_DIGITS = 100
EXACT_BELOW = 1e15  # whole floats are exact, and readable, up to here

Number = int | float

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]*)?"
    r"|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z]+)|(?P<sign>\*\*|//|[-+*/%(),])|(?P<end>[\s=?]*\Z))"
)
_SPELLINGS = str.maketrans({"\u00d7": "*", "·": "*", "÷": "/", "\u2212": "-", "^": "**"})
_CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e}
_END = ("end", "")


def evaluate(expression: str) -> str:
    """The value as text: whole numbers exactly, others with 12 digits. Raises E_TOOL."""
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise E_TOOL(f"the expression is longer than {MAX_EXPRESSION_CHARS} characters")
    parser = _Parser(_split(expression.translate(_SPELLINGS)))
    try:
        return _show(parser.read_all())
    except ZeroDivisionError:
        raise E_TOOL("division by zero") from None
    except OverflowError:
        raise E_TOOL("the result is too large") from None


def _split(text: str) -> list[tuple[str, str]]:
    """Kind and text of each token; an `x` multiplies, an `=` at the end is nothing."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while True:
        found = _TOKEN.match(text, at)
        if found is None:
            raise E_TOOL(f"not arithmetic: {text[at : at + 20].strip()!r}")
        kind = found.lastgroup or "end"
        word = found[kind]
        if kind == "end":
            return tokens
        tokens.append(("sign", "*") if word in ("x", "X") else (kind, word))
        at = found.end()


def _show(value: Number) -> str:
    if isinstance(value, int) or (value.is_integer() and abs(value) < EXACT_BELOW):
        return str(int(value))
    return f"{value:.12g}"


class _Parser:
    """Evaluates while it reads; one method per rule of the grammar."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def read_all(self) -> Number:
        value = self._read_sum()
        if self._token() != _END:
            raise self._unexpected()
        return value

    def _token(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def _take(self, *signs: str) -> str | None:
        """The sign that comes next if it is one of these."""
        kind, word = self._token()
        if kind != "sign" or word not in signs:
            return None
        self._at += 1
        return word

    def _expect(self, sign: str) -> None:
        if self._take(sign) is None:
            raise self._unexpected(f"; expected {sign!r}")

    def _unexpected(self, more: str = "") -> E_TOOL:
        word = self._token()[1]
        return E_TOOL(f"unexpected {word!r}{more}" if word else f"the expression ends early{more}")

    def _read_sum(self) -> Number:
        value = self._read_product()
        while sign := self._take("+", "-"):
            value = _OPERATORS[sign](value, self._read_product())
        return value

    def _read_product(self) -> Number:
        value = self._read_signed()
        while sign := self._take("*", "/", "//", "%"):
            value = _OPERATORS[sign](value, self._read_signed())
        return value

    def _read_signed(self) -> Number:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise E_TOOL(f"the expression is nested deeper than {MAX_DEPTH}")
        sign = self._take("+", "-")
        value = self._read_power() if sign is None else self._read_signed()
        self._depth -= 1
        return -value if sign == "-" else value

    def _read_power(self) -> Number:
        value = self._read_atom()
        if self._take("**"):
            return _power(value, self._read_signed())
        return value

    def _read_atom(self) -> Number:
        kind, word = self._token()
        if kind == "number":
            self._at += 1
            return _read_number(word)
        if kind == "name":
            self._at += 1
            return self._read_name(word.lower())
        if self._take("(") is None:
            raise self._unexpected()
        value = self._read_sum()
        self._expect(")")
        return value

    def _read_name(self, name: str) -> Number:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name not in _FUNCTIONS:
            known = ", ".join((*_FUNCTIONS, *_CONSTANTS))
            raise E_TOOL(f"unknown name {name[:20]!r}; there are {known}")
        self._expect("(")
        arguments = [self._read_sum()]
        while self._take(","):
            arguments.append(self._read_sum())
        self._expect(")")
        function, max_arguments = _FUNCTIONS[name]
        if len(arguments) > max_arguments:
            raise E_TOOL(f"{name} takes {max_arguments} argument(s), got {len(arguments)}")
        return _bounded(function(*arguments))


def _read_number(text: str) -> Number:
    text = text.replace(",", "")
    return _bounded(int(text) if text.isdigit() else float(text))


def _bounded(value: Number) -> Number:
    """The value, or OverflowError if it is larger than results may be."""
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise OverflowError
    elif not math.isfinite(value):
        raise OverflowError
    return value


def _divide(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int) and left % right == 0:
        return left // right
    return left / right


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1:
        # The size is known before the work is done.
        if exponent > 0 and (base.bit_length() - 1) * exponent > MAX_BITS:
            raise OverflowError
    value = base**exponent
    if isinstance(value, complex):
        raise E_TOOL(f"{_show(base)} has no real power {_show(exponent)}")
    return _bounded(value)


def _root(value: Number) -> Number:
    if value < 0:
        raise E_TOOL(f"{_show(value)} has no real square root")
    if isinstance(value, int) and (whole := math.isqrt(value)) ** 2 == value:
        return whole
    return math.sqrt(value)


def _round(value: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or abs(digits) > MAX_ROUND_DIGITS:
        raise E_TOOL(f"round takes a whole number of digits up to {MAX_ROUND_DIGITS}")
    return round(value, digits) if digits else round(value)


_OPERATORS: dict[str, Callable[[Number, Number], Number]] = {
    "+": lambda left, right: _bounded(left + right),
    "-": lambda left, right: _bounded(left - right),
    "*": lambda left, right: _bounded(left * right),
    "/": lambda left, right: _bounded(_divide(left, right)),
    "//": lambda left, right: _bounded(left // right),
    "%": lambda left, right: _bounded(left % right),
}
_FUNCTIONS: dict[str, tuple[Callable[..., Number], int]] = {
    "sqrt": (_root, 1),
    "abs": (abs, 1),
    "round": (_round, 2),
}

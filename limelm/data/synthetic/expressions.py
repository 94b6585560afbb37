"""Expressions modulo a prime as lists of tokens: where brackets stand, one step of simplification, and the value.

`evaluate` shares nothing with the rest: it parses the text and computes, so that it can check what the rest made.
"""

from collections.abc import Sequence

from limelm.errors import UserError

OPERATORS = ("+", "-", "*", "/")
# An operator's neighbors that would bind what it gives more tightly than it does itself. Where "+" stands on the left,
# "a + (b - c)" is the same as "a + b - c" and needs no brackets; where "/" does, everything needs them.
_LEFT_NEEDS_BRACKETS = {"+": {"-", "*", "/"}, "-": {"-", "*", "/"}, "*": {"/"}, "/": {"/"}}
_RIGHT_NEEDS_BRACKETS = {"+": {"*", "/"}, "-": {"*", "/"}, "*": set(), "/": set()}


def number_positions(tokens: Sequence[str]) -> list[int]:
    """Where the numbers stand."""
    return [position for position, token in enumerate(tokens) if token.isdecimal()]


def expand(tokens: Sequence[str], position: int, left: int, operator: str, right: int) -> list[str]:
    """The expression with the number at `position` written as `left operator right`, in brackets if they are needed."""
    pair = [str(left), operator, str(right)]
    if _needs_brackets(tokens, position, position + 1, operator):
        pair = ["(", *pair, ")"]
    return [*tokens[:position], *pair, *tokens[position + 1 :]]


def simplifications(expression: str, modulus: int) -> list[str]:
    """Every expression that one step leads to: a single operation carried out, and its brackets gone with it.

    An operation on two numbers can be carried out if it may be grouped by itself: in "7 - 7 + 9", "7 - 7" can, "7 + 9"
    cannot; in "7 + 7 - 9" both can. Each is what some `expand` would undo.
    """
    tokens = expression.split()
    lines = []
    for position in range(len(tokens) - 2):
        left, operator, right = tokens[position : position + 3]
        if not (left.isdecimal() and operator in OPERATORS and right.isdecimal()):
            continue
        start, end = position, position + 3
        bracketed = tokens[start - 1 : start] == ["("] and tokens[end : end + 1] == [")"]
        if bracketed:
            start, end = start - 1, end + 1
        if bracketed == _needs_brackets(tokens, start, end, operator):
            value = _apply(int(left), operator, int(right), modulus)
            lines.append(" ".join([*tokens[:start], str(value), *tokens[end:]]))
    return lines


def evaluate(expression: str, modulus: int) -> int:
    """The value of an expression: multiplication before addition, from left to right, all modulo a prime.

    Raises:
        UserError: for what is not an expression, a number outside 0 ... modulus - 1, or a division by zero.
    """
    parser = _Parser(expression, modulus)
    value = parser.sum()
    if parser.next is not None:
        raise parser.error(parser.next, "an operator")
    return value


def _needs_brackets(tokens: Sequence[str], start: int, end: int, operator: str) -> bool:
    left = tokens[start - 1] if start > 0 else ""
    right = tokens[end] if end < len(tokens) else ""
    return left in _LEFT_NEEDS_BRACKETS[operator] or right in _RIGHT_NEEDS_BRACKETS[operator]


def _apply(left: int, operator: str, right: int, modulus: int) -> int:
    if operator == "+":
        return (left + right) % modulus
    if operator == "-":
        return (left - right) % modulus
    if operator == "*":
        return left * right % modulus
    return left * pow(right, -1, modulus) % modulus


class _Parser:
    """sum = product {("+" | "-") product}; product = atom {("*" | "/") atom}; atom = number | "(" sum ")"."""

    def __init__(self, expression: str, modulus: int):
        self.expression = expression
        self.modulus = modulus
        self.rest = list(reversed(expression.split()))

    @property
    def next(self) -> str | None:
        return self.rest[-1] if self.rest else None

    def error(self, found: str | None, allowed: str) -> UserError:
        what = "ends too early" if found is None else f"{found!r} is not allowed here"
        return UserError(f"expression {self.expression!r}: {what}; allowed: {allowed}")

    def sum(self) -> int:
        value = self.product()
        while self.next in ("+", "-"):
            sign = 1 if self.rest.pop() == "+" else -1
            value += sign * self.product()
        return value % self.modulus

    def product(self) -> int:
        value = self.atom()
        while self.next in ("*", "/"):
            if self.rest.pop() == "*":
                value *= self.atom()
            else:
                value *= self.inverse(self.atom())
        return value % self.modulus

    def atom(self) -> int:
        token = self.rest.pop() if self.rest else None
        if token == "(":
            value = self.sum()
            closing = self.rest.pop() if self.rest else None
            if closing != ")":
                raise self.error(closing, "an operator or )")
            return value
        if token is None or not token.isdecimal() or int(token) >= self.modulus:
            raise self.error(token, f"a number from 0 to {self.modulus - 1}, or (")
        return int(token)

    def inverse(self, value: int) -> int:
        """By search, where the generator computes."""
        for candidate in range(1, self.modulus):
            if candidate * value % self.modulus == 1:
                return candidate
        raise self.error("/", "division by anything but zero")

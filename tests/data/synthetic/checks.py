"""What generated problems are held against: an arithmetic of its own, and figures that describe a graph.

`evaluate` shares nothing with the generator: it parses the text and computes.
"""

from collections import Counter
from itertools import pairwise

from limelm.data.synthetic.arithmetic import MODULUS, OPERATORS, needs_brackets
from limelm.data.synthetic.graph_problem import GraphProblem, distances, shortest_paths
from limelm.data.synthetic.problem import Problem
from limelm.errors import UserError


def verify(problem: Problem, modulus=MODULUS) -> None:
    """Evaluate the expression and every step anew, and check that each step carries out exactly one operation.

    Raises:
        UserError: for what is wrong first.
    """
    lines = [problem.prompt, *problem.steps, problem.answer]
    for line in lines:
        value = evaluate(line, modulus)
        if str(value) != problem.answer:
            raise UserError(f"answer={problem.answer!r} of {problem.prompt!r}: {line!r} is {value} modulo {modulus}")
    for before, after in pairwise(lines):
        if after not in simplifications(before, modulus):
            raise UserError(f"steps of {problem.prompt!r}: no single operation leads from {before!r} to {after!r}")


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
        if bracketed == needs_brackets(tokens, start, end, operator):
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


def structure(problem: GraphProblem) -> dict[str, int]:
    """The figures that describe a problem: its size, the way to the target, and what surrounds it.

    `only_root`, `only_other` and `both` count the nodes below the root asked about, below the other root, and below
    both; the other root is the first node without parents that reaches the negative target, at `neg_target_distance`
    (0 where there is none). `distractor_edges` are those that are not in the steps.
    """
    graph = problem.graph
    in_degree = Counter(end for _, end in graph.edges)
    out_degree = Counter(start for start, _ in graph.edges)
    nodes = range(len(graph.symbols))
    below = distances(graph.edges, graph.root)
    tops = [node for node in nodes if in_degree[node] == 0 and node != graph.root]
    below_other: dict[int, int] = next(
        (reached for reached in (distances(graph.edges, top) for top in tops) if graph.neg_target in reached), {}
    )
    return {
        "nodes": len(graph.symbols),
        "names": len(tops) + 1,
        "edges": len(graph.edges),
        "path_length": len(problem.steps),
        "shortest_paths": len(shortest_paths(graph.edges, graph.root, graph.target)),
        "distractor_edges": len(graph.edges) - len(problem.steps),
        "root_out_degree": out_degree[graph.root],
        "target_in_degree": in_degree[graph.target],
        "target_out_degree": out_degree[graph.target],
        "neg_target_in_degree": in_degree[graph.neg_target],
        "neg_target_out_degree": out_degree[graph.neg_target],
        "neg_target_distance": below_other.get(graph.neg_target, 0),
        "leaves": sum(out_degree[node] == 0 for node in nodes),
        "only_root": len(below.keys() - below_other.keys()) - 1,
        "only_other": max(len(below_other.keys() - below.keys()) - 1, 0),
        "both": len(below.keys() & below_other.keys()),
    }

"""Published ProsQA problems, read from their JSON file."""

import json
from pathlib import Path
from typing import Any

from limelm.data.synthetic.graph_problem import Graph, GraphProblem
from limelm.data.synthetic.prosqa_text import question, read_prompt, verify
from limelm.errors import UserError

_FIELDS = {
    "question": "a text",
    "answer": "a text",
    "steps": "a list of texts",
    "idx_to_symbol": "a list of different words",
    "edges": "a list of pairs of indices into idx_to_symbol",
    "root": "an index into idx_to_symbol",
    "target": "an index into idx_to_symbol",
    "neg_target": "an index into idx_to_symbol",
}


def load_problems(path: Path) -> list[GraphProblem]:
    """The problems of a file in the format of `prosqa_valid.json` (github.com/facebookresearch/coconut), each verified.

    The file is a JSON list of objects with question, answer, steps, idx_to_symbol, edges, root, target and neg_target.

    Raises:
        UserError: for a file that cannot be read, or a row with a field that is missing, malformed, or at odds with the
            others; it names the file, the row (from 0) and the field.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError.from_os_error(path, error) from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: no problems; allowed: a JSON list of objects with {', '.join(_FIELDS)}")
    problems = []
    for index, row in enumerate(rows):
        try:
            problems.append(_read_row(row))
        except UserError as error:
            raise UserError(f"{path}: row {index}: {error}") from error
    return problems


def _read_row(row: Any) -> GraphProblem:
    if not isinstance(row, dict):
        raise UserError(f"{row!r:.80} is not an object; allowed: an object with {', '.join(_FIELDS)}")
    for field, allowed in _FIELDS.items():
        if field not in row:
            raise UserError(f"{field} is missing; allowed: {allowed}")
        if not _is_valid(field, row):
            raise UserError(f"{field}={row[field]!r:.80} is not allowed; allowed: {allowed}")
    edges = tuple((start, end) for start, end in row["edges"])
    graph = Graph(tuple(row["idx_to_symbol"]), edges, row["root"], row["target"], row["neg_target"])
    problem = GraphProblem(row["question"], tuple(row["steps"]), row["answer"], graph)
    verify(problem)
    _verify_graph(problem)
    return problem


def _is_valid(field: str, row: dict[str, Any]) -> bool:
    """Whether a field has the type that `_FIELDS` says; fields are checked in its order."""
    value = row[field]
    if field in ("question", "answer"):
        return isinstance(value, str)
    if field == "steps":
        return isinstance(value, list) and all(isinstance(step, str) for step in value)
    if field == "idx_to_symbol":
        return _is_valid_symbols(value)
    nodes = len(row["idx_to_symbol"])
    if field == "edges":
        return isinstance(value, list) and all(
            isinstance(edge, list) and len(edge) == 2 and all(_is_node(node, nodes) for node in edge) for edge in value
        )
    return _is_node(value, nodes)


def _is_valid_symbols(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(w, str) and w for w in value) and len(set(value)) == len(value)


def _is_node(value: Any, nodes: int) -> bool:
    return type(value) is int and 0 <= value < nodes


def _verify_graph(problem: GraphProblem) -> None:
    """The graph's fields say what the question says."""
    graph = problem.graph
    told = read_prompt(problem.prompt)
    if sorted(told.facts) != sorted((graph.symbols[start], graph.symbols[end]) for start, end in graph.edges):
        raise UserError(
            f"edges: {len(graph.edges)} that are not the question's {len(told.facts)} facts; allowed: the same"
        )
    asked = [question(graph, target_first) for target_first in (True, False)]
    if not problem.prompt.endswith(tuple(f" {sentence}" for sentence in asked)):
        raise UserError(f"root, target, neg_target: {asked[0]!r} is not what the question asks; allowed: the same")

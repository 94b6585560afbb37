"""Published ProsQA problems, read from their JSON file."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from limelm.data.synthetic.graph_problem import Graph, GraphProblem
from limelm.data.synthetic.prosqa_text import question, read_prompt, verify
from limelm.errors import UserError
from limelm.records import Count, build, load_json


@dataclass(frozen=True)
class ProsqaRow:
    """A problem as it is in the file; nodes are indices into `idx_to_symbol`, edges are pairs of nodes.

    Raises:
        ValueError: for words that are not different, or an index that no word has.
    """

    question: str
    answer: str
    steps: tuple[str, ...]
    idx_to_symbol: tuple[str, ...]
    edges: tuple[tuple[Count, ...], ...]
    root: Count
    target: Count
    neg_target: Count

    def __post_init__(self) -> None:
        symbols = self.idx_to_symbol
        if not all(symbols) or len(set(symbols)) < len(symbols):
            raise ValueError("idx_to_symbol must be different words")
        for edge in self.edges:
            if len(edge) != 2 or max(edge) >= len(symbols):
                raise ValueError(f"edges: {list(edge)} must be a pair of indices into idx_to_symbol")
        for name in ("root", "target", "neg_target"):
            if getattr(self, name) >= len(symbols):
                raise ValueError(f"{name}={getattr(self, name)} must be an index into idx_to_symbol")


def load_problems(path: Path) -> list[GraphProblem]:
    """Load and verify problems in the format of `prosqa_valid.json` (github.com/facebookresearch/coconut).

    The file is a JSON list of objects with question, answer, steps, idx_to_symbol, edges, root, target and neg_target.

    Raises:
        UserError: for a file that cannot be read, or a row with a field that is missing, malformed, or at odds with the
            others; it names the file, the row (from 0) and the field.
    """
    rows = load_json(path)
    if not isinstance(rows, list) or not rows:
        names = ", ".join(field.name for field in fields(ProsqaRow))
        raise UserError(f"{path}: no problems; allowed: a JSON list of objects with {names}")
    return [_read_row(row, f"{path}: row {index}") for index, row in enumerate(rows)]


def _read_row(row: Any, where: str) -> GraphProblem:
    read = build(ProsqaRow, row, where)
    edges = tuple((start, end) for start, end in read.edges)
    graph = Graph(read.idx_to_symbol, edges, read.root, read.target, read.neg_target)
    problem = GraphProblem(read.question, read.steps, read.answer, graph)
    try:
        verify(problem)
        _verify_graph(problem)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return problem


def _verify_graph(problem: GraphProblem) -> None:
    """Check that the fields of the graph agree with the text of the question."""
    graph = problem.graph
    told = read_prompt(problem.prompt)
    if sorted(told.facts) != sorted((graph.symbols[start], graph.symbols[end]) for start, end in graph.edges):
        raise UserError(
            f"edges: {len(graph.edges)} that are not the question's {len(told.facts)} facts; allowed: the same"
        )
    asked = [question(graph, target_first) for target_first in (True, False)]
    if not problem.prompt.endswith(tuple(f" {sentence}" for sentence in asked)):
        raise UserError(f"root, target, neg_target: {asked[0]!r} is not what the question asks; allowed: the same")

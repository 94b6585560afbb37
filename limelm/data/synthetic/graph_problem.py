"""A question about a graph that is told in sentences."""

from collections.abc import Iterable
from dataclasses import dataclass

from limelm.data.synthetic.problem import Problem


@dataclass(frozen=True)
class Graph:
    """A directed graph with a word for each node, and the question about it.

    Attributes:
        symbols: the word of each node: a name (with a capital) where no edge leads to it, else a concept.
        edges: (from, to), by index into `symbols`: what is "from" is a "to".
        root: the node asked about.
        target: the node that is reachable from it.
        neg_target: the node that is not.
    """

    symbols: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    root: int
    target: int
    neg_target: int


@dataclass(frozen=True)
class GraphProblem(Problem):
    """A problem with the graph that its prompt tells.

    Two problems are the same if their facts are, in whatever order these are told and whatever is asked.
    """

    graph: Graph

    @property
    def key(self) -> str:
        symbols = self.graph.symbols
        return "\n".join(sorted(f"{symbols[start]} {symbols[end]}" for start, end in self.graph.edges))


def distances(edges: Iterable[tuple[int, int]], root: int) -> dict[int, int]:
    """The steps from the root to each node that it reaches, by breadth-first search."""
    edges = list(edges)
    steps = {root: 0}
    frontier = {root}
    while frontier:
        depth = max(steps.values()) + 1
        frontier = {end for start, end in edges if start in frontier and end not in steps}
        steps |= dict.fromkeys(frontier, depth)
    return steps


def shortest_paths(edges: Iterable[tuple[int, int]], root: int, target: int) -> list[tuple[int, ...]]:
    """All paths of the least length, root and target included; none where the target is out of reach."""
    edges = list(edges)
    steps = distances(edges, root)
    paths: list[tuple[int, ...]] = [(root,)]
    for depth in range(1, steps.get(target, -1) + 1):
        paths = [(*path, end) for path in paths for start, end in edges if start == path[-1] and steps[end] == depth]
    return [path for path in paths if path[-1] == target]

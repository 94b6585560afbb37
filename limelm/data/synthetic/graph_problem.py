"""A question about a graph that is told in sentences, and its figures."""

from collections import Counter
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
    """Steps from the root to each node that it reaches, by breadth-first search."""
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

"""Random acyclic graphs with two roots and one question each: which of two leaves does this root reach?

How the graphs of ProsQA (Hao et al. 2024, arXiv 2412.06769) are made, as far as the 300 published validation problems
show it; the numbers were fitted to them:

Nodes 0 and 1 are the roots. 26 more come one by one, each below a Poisson(1.5) number of earlier nodes: of those that
only root 0 reaches (35 %), only root 1 reaches (45 %), or of all (20 %), drawn without replacement with weight
1 + 1.5 depth, where depth is the shortest way up to a node that is below nothing. Nodes without any edge are dropped.
The target is a deepest leaf among those that exactly one root reaches, at least three steps below it, and that root is
asked about; the negative target is any leaf that only the other root reaches.
"""

import math
import random
from dataclasses import dataclass

NODES = 28  # before those without edges are dropped
_MEAN_IN_DEGREE = 1.5
_GROUP_SHARES = (0.35, 0.45, 0.2)
_DEPTH_WEIGHT = 1.5
_SHORTEST_PATH = 3


@dataclass(frozen=True)
class Shape:
    """A graph without words, and the question about it.

    Attributes:
        parents: for each node, the nodes that it is directly below, in the order in which they were drawn.
        root: the node asked about, 0 or 1.
        target: the leaf that is reachable from it.
        neg_target: the leaf that is not, but from the other root.
    """

    parents: tuple[tuple[int, ...], ...]
    root: int
    target: int
    neg_target: int

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """All edges (from, to), ordered by the node they lead to."""
        return tuple((parent, node) for node, parents in enumerate(self.parents) for parent in parents)


def draw_shape(rng: random.Random) -> Shape:
    """Draw a random graph that allows a question."""
    while True:
        parents = _grow(rng)
        question = _question(rng, parents)
        if question is not None:
            return _without_isolated(parents, *question)


def _grow(rng: random.Random) -> list[list[int]]:
    """Draw the parents of each node; parents come before their children."""
    parents: list[list[int]] = [[], []]
    reached_from = [{0}, {1}]  # roots
    weights = [1.0, 1.0]
    for node in range(2, NODES):
        in_degree = _poisson(rng, _MEAN_IN_DEGREE)
        group = rng.choices(({0}, {1}, None), _GROUP_SHARES)[0]
        candidates = [other for other in range(node) if group is None or reached_from[other] == group]
        parents.append(_weighted_sample(rng, candidates, weights, in_degree))
        reached_from.append(set().union(*(reached_from[parent] for parent in parents[node])))
        weights.append(min((weights[parent] + _DEPTH_WEIGHT for parent in parents[node]), default=1.0))
    return parents


def _poisson(rng: random.Random, mean: float) -> int:
    """Draw from a Poisson distribution: the number of uniform factors that keep a product above exp(-mean)."""
    count, product = 0, rng.random()
    while product > math.exp(-mean):
        count += 1
        product *= rng.random()
    return count


def _weighted_sample(rng: random.Random, candidates: list[int], weights: list[float], count: int) -> list[int]:
    """Draw up to `count` different candidates, one after the other, with chances in proportion to their weights."""
    rest = list(candidates)
    sample: list[int] = []
    while rest and len(sample) < count:
        sample.append(rng.choices(rest, [weights[node] for node in rest])[0])
        rest.remove(sample[-1])
    return sample


def _question(rng: random.Random, parents: list[list[int]]) -> tuple[int, int, int] | None:
    """Choose root, target and negative target; None if no target is deep enough, or there is nothing beside it."""
    inner = {parent for of_node in parents for parent in of_node}
    depths = [_depths(parents, root) for root in (0, 1)]
    leaves = [
        {node: depth for node, depth in depths[root].items() if node not in {*inner, *depths[1 - root], root}}
        for root in (0, 1)
    ]
    deepest = max((*leaves[0].values(), *leaves[1].values()), default=0)
    targets = [(root, node) for root in (0, 1) for node, depth in leaves[root].items() if depth == deepest]
    if deepest < _SHORTEST_PATH:
        return None
    root, target = rng.choice(targets)
    if not leaves[1 - root]:
        return None
    return root, target, rng.choice(list(leaves[1 - root]))


def _depths(parents: list[list[int]], root: int) -> dict[int, int]:
    """The length of the shortest way from the root to each node it reaches, in the order of the nodes."""
    depths = {root: 0}
    for node, above in enumerate(parents):
        ways = [depths[parent] + 1 for parent in above if parent in depths]
        if ways:
            depths[node] = min(ways)
    return depths


def _without_isolated(parents: list[list[int]], root: int, target: int, neg_target: int) -> Shape:
    inner = {parent for of_node in parents for parent in of_node}
    kept = [node for node in range(len(parents)) if parents[node] or node in inner]
    new = {node: index for index, node in enumerate(kept)}
    renumbered = tuple(tuple(new[parent] for parent in parents[node]) for node in kept)
    return Shape(renumbered, new[root], new[target], new[neg_target])

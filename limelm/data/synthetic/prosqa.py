"""ProsQA: decide which of two concepts somebody is, by a chain of facts among many that lead elsewhere.

    Ada is a dimmet. Every dimmet is a plondle. ... Is Ada a trerrin or blavvik?
    Ada is a dimmet.
    Every dimmet is a plondle.
    Every plondle is a blavvik.
    Ada is a blavvik.

The task is that of Hao et al. 2024 (arXiv 2412.06769); the LIMe paper (arXiv 2502.09245v2) tests on it. `graphs` says
how the graphs are made. Names and concepts are dealt to the nodes at random; the facts and the two choices are told in
random order. The steps are one of the shortest paths, each equally likely.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from limelm.data.synthetic.graph_problem import Graph, GraphProblem, shortest_paths
from limelm.data.synthetic.graphs import NODES, draw_shape
from limelm.data.synthetic.problem import Problem, TextFormat
from limelm.data.synthetic.prosqa_text import WORDS, answer, fact, question
from limelm.data.synthetic.sampling import draw_distinct
from limelm.errors import UserError

TEXT_FORMAT = TextFormat(delimiter="\n")
_FEWEST_NAMES = 8  # as many as nearly all graphs need; the others are drawn again
_MOST_CONCEPTS = NODES - 2  # the roots have names


def _check_words(field: str, words: tuple[str, ...], pattern: str, fewest: int) -> None:
    wrong = next((word for word in words if not re.fullmatch(pattern, word)), None)
    if wrong is not None:
        raise UserError(f"{field}: {wrong!r} is not allowed; allowed: words that match {pattern}")
    if len(set(words)) < max(fewest, len(words)):
        raise UserError(
            f"{field}: {len(words)} words, {len(set(words))} different; allowed: {fewest} or more, all different"
        )


@dataclass(frozen=True)
class Lexicon:
    """The words in which problems are told.

    Attributes:
        names: different words of the letters A to Z with a capital first, 8 or more.
        concepts: different words in lower case, 26 or more.

    Raises:
        UserError: for too few words, repeated ones, or a word of the wrong case.
    """

    names: tuple[str, ...]
    concepts: tuple[str, ...]

    def __post_init__(self):
        _check_words("names", self.names, r"[A-Z][A-Za-z]*", _FEWEST_NAMES)
        _check_words("concepts", self.concepts, r"[a-z]+", _MOST_CONCEPTS)

    @classmethod
    def of(cls, problems: Iterable[GraphProblem]) -> "Lexicon":
        """Collect the words of given problems, in alphabetical order, to train for a test on those problems."""
        words = sorted({symbol for problem in problems for symbol in problem.graph.symbols})
        names = [word for word in words if word[0].isupper()]
        return cls(tuple(names), tuple(word for word in words if not word[0].isupper()))


LEXICON = Lexicon(
    names=(
        *("Ada", "Ben", "Clara", "Daniel", "Edith", "Felix", "Grace", "Henry", "Iris", "Jonas"),
        *("Karen", "Leo", "Mara", "Nina", "Otto", "Paula", "Rosa", "Simon", "Una", "Vera"),
    ),
    concepts=tuple(
        onset + rest
        for onset in ("bl", "d", "fr", "g", "k", "m", "pl", "tr")
        for rest in ("avvik", "errin", "immet", "ondle", "uzzop")
    ),
)


def generate(
    count: int,
    seed: int,
    split: str = "train",
    lexicon: Lexicon = LEXICON,
    exclude: Iterable[Problem] = (),
) -> list[GraphProblem]:
    """Generate different problems, as a pure function of the arguments.

    The first k of a larger count are the same. No set of facts is in both splits, whatever the seeds.

    Args:
        split: "train" or "test".
        exclude: problems that are not to be drawn, such as those of a file that is tested on.

    Raises:
        UserError: for a value out of range.
    """
    return draw_distinct(lambda rng: _draw(rng, lexicon), count, seed, split, exclude)


def all_words(lexicon: Lexicon = LEXICON) -> list[str]:
    """The vocabulary of the problems: names, concepts, and the words and signs of the sentences around them."""
    return [*lexicon.names, *lexicon.concepts, *WORDS]


def _draw(rng: random.Random, lexicon: Lexicon) -> GraphProblem:
    shape = draw_shape(rng)
    while sum(not parents for parents in shape.parents) > len(lexicon.names):
        shape = draw_shape(rng)
    names = iter(rng.sample(lexicon.names, len(lexicon.names)))
    concepts = iter(rng.sample(lexicon.concepts, len(lexicon.concepts)))
    symbols = tuple(next(concepts if parents else names) for parents in shape.parents)
    graph = Graph(symbols, shape.edges, shape.root, shape.target, shape.neg_target)
    facts = [fact(graph, *edge) for edge in graph.edges]
    rng.shuffle(facts)
    path = rng.choice(shortest_paths(graph.edges, graph.root, graph.target))
    return GraphProblem(
        prompt=" ".join([*facts, question(graph, target_first=rng.random() < 0.5)]),
        steps=tuple(fact(graph, *edge) for edge in pairwise(path)),
        answer=answer(graph),
        graph=graph,
    )

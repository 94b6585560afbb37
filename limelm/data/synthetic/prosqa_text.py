"""The wording of ProsQA: write it, and read it back.

`verify` knows a problem by its text alone, and finds the answer by a search of its own over the words.
"""

import re
from collections import deque
from dataclasses import dataclass

from limelm.data.synthetic.graph_problem import Graph
from limelm.data.synthetic.problem import Problem
from limelm.errors import UserError

WORDS = ("Every", "Is", "is", "a", "or", ".", "?", "\n")  # beside names and concepts

_FACT = re.compile(r"(?:Every ([a-z]+)|([A-Z]\w*)) is a ([a-z]+)\.")
_QUESTION = re.compile(r"Is ([A-Z]\w*) a ([a-z]+) or ([a-z]+)\?")


def fact(graph: Graph, start: int, end: int) -> str:
    """Write an edge as a sentence (`Alex is a yumpus.`, `Every yumpus is a wumpus.`)."""
    subject = graph.symbols[start]
    return f"{subject if subject[0].isupper() else f'Every {subject}'} is a {graph.symbols[end]}."


def question(graph: Graph, target_first: bool) -> str:
    """The sentence that asks which of target and negative target the root is."""
    choices = [graph.symbols[graph.target], graph.symbols[graph.neg_target]]
    first, second = choices if target_first else reversed(choices)
    return f"Is {graph.symbols[graph.root]} a {first} or {second}?"


def answer(graph: Graph) -> str:
    """The sentence that answers it."""
    return f"{graph.symbols[graph.root]} is a {graph.symbols[graph.target]}."


@dataclass(frozen=True)
class PromptFacts:
    """The content of a prompt.

    Attributes:
        facts: (subject, what it is), in order.
        root: who is asked about.
        choices: the two concepts to choose from.
    """

    facts: tuple[tuple[str, str], ...]
    root: str
    choices: tuple[str, str]


def read_prompt(prompt: str) -> PromptFacts:
    """Parse a prompt's sentences.

    Raises:
        UserError: for a sentence of another form.
    """
    *sentences, asked = re.split(r"(?<=[.?]) ", prompt)
    match = _QUESTION.fullmatch(asked)
    if match is None:
        raise UserError(f"question {asked!r} cannot be read; allowed: 'Is NAME a CONCEPT or CONCEPT?'")
    return PromptFacts(tuple(_read_fact(sentence) for sentence in sentences), match[1], (match[2], match[3]))


def verify(problem: Problem) -> None:
    """Derive the answer anew from the prompt's sentences, and check the steps against them.

    The root reaches one of the two choices and not the other; the steps are a shortest path of facts to it; nothing
    leads on from either choice.

    Raises:
        UserError: for what is wrong first.
    """
    reading = read_prompt(problem.prompt)
    reached = _search(reading)
    right = [choice for choice in reading.choices if choice in reached]
    if len(right) != 1:
        raise UserError(f"question: {reading.root} reaches {right or 'neither'}; allowed: exactly one of the choices")
    if problem.answer != f"{reading.root} is a {right[0]}.":
        raise UserError(f"answer {problem.answer!r} is wrong; allowed: '{reading.root} is a {right[0]}.'")
    for choice in reading.choices:
        if any(subject == choice for subject, _ in reading.facts):
            raise UserError(f"question: facts lead on from {choice!r}; allowed: choices that are leaves")
    _verify_steps(problem, reading, right[0], reached[right[0]])


def _verify_steps(problem: Problem, reading: PromptFacts, target: str, shortest: int) -> None:
    here = reading.root
    for step in problem.steps:
        subject, object_ = _read_fact(step)
        if (subject, object_) not in reading.facts or subject != here:
            raise UserError(f"step {step!r} is wrong; allowed: a fact of the question about {here!r}")
        here = object_
    if here != target or len(problem.steps) != shortest:
        raise UserError(f"steps: {len(problem.steps)} lead to {here!r}; allowed: {shortest} to {target!r}")


def _read_fact(sentence: str) -> tuple[str, str]:
    match = _FACT.fullmatch(sentence)
    if match is None:
        raise UserError(
            f"sentence {sentence!r} cannot be read; allowed: 'Every CONCEPT is a CONCEPT.' or 'NAME is a CONCEPT.'"
        )
    return match[1] or match[2], match[3]


def _search(reading: PromptFacts) -> dict[str, int]:
    """The number of facts that lead from the root to each word, by breadth-first search."""
    reached = {reading.root: 0}
    queue = deque([reading.root])
    while queue:
        here = queue.popleft()
        for subject, object_ in reading.facts:
            if subject == here and object_ not in reached:
                reached[object_] = reached[here] + 1
                queue.append(object_)
    return reached

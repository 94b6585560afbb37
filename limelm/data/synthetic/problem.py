"""A reasoning problem, its text format, and the rule by which a model's continuation counts as right."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question with its worked steps.

    Attributes:
        prompt: the question.
        steps: what leads from the question to the answer, in order; without both of them.
        answer: the final answer, to be matched exactly.
    """

    prompt: str
    steps: tuple[str, ...]
    answer: str

    @property
    def key(self) -> str:
        """A key that equal problems share: of those only one is drawn, and never on both sides of a split."""
        return self.prompt


@dataclass(frozen=True)
class TextFormat:
    """Prompt, steps and answer as one text, with `delimiter` between any two of them."""

    delimiter: str

    def prompt(self, problem: Problem) -> str:
        """The text that a model is given, up to and including the first delimiter."""
        return problem.prompt + self.delimiter

    def continuation(self, problem: Problem, with_steps: bool = True) -> str:
        """The text that a model learns to write after `prompt`: the steps, unless they are left out, and the answer."""
        return self.delimiter.join([*(problem.steps if with_steps else ()), problem.answer])

    def answer_of(self, continuation: str) -> str:
        """The final answer in a model's continuation: everything after the last delimiter."""
        return continuation.strip().split(self.delimiter)[-1].strip()

    def is_correct(self, problem: Problem, continuation: str) -> bool:
        """Whether the final answer matches exactly, whatever the steps before it."""
        return self.answer_of(continuation) == problem.answer

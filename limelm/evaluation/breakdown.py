"""Loss by how much text stands before a token, and by how frequent the token is."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from limelm.evaluation.statistics import ratio_interval
from limelm.records import Record

#: Classes of tokens by their part of a text: at least so much.
SHARES = (0.01, 0.001, 0.0001, 0.0)
SHARE_NAMES = ("more than 1 %", "0.1 to 1 %", "0.01 to 0.1 %", "less than 0.01 %")


@dataclass
class Breakdown:
    """Sums by class, document by document.

    Attributes:
        nats, tokens: of each document a list over classes, as long as there are tokens in any of them.
    """

    nats: list[list[float]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)

    def begin_document(self) -> None:
        """Begin the sums of the next document."""
        self.nats.append([])
        self.tokens.append([])

    def add(self, document: int, classes: np.ndarray, nats: np.ndarray) -> None:
        """Add the losses of some tokens of a document to their classes."""
        sums, counts = np.bincount(classes, weights=nats), np.bincount(classes)
        own_nats, own_tokens = self.nats[document], self.tokens[document]
        missing = len(sums) - len(own_nats)
        own_nats += [0.0] * missing
        own_tokens += [0] * missing
        for each, (total, count) in enumerate(zip(sums.tolist(), counts.tolist(), strict=True)):
            own_nats[each] += total
            own_tokens[each] += count

    def of_class(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The sums of nats and the tokens of a class, by document."""
        columns = ([row[number] if number < len(row) else 0 for row in rows] for rows in (self.nats, self.tokens))
        nats, tokens = (np.array(column, dtype=float) for column in columns)
        return nats, tokens

    @property
    def classes(self) -> list[int]:
        """The classes that have any tokens."""
        longest = max(map(len, self.tokens), default=0)
        return [number for number in range(longest) if self.of_class(number)[1].any()]


def context_classes(first: int, stop: int) -> np.ndarray:
    """The classes of tokens with `first` to `stop - 1` tokens before them: class k has 2^k to 2^(k+1) - 1."""
    return np.floor(np.log2(np.arange(first, stop))).astype(int)


def context_name(number: int) -> str:
    """Name a class of contexts by the tokens that stand before."""
    first, last = 2**number, 2 ** (number + 1) - 1
    return str(first) if first == last else f"{first:,} to {last:,}"


def share_classes(documents: Iterable[Sequence[int]]) -> np.ndarray:
    """The class, an index of SHARES, of every token id that there is in documents, by its part of all their tokens."""
    counts: Counter[int] = Counter()
    for ids in documents:
        counts.update(ids)
    total = counts.total()
    classes = np.full(max(counts, default=-1) + 1, len(SHARES) - 1)
    for token, count in counts.items():
        classes[token] = next(number for number, least in enumerate(SHARES) if count / total >= least)
    return classes


def breakdown_rows(
    model: str, domain: str, own: Breakdown, first: Breakdown | None, name: Callable[[int], str]
) -> list[Record]:
    """A table's rows: the loss of a model on each class of a domain's tokens, and how far it is from another model's.

    Args:
        first: the other model's, on the same tokens; None where there is none, or its tokens are others.
        name: names a class.

    Returns:
        `model`, `domain`, `tokens_are` (the class), `number` (its place), `tokens`, `loss` in nats per token with
        Student's 95 % interval over documents `low` and `high`, and `difference` with its interval.
    """
    rows = []
    for number in own.classes:
        nats, tokens = own.of_class(number)
        loss = ratio_interval(nats, tokens)
        compared = None if first is None else ratio_interval(nats - first.of_class(number)[0], tokens)
        rows.append(
            {
                "model": model,
                "domain": domain,
                "tokens_are": name(number),
                "number": number,
                "tokens": int(tokens.sum()),
                "loss": loss.mean,
                "low": loss.low,
                "high": loss.high,
                "difference": compared and compared.mean,
                "difference_low": compared and compared.low,
                "difference_high": compared and compared.high,
            }
        )
    return rows

"""States of close tokens, by default is / are / was / were: the data of probes and t-SNE clouds (section 5.3)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from limelm.analysis.activations import ActivationReader
from limelm.errors import UserError

DEFAULT_WORDS = ("is", "are", "was", "were")
LEAST = 10  # occurrences of every word: two in each of five folds


@dataclass(frozen=True)
class WordStates:
    """States at the same number of occurrences of every word.

    Attributes:
        words: of each occurrence.
        states: by name and layer `[occurrences, D]`, float32.
    """

    words: np.ndarray
    states: dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class Occurrence:
    """An occurrence of a word: the sequence's number in the sample, and the position in the sequence."""

    word: str
    sequence: int
    position: int


def token_of_word(word: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """The token of a word as it stands in a sentence, after a space.

    Raises:
        UserError: where it is no word, or several tokens.
    """
    if not word or word != word.strip():
        raise UserError(f"--words: {word!r} is not a word")
    # After another word: so that tokenizers which mark the space, and those which mark the start, do the same.
    before = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer(f"a {word}", add_special_tokens=False)["input_ids"][len(before) :]
    if len(ids) != 1:
        parts = " + ".join(repr(token) for token in tokenizer.convert_ids_to_tokens(ids))
        raise UserError(f"--words: {word!r} is {len(ids)} tokens ({parts}); give words that are one token each")
    return ids[0]


def find_occurrences(
    sequences: Iterable[Tensor], tokens: dict[str, int], most: int
) -> tuple[list[Occurrence], list[Tensor]]:
    """Find the first occurrences of each word, equally many of each, and the sequences that contain them.

    Args:
        sequences: `[T]` each; reading stops when there are enough.
        tokens: of each word.
        most: occurrences of each word, at most.

    Raises:
        UserError: where a word has fewer than LEAST.
    """
    found: dict[str, list[Occurrence]] = {word: [] for word in tokens}
    read: list[Tensor] = []
    for sequence in sequences:
        lacking = [word for word in tokens if len(found[word]) < most]
        if not lacking:
            break
        new = [
            Occurrence(word, len(read), position)
            for word in lacking
            for position in (sequence == tokens[word]).nonzero().flatten().tolist()
        ]
        for occurrence in new:
            found[occurrence.word].append(occurrence)
        if new:
            read.append(sequence)
    rare = [f"{len(places) or 'no'} occurrences of {word!r}" for word, places in found.items() if len(places) < LEAST]
    if rare:
        raise UserError(
            f"--words: {', '.join(rare)} in the data, at least {LEAST} needed; give more text or other words"
        )
    equal = min(most, *map(len, found.values()))
    return [occurrence for places in found.values() for occurrence in places[:equal]], read


def collect_states(reader: ActivationReader, occurrences: list[Occurrence], batches: Iterator[Tensor]) -> WordStates:
    """Run the model on the sequences that contain the occurrences, and keep the states at those positions.

    Args:
        batches: the sequences that `find_occurrences` returned, in their order, as `[B, T]`.
    """
    by_sequence: dict[int, list[Occurrence]] = {}
    for occurrence in occurrences:
        by_sequence.setdefault(occurrence.sequence, []).append(occurrence)
    kept: dict[str, list[list[np.ndarray]]] = {}
    words: list[str] = []
    first = 0
    for batch in batches:
        here = [o for number in range(first, first + len(batch)) for o in by_sequence.get(number, [])]
        first += len(batch)
        if not here:
            continue
        rows = torch.tensor([occurrence.sequence - first + len(batch) for occurrence in here])
        positions = torch.tensor([occurrence.position for occurrence in here])
        words += [occurrence.word for occurrence in here]
        for name, layers in reader(batch).states().items():
            columns = kept.setdefault(name, [[] for _ in layers])
            for column, states in zip(columns, layers, strict=True):
                column.append(states[rows, positions].cpu().numpy())
    return WordStates(
        np.array(words), {name: [np.concatenate(column) for column in columns] for name, columns in kept.items()}
    )

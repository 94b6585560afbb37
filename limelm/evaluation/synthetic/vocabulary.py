"""Words and token ids of a synthetic task: one token per word, number or sign."""

import re
from collections.abc import Iterable, Sequence

from limelm.errors import UserError

PAD = "<pad>"
EOS = "<eos>"
_TOKEN = re.compile(r"\n|[.?]|[^\s.?]+")


class Vocabulary:
    """A word-level tokenizer: the words in the given order, after `<pad>` (id 0) and `<eos>` (id 1).

    A text is cut at spaces; a full stop, a question mark and a line break are tokens of their own.

    Raises:
        UserError: for words that are not different.
    """

    pad_id = 0
    eos_id = 1

    def __init__(self, words: Iterable[str]):
        self.tokens = (PAD, EOS, *words)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self._ids) < len(self.tokens):
            repeated = next(token for index, token in enumerate(self.tokens) if self._ids[token] != index)
            raise UserError(f"vocabulary: {repeated!r} stands in it twice; allowed: each word once")

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without `<eos>`.

        Raises:
            UserError: for a word that is not in the vocabulary.
        """
        try:
            return [self._ids[token] for token in _TOKEN.findall(text)]
        except KeyError as error:
            known = ", ".join(self.tokens[2:10])
            raise UserError(
                f"text: {error.args[0]!r} is not in the vocabulary; allowed: its {len(self)} tokens ({known}, ...)"
            ) from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids up to the first `<eos>`, each sign set as `encode` found it; `<pad>` is left out."""
        ids = list(ids)
        end = ids.index(self.eos_id) if self.eos_id in ids else len(ids)
        text = " ".join(self.tokens[index] for index in ids[:end] if index != self.pad_id)
        return re.sub(r" ([.?])", r"\1", re.sub(r" ?\n ?", "\n", text))

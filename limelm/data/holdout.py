"""Choose which documents are trained on and which are held out for validation."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from limelm.errors import UserError
from limelm.records import Unrestricted, at_least, less_than, more_than

Fingerprint = Annotated[int, Unrestricted, at_least(0), less_than(2**64)]


@dataclass(frozen=True)
class HoldOut:
    """Assigns each document to a split, "train" or "validation".

    The split follows from a hash of the text, so copies of a document never stand on both sides. The first document is
    always trained on and the first other one held out, so that neither side is empty; where there is only one document
    (or copies of it), its end is held out.
    """

    fraction: Annotated[float, more_than(0), less_than(1)]
    first: Fingerprint  # of the first document
    other: Fingerprint | None  # of the first other document

    @classmethod
    def find(cls, documents: Iterable[str], fraction: float, source: str) -> "HoldOut":
        """Find the rule for a source by looking at its first documents, usually two.

        Args:
            fraction: the share of documents to hold out.
            source: what the documents are, for the error.

        Raises:
            UserError: where there are only empty documents, or only a single line.
        """
        texts = (text for text in documents if text.strip())
        first = next(texts, None)
        other = next((text for text in texts if text != first), None)
        if first is None or (other is None and len(first.splitlines()) < 2):
            raise UserError(f"{source}: no text to train on and to hold out (only empty documents, or a single line)")
        return cls(fraction, _fingerprint(first), None if other is None else _fingerprint(other))

    def pieces(self, text: str) -> list[tuple[str, str]]:
        """Split one document into (split, text) pairs: one pair, none if empty, or both parts of an only document."""
        if not text.strip():
            return []
        if self.other is None:
            lines = text.splitlines(keepends=True)
            cut = min(max(1, round(len(lines) * (1 - self.fraction))), len(lines) - 1)
            return [("train", "".join(lines[:cut])), ("validation", "".join(lines[cut:]))]
        fingerprint = _fingerprint(text)
        if fingerprint == self.first:
            return [("train", text)]
        is_validation = fingerprint == self.other or fingerprint < int(self.fraction * 2**64)
        return [("validation" if is_validation else "train", text)]


def _fingerprint(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])

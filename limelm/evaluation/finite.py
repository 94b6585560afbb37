"""Refuse scores that are no numbers: a model with broken weights would otherwise seem to answer wrongly."""

import math
from collections.abc import Iterable

import torch
from transformers import LogitsProcessor

from limelm.errors import UserError


class FiniteLogits(LogitsProcessor):
    """A logits processor that changes nothing, and refuses logits from which no token can be chosen.

    Minus infinity is a token that the model rules out; NaN and infinity are those of broken weights or an overflow.

    Raises:
        UserError: for a NaN or infinity among the logits of any sequence, or none above minus infinity.
    """

    def __init__(self, label: str):
        self.label = label

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the logits `[B, vocabulary]` of the sequences' next tokens unchanged, if a token can be chosen."""
        if not scores.amax(dim=-1).isfinite().all():  # NaN if any is, minus infinity if all are
            raise UserError(f"{self.label}: its logits are not finite; weights may be NaN or infinite")
        return scores


def check_finite(values: Iterable[float], label: str, what: str) -> None:
    """Refuse a score that is NaN or infinite.

    Args:
        values: scores of `what`.
        label: of the model.

    Raises:
        UserError: for the first such score.
    """
    for value in values:
        if not math.isfinite(value):
            raise UserError(f"{label}: {what} is not a finite number ({value}); weights may be NaN or infinite")

"""An exploration: what models do with one text, as a page that opens anywhere, or inside of a notebook."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limelm.errors import UserError
from limelm.explorer.measure import as_blocks, measure
from limelm.explorer.page import page
from limelm.files import write_text
from limelm.loading import context_length
from limelm.tokenizers import with_bos

NOTEBOOK_HEIGHT = 900  # pixels


@dataclass(frozen=True)
class Subject:
    """A model to explore.

    Attributes:
        label: its name on the page.
        step: of its training; None for one that is no step of a training.
    """

    label: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    step: int | None = None


@dataclass(frozen=True)
class Exploration:
    """Models on one text; notebooks display it as its page.

    Attributes:
        data: what the page shows, with every array as a numpy array: `text`, and for each of `models` its `tokens`,
            `places` (their `weights` and `effects`), `loss`, `predictions` and `lens`.
    """

    data: dict[str, Any]

    def page(self) -> str:
        """Assemble the HTML, which needs no other file and no network."""
        return page(as_blocks(self.data))

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, in the place of an earlier one; returns its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, self.page())
        return path

    def _repr_html_(self) -> str:
        """Display the page in a frame of its own, so that its style and scripts stay apart from the notebook's."""
        source = html.escape(self.page(), quote=True)
        allowed = 'sandbox="allow-scripts allow-downloads"'
        look = f'style="width:100%;height:{NOTEBOOK_HEIGHT}px;border:0"'
        return f'<iframe title="limelm explorer" {allowed} {look} srcdoc="{source}"></iframe>'


def explore(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, label: str = "model") -> Exploration:
    """Look into what a model does with a text: weights over depth, effects of routes, and predictions by depth.

    Args:
        model: any Hugging Face decoder; one with weights over depth shows most. It is left as it was.
        text: at least one token; a BOS token, where there is one, is put before it, as in training.
        label: the model's name on the page.

    Returns:
        An object that notebooks display, and that `save` writes as one HTML file.

    Raises:
        UserError: for a text without tokens, or with more than the model's context.
    """
    return explore_subjects([Subject(label, model, tokenizer)], text)


def explore_subjects(subjects: Sequence[Subject], text: str, is_live: bool = False) -> Exploration:
    """Explore several models on one text; arguments and errors as in `explore`.

    Args:
        is_live: whether the page is served, and may ask for more.
    """
    is_steps = len(subjects) > 1 and all(subject.step is not None for subject in subjects)
    models = [
        measure(
            each.model,
            each.tokenizer,
            encode(text, each),
            each.label,
            each.step if is_steps else None,
            has_bar=not is_live,
        )
        for each in subjects
    ]
    kind = "steps" if is_steps else "checkpoints"
    return Exploration({"text": text, "kind": kind, "live": is_live, "models": models})


def encode(text: str, subject: Subject) -> Tensor:
    """Make token ids `[T]` of a text, BOS first.

    Raises:
        UserError: for an empty text, or more tokens than the model's context.
    """
    if not text:
        raise UserError("the text is empty; give some")
    begun = with_bos(text, subject.tokenizer)
    ids = torch.tensor(subject.tokenizer(begun, add_special_tokens=False).input_ids, dtype=torch.long)
    context = context_length(subject.model.config)
    if not len(ids):
        raise UserError(f"{subject.label} reads no token in the text; give another")
    if context is not None and len(ids) > context:
        raise UserError(f"the text has {len(ids)} tokens; {subject.label} reads at most {context}")
    return ids

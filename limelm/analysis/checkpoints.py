"""Run every analysis on every checkpoint: the work behind `limelm analyze`."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import limelm
from limelm.adapters.connections import AttachedConnection
from limelm.analysis.sequences import Sequences
from limelm.analysis.study import ANALYSES, ON_ROUTES, ON_WORDS, ModelStudy, Settings
from limelm.analysis.words import DEFAULT_WORDS, token_of_word
from limelm.environment import environment
from limelm.errors import UserError
from limelm.extras import import_extra
from limelm.loading import FoundCheckpoint, find_checkpoints, load_adapter_config, load_config, load_on, model_labels
from limelm.models.connected import ConnectedModel
from limelm.provenance import shown_path
from limelm.records import Records
from limelm.registration import CLASSES
from limelm.routing import ROUTERS, Router

LONGEST_DEFAULT = 512


@dataclass
class Analysis:
    """The results: `models`, `facts`, `notes` on what was left out, `cautions`, and the tables of `records` by name."""

    models: Records = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[dict[str, str]] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    records: dict[str, Records] = field(default_factory=dict)

    def add(self, records: dict[str, Records]) -> None:
        """Append the rows of one more model."""
        for name, rows in records.items():
            if rows:
                self.records.setdefault(name, []).extend(rows)


def analyze(checkpoints: list[str], data: list[Path], settings: Settings, device: torch.device) -> Iterator[Analysis]:
    """Analyze checkpoints one after the other; yields the results so far after each.

    Args:
        checkpoints: folders, or names of the Hugging Face hub, of causal language models, or of adapters.
        data: a folder of token shards, or files and folders of text.

    Raises:
        UserError: for bad input; all that can be known before a model runs is checked before the first one does.
    """
    analysis = Analysis()
    labels = model_labels(checkpoints)
    possible, missing = _without_missing(settings)
    _refuse_impossible(checkpoints, settings)
    settings = possible
    found = find_checkpoints(checkpoints)
    length = _choose_length(found, settings)
    _check_words(found, settings)
    readings = [
        Sequences(data, each.tokenizer, length, each.checkpoint, verify=place == 0) for place, each in enumerate(found)
    ]
    for checkpoint, label, sequences in zip(checkpoints, labels, readings, strict=True):
        model, tokenizer = load_on(device, checkpoint)
        study = ModelStudy(label, model, tokenizer, sequences, settings)
        analysis.add(study.run())
        analysis.notes += study.notes
        if missing is not None:
            analysis.notes.append({"model": label, "analysis": ", ".join(ON_WORDS), "reason": missing})
        analysis.models.append({"label": label, "checkpoint": shown_path(checkpoint), **study.facts()})
        read = max(study.sampled, analysis.facts.get("sequences", 0))
        analysis.facts = _facts(sequences, settings, read)
        analysis.cautions = _cautions([each.tokenizer.get_vocab() for each in found], sequences)
        yield analysis


def _without_missing(settings: Settings) -> tuple[Settings, str | None]:
    """Drop analyses that need scikit-learn if it is missing; also returns a note on how to install it (or None).

    Raises:
        UserError: where it is missing, and an analysis that needs it, or an option of one, was asked for by name.
    """
    if not settings.wants(*ON_WORDS):
        return settings, None
    try:
        import_extra("sklearn", "analysis")
        return settings, None
    except UserError as error:
        if settings.analyses is not None or settings.words is not None:
            named = next((name for name in ON_WORDS if name in (settings.analyses or ())), None)
            raise UserError(f"{f'--only {named}' if named else '--words'}: {error}") from error
        analyses = tuple(name for name in ANALYSES if name not in ON_WORDS)
        return dataclasses.replace(settings, analyses=analyses), str(error)


def _choose_length(found: list[FoundCheckpoint], settings: Settings) -> int:
    """Choose the tokens per sequence for all models: as requested, or the smallest context, at most LONGEST_DEFAULT."""
    bounds = {each.checkpoint: each.context for each in found if each.context is not None}
    length = settings.sequence_length or min([LONGEST_DEFAULT, *bounds.values()])
    for checkpoint, context in bounds.items():
        if length > context:
            raise UserError(f"{checkpoint}: its context of {context} tokens is shorter than --sequence-length {length}")
    if settings.tokens < length:
        raise UserError(f"--tokens: {settings.tokens} must be at least one sequence of {length} tokens")
    return length


def _check_words(found: list[FoundCheckpoint], settings: Settings) -> None:
    """Refuse words that are no single token of every model."""
    if settings.words is not None and settings.wants(*ON_WORDS):
        for each in found:
            for word in settings.words:
                token_of_word(word, each.tokenizer)


def _refuse_impossible(checkpoints: list[str], settings: Settings) -> None:
    """Refuse analyses that were requested by name that no checkpoint supports, and checkpoints that do not exist."""
    kinds = [kind for kind in map(_router_kind, checkpoints) if kind is not None and kind.routes]
    named = ", ".join(checkpoints)
    for name in ON_ROUTES:
        if name in (settings.analyses or ()) and not kinds and not any(map(_weighs_sources, checkpoints)):
            raise UserError(
                f"--only {name}: no routers in {named}; retrieval weights are those of LIMe and of other models whose "
                "layers weigh what earlier ones left"
            )
    if "circuits" in (settings.analyses or ()) and not any(kind.depends_on_tokens for kind in kinds):
        raise UserError(f'--only circuits: {named} has no dynamic routers (routing="dynamic"), whose tokens choose')


def _weighs_sources(checkpoint: str) -> bool:
    """Whether a checkpoint has connections, not routers, which weigh what earlier places left: native or attached."""
    adapter = load_adapter_config(checkpoint)
    if adapter is not None:
        return issubclass(adapter.kind, AttachedConnection) and adapter.kind.weighs_sources
    classes = CLASSES.get(load_config(checkpoint).model_type)
    return classes is not None and issubclass(getattr(limelm, classes[1]), ConnectedModel)


def _router_kind(checkpoint: str) -> type[Router] | None:
    """The kind of a checkpoint's routers; None where it has none."""
    adapter = load_adapter_config(checkpoint)
    if adapter is None:
        return ROUTERS.get(getattr(load_config(checkpoint), "routing", ""))
    return adapter.kind if issubclass(adapter.kind, Router) else None


def _facts(sequences: Sequences, settings: Settings, read: int) -> dict[str, Any]:
    return {
        "data": ", ".join(map(shown_path, sequences.data)),
        "sequences": read,
        "sequence_length": sequences.length,
        "tokens": read * sequences.length,
        "alpha": settings.alpha,
        "probe": settings.probe,
        "words": ", ".join(settings.words or DEFAULT_WORDS),
        **environment(),
    }


def _cautions(vocabularies: list[dict[str, int]], sequences: Sequences) -> list[str]:
    cautions = [
        "One checkpoint of each model: how much a curve moves from seed to seed is not measured here. Error bands are "
        "over sequences, tokens or folds of the same data.",
        f"Sequences of {sequences.length} tokens: entropy and effective rank grow with their length and cannot be "
        "compared with figures for another.",
    ]
    if any(vocabulary != vocabularies[0] for vocabulary in vocabularies):
        cautions.append(
            "The models have different tokenizers: their sequences differ, so do not compare entropy, cosine or "
            "losses between them."
        )
    return cautions

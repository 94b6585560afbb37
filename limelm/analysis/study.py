"""All analyses of one model.

The model is read once for all that one pass over the sample gives; states are standardized over the sample before their
entropy, which takes a second pass; and words are rare, so they are looked for in all of the data, and the model reads
the sequences that hold them. Activations are used batch by batch and let go.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limelm.adapters.attachment import attachment_of
from limelm.analysis.activations import ActivationReader, Activations
from limelm.analysis.circuits import OpenRoutes, check_circuits, circuit_records
from limelm.analysis.effect_records import effect_records
from limelm.analysis.gradients import gradient_records
from limelm.analysis.logit_lens import LogitLens
from limelm.analysis.retrieval import (
    RetrievalWeights,
    TokenPriors,
    readers_of,
    routers_of,
    weights_of_readers,
)
from limelm.analysis.retrieval_statistics import retrieval_records
from limelm.analysis.route_effects import route_effects
from limelm.analysis.separability import clouds, separability_records
from limelm.analysis.sequences import Sequences, batches
from limelm.analysis.similarity import LayerAlignment, NeighborCosine
from limelm.analysis.spectrum import DEFAULT_ALPHA, FeatureStatistics, Spectra
from limelm.analysis.words import DEFAULT_WORDS, LEAST, Occurrence, collect_states, find_occurrences, token_of_word
from limelm.errors import UserError
from limelm.progress import progress_bar
from limelm.records import Records

ANALYSES = (
    "retrieval",
    "entropy",
    "separability",
    "tsne",
    "circuits",
    "effects",
    "collapse",
    "cka",
    "logit-lens",
    "gradients",
)
ON_ROUTES = ("retrieval", "effects")  # these look at weights over depth
ON_WORDS = ("separability", "tsne")  # these look at close words, and need scikit-learn
BATCH_TOKENS = 2048
EFFECT_TOKENS = 1024  # of the sample, on which routes are cut one by one
GRADIENT_TOKENS = 1024  # of the sample, as one batch: a backward pass needs memory for every token
CELLS = 36  # pairs of layer and source that are cut for all heads at once: all of 8 layers
SHORTEST = 8  # tokens of a sequence


@dataclass(frozen=True)
class Settings:
    """Which analyses are made, and on how much text.

    Attributes:
        analyses: some of ANALYSES; None: all that each model allows.
        sequence_length: T; None: the models' context, at most 512.
        tokens: size of the sample.
        alpha: of the entropy.
        words: for probes and clouds; None: is, are, was, were, which a model may do without.
        occurrences: of each word, at most.
        probe: see `limelm.analysis.separability`.

    Raises:
        UserError: for a value that is not allowed.
    """

    analyses: tuple[str, ...] | None = None
    sequence_length: int | None = None
    tokens: int = 32_768
    alpha: float = DEFAULT_ALPHA
    words: tuple[str, ...] | None = None
    occurrences: int = 100
    probe: str = "logistic"

    def __post_init__(self) -> None:
        for name in self.analyses or ():
            if name not in ANALYSES:
                raise UserError(f"--only: {name!r} is not one of {', '.join(ANALYSES)}")
        if self.sequence_length is not None and self.sequence_length < SHORTEST:
            raise UserError(f"--sequence-length: {self.sequence_length} must be at least {SHORTEST}")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise UserError(f"--alpha: {self.alpha} must be a positive number")
        if self.occurrences < LEAST:
            raise UserError(f"--occurrences: {self.occurrences} must be at least {LEAST}, two in each of five folds")
        if self.words is not None and len(self.words) < 2:
            raise UserError(f"--words: {', '.join(self.words)} is one word; give two or more to tell apart")

    def wants(self, *names: str) -> bool:
        """Whether one of these analyses is to be made."""
        return any(name in (self.analyses or ANALYSES) for name in names)


class Measure(Protocol):
    """A measurement that is made batch by batch in one pass."""

    def update(self, seen: Activations) -> None:
        """Take in a batch."""

    def records(self, model: str) -> dict[str, Records]:
        """The results, by name."""


class Routing:
    """Retrieval weights and circuits, which share the mean over the sample of weights that depend on tokens.

    Attributes:
        circuits_missing: why there are no circuits; None where there are.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings):
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.readers = readers_of(model)
        self.depends_on_tokens = any(reader.depends_on_tokens for reader in self.readers)
        self._priors, self._routes = TokenPriors(), OpenRoutes()
        self.circuits_missing: str | None = None
        try:
            check_circuits(model)
        except LookupError as error:
            self.circuits_missing = str(error)

    def update(self, seen: Activations) -> None:
        """Take in a batch; only weights that depend on tokens need it."""
        for layer, A in seen.routing.items():
            self._priors.add(layer, A)
        if self._wants_circuits():
            self._routes.update(seen)

    def records(self, model: str) -> dict[str, Records]:
        """The `retrieval_records`, and `circuits` of dynamic routers."""
        records: dict[str, Records] = {}
        priors = self._priors.means() if self.depends_on_tokens else None
        if self.settings.wants("retrieval"):
            weights = weights_of_readers(self.readers, model, priors)
            _check_finite(weights)
            records |= retrieval_records(weights)
        if priors and self._wants_circuits():
            records["circuits"] = circuit_records(model, self.model, self.tokenizer, priors, self._routes)
        return records

    def _wants_circuits(self) -> bool:
        return self.settings.wants("circuits") and self.circuits_missing is None


def _check_finite(weights: RetrievalWeights) -> None:
    """Refuse broken weights, which show without running the model where nothing else is measured."""
    for layer, A in weights.layers.items():
        if not np.isfinite(A).all():
            raise UserError(
                f"{weights.model}: NaN or infinity in the retrieval weights of layer {layer}; nothing to analyze"
            )


class ModelStudy:
    """All analyses of one model.

    Attributes:
        notes: what could not be had, and why.
        sampled: sequences of the sample that were read, or else those that hold the words; 0 where the model read none.
    """

    def __init__(
        self,
        label: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sequences: Sequences,
        settings: Settings,
    ):
        self.label, self.model, self.tokenizer = label, model, tokenizer
        self.sequences, self.settings = sequences, settings
        self.reader = ActivationReader(model, label)
        self.routing = Routing(model, tokenizer, settings)
        self.notes: list[dict[str, str]] = []
        self.sampled = 0

    def facts(self) -> dict[str, Any]:
        """Facts about the model, for the report."""
        config = self.model.config.get_text_config()
        attachment = attachment_of(self.model)
        routing = getattr(config, "routing", None) if attachment is None and self.routing.readers else None
        return {
            "model_type": config.model_type,
            "routing": routing if attachment is None else attachment.config.routing,
            "has_routers": bool(routers_of(self.model)),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "num_layers": len(self.reader.layers),
            "hidden_size": config.hidden_size,
        }

    def run(self) -> dict[str, Records]:
        """Every requested analysis that this model supports.

        Raises:
            UserError: where the words that were asked for are not in the data, or activations are not finite.
        """
        found = self._find_words()  # before any work: it may refuse
        self._note_missing()
        statistics = FeatureStatistics()
        wants_spectra = self.settings.wants("entropy", "collapse")
        records = self._pass("activations", [*self._measures(), *([statistics] if wants_spectra else [])])
        if self.routing.readers and not self.routing.depends_on_tokens:
            records |= self.routing.records(self.label)  # they are the same whatever the data
        if self.routing.readers and self.settings.wants("effects"):
            records |= self._effects()
        if self.settings.wants("gradients"):
            records |= self._gradients()
        if wants_spectra:
            spectra = self._pass("spectra", [Spectra(statistics, self.settings.alpha)])
            analysis_of = {"entropy": "entropy", "effective_rank": "collapse"}
            records |= {name: rows for name, rows in spectra.items() if self.settings.wants(analysis_of[name])}
        if found is not None:
            records |= self._word_records(*found)
        return records

    def _measures(self) -> Iterator[Measure]:
        """Measures that need a single pass."""
        if self.routing.depends_on_tokens and self.settings.wants("retrieval", "circuits"):
            yield self.routing
        if self.settings.wants("collapse"):
            yield NeighborCosine()
        if self.settings.wants("cka"):
            yield LayerAlignment()
        if self.settings.wants("logit-lens"):
            try:
                yield LogitLens(self.reader, next(self.sequences.sample()))
            except LookupError as error:
                self._note("logit-lens", str(error))

    def _pass(self, name: str, measures: list[Measure]) -> dict[str, Records]:
        """Show the sample to the measures."""
        if not measures:
            return {}
        count, read = max(1, self.settings.tokens // self.sequences.length), 0
        for batch in self._batches(name, islice(self.sequences.sample(), count), count):
            seen = self.reader(batch)
            read += len(batch)
            for measure in measures:
                measure.update(seen)
        self.sampled = max(self.sampled, read)
        records: dict[str, Records] = {}
        for measure in measures:
            records |= measure.records(self.label)
        return records

    def _effects(self) -> dict[str, Records]:
        """Measure on some of the sample what cutting routes does."""
        sample = list(batches(self._first_sequences(EFFECT_TOKENS), BATCH_TOKENS))
        effects = route_effects(self.model, sample, cells=CELLS, label=self.label)
        return effect_records(self.label, effects, sample, self.tokenizer)

    def _gradients(self) -> dict[str, Records]:
        """Take the gradient of the loss on one batch of the sample; none where the model's weights have none."""
        try:
            batch = torch.stack([*self._first_sequences(GRADIENT_TOKENS)])
            return gradient_records(self.label, self.model, batch)
        except LookupError as error:
            self._note("gradients", str(error))
            return {}

    def _first_sequences(self, tokens: int) -> Iterator[Tensor]:
        """The sample's first sequences, so many tokens at most, but one sequence at least."""
        count = max(1, min(tokens, self.settings.tokens) // self.sequences.length)
        for read, sequence in enumerate(islice(self.sequences.sample(), count), start=1):
            self.sampled = max(self.sampled, read)
            yield sequence

    def _find_words(self) -> tuple[list[Occurrence], list[Tensor]] | None:
        """The words' occurrences and their sequences; None where not wanted, or too few of the default words."""
        if not self.settings.wants(*ON_WORDS):
            return None
        try:
            tokens = {word: token_of_word(word, self.tokenizer) for word in self.settings.words or DEFAULT_WORDS}
            return find_occurrences(self.sequences.everything(), tokens, self.settings.occurrences)
        except UserError as error:
            if self.settings.words is not None:
                raise
            self._note(", ".join(ON_WORDS), str(error))
            return None

    def _word_records(self, occurrences: list[Occurrence], sequences: list[Tensor]) -> dict[str, Records]:
        states = collect_states(self.reader, occurrences, self._batches("words", sequences, len(sequences)))
        self.sampled = self.sampled or len(sequences)
        records: dict[str, Records] = {}
        if self.settings.wants("separability"):
            records["separability"] = separability_records(self.label, states, self.settings.probe)
        if self.settings.wants("tsne"):
            records["tsne"] = clouds(self.label, states)
        return records

    def _batches(self, name: str, sequences: Iterable[Tensor], count: int) -> Iterator[Tensor]:
        """Batches with a progress bar."""
        with progress_bar(f"{self.label}: {name}", "sequence", total=count) as bar:
            for batch in batches(iter(sequences), BATCH_TOKENS):
                yield batch
                bar.update(len(batch))

    def _note_missing(self) -> None:
        """Note the analyses that this model does not allow."""
        missing = [name for name in ON_ROUTES if self.settings.wants(name)]
        if missing and not self.routing.readers:
            self._note(", ".join(missing), "it has no routers, and nothing else that weighs earlier layers")
        if self.settings.wants("circuits") and self.routing.circuits_missing is not None:
            self._note("circuits", self.routing.circuits_missing)
        if self.settings.wants("entropy", "separability", "tsne", "collapse") and self.reader.values_missing:
            self._note("values", self.reader.values_missing)

    def _note(self, analysis: str, reason: str) -> None:
        self.notes.append({"model": self.label, "analysis": analysis, "reason": reason})

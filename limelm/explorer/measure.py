"""Everything that the explorer shows of one model on one text, as plain data.

Weights, effects and lenses are those of `limelm.analysis`: what a page shows equals what these functions return.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limelm.adapters.attachment import attachment_of
from limelm.analysis.activations import ActivationReader
from limelm.analysis.effect_records import correlation
from limelm.analysis.interventions import Routes, routes
from limelm.analysis.logit_lens import LogitLens
from limelm.analysis.retrieval import readers_of, run_decoder, without_dropout
from limelm.analysis.route_effects import RouteEffects, route_effects
from limelm.errors import UserError
from limelm.explorer.page import block
from limelm.routing import DepthReader, Router
from limelm.tokenizers import token_text

TOP = 5  # predictions of each token
#: What is cut really: whole cells, routes of single heads that seem the largest, and some by chance; fewer of long
#: texts, so that for each of these no more than so many tokens are read.
CELLS, LARGEST, RANDOM, TOKENS_READ = 40, 12, 6, 16_384
CHUNK = 256  # tokens whose logits are there at once
WIDE = 4_000_000  # numbers of one kind, from which on they are kept in half precision


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Tensor,
    label: str,
    step: int | None = None,
    has_bar: bool = True,
) -> dict[str, Any]:
    """Measure a model on one text.

    Args:
        input_ids: `[T]`.
        label: the model's name on the page.
        step: of its training, for a slider over steps.
        has_bar: whether a progress bar is shown.

    Returns:
        What the page's scripts call a model.
    """
    ids = input_ids[None]
    readers = readers_of(model)
    with without_dropout(model):
        logits = _Logits(model, ids)
        weights, sources = _look(model, readers, ids)
        effects = None
        if readers and len(input_ids) > 1:
            effects = _effects(model, ids, label if has_bar else None)
        reader = ActivationReader(model, label)
        lens, source_lens, missing = _lenses(reader, ids, readers, sources)
    measured = [] if effects is None else _measured(effects)
    special = set(tokenizer.all_special_ids)
    shown = [
        {"id": token, "text": token_text(tokenizer, token), "special": token in special} for token in input_ids.tolist()
    ]
    found: dict[str, Any] = {
        "label": label,
        "step": step,
        "description": _describe(model),
        "tokens": shown,
        "sourceNames": _source_names(readers),
        "sourcesAre": readers[0].reads_what if readers else None,
        "ownSource": "made" if readers and readers[0].makes_own_source else "input",
        "places": _places(readers, weights, effects, len(reader.layers)),
        "loss": [None, *logits.losses],
        "predictions": logits.predictions,
        "measured": measured,
        "effectError": _effect_error(measured),
        "effectsMissing": _why_no_effects(readers, len(input_ids)) if effects is None else None,
        "lens": lens,
        "lensMissing": missing,
        "sourceLens": source_lens,
    }
    named = {token["id"] for token in shown} | {each["id"] for own in logits.predictions for each in own}
    for each in (lens, source_lens):
        if each is not None:
            named |= set(np.unique(each["ids"]).tolist())
    found["vocabulary"] = {str(token): token_text(tokenizer, token) for token in sorted(named)}
    return found


def as_blocks(value: Any) -> Any:
    """Write all arrays of what was measured as the page takes them."""
    if isinstance(value, dict):
        return {key: as_blocks(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_blocks(each) for each in value]
    return block(value) if isinstance(value, np.ndarray) else value


class _Logits:
    """The predictions of a model after each token.

    Attributes:
        losses: of each token but the first, in nats.
        predictions: for each token the TOP most probable to follow.
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, ids: Tensor):
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits[0].float()
        if not logits.isfinite().all():
            raise UserError("NaN or infinity in the model's predictions; nothing to explore")
        self.losses: list[float] = []
        self.predictions: list[list[dict[str, Any]]] = []
        following = ids[0, 1:].to(logits.device)
        for start in range(0, len(logits), CHUNK):
            logs = logits[start : start + CHUNK].log_softmax(dim=-1)
            targets = following[start : start + CHUNK]
            self.losses += (-logs[: len(targets)].gather(1, targets[:, None])[:, 0]).tolist()
            values, tokens = logs.exp().topk(min(TOP, logs.shape[-1]), dim=-1)
            for own, numbers in zip(tokens.tolist(), values.tolist(), strict=True):
                pairs = zip(own, numbers, strict=True)
                self.predictions.append([{"id": token, "probability": value} for token, value in pairs])


def _look(
    model: PreTrainedModel, readers: list[DepthReader], ids: Tensor
) -> tuple[dict[DepthReader, Tensor], dict[int, Tensor]]:
    """Run a model, and keep what its readers weigh with, and the sources `[T, D]` of connections by number.

    Weights are `[R, n, columns]`, or `[T, R, n, columns]` where they depend on tokens.
    """
    weights: dict[DepthReader, Tensor] = {}
    found: dict[int, Tensor] = {}

    def keep(reader: DepthReader, inputs: tuple) -> None:
        of_call = reader.effective_weights(inputs)[0]
        missing = len(reader.source_ids) - of_call.shape[-1]  # sources that an early exit leaves out
        weights[reader] = torch.nn.functional.pad(of_call, (0, missing)).unsqueeze(-1)

    def observe(reader, sources, term, output, part, first_row) -> None:
        if not isinstance(reader, Router):
            for number, source in zip(reader.source_ids, sources, strict=False):
                found.setdefault(number, source[0].flatten(1))

    hooks = [reader.register_forward_pre_hook(keep) for reader in readers if reader.depends_on_tokens]
    try:
        if readers:
            with torch.no_grad(), routes(model).observed_by(observe):
                run_decoder(model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    for reader in readers:
        if not reader.depends_on_tokens:
            own = reader.effective_weights().detach()
            weights[reader] = own if own.ndim == 3 else own.unsqueeze(-1)
    return weights, found


def _effects(model: PreTrainedModel, ids: Tensor, label: str | None) -> RouteEffects:
    fit = max(1, TOKENS_READ // ids.shape[1])
    largest, random, cells = (min(most, fit) for most in (LARGEST, RANDOM, CELLS))
    return route_effects(model, [ids], largest, random, cells, with_means=False, label=label)


def _why_no_effects(readers: Sequence[DepthReader], tokens: int) -> str | None:
    """Say why a model has no effects; None where it has no routes, which the page says itself."""
    return f"{tokens} token predicts nothing, so nothing has an effect; give a longer text." if readers else None


def _places(
    readers: Sequence[DepthReader],
    weights: dict[DepthReader, Tensor],
    effects: RouteEffects | None,
    num_layers: int,
) -> list[dict[str, Any]]:
    """The places of a model, with the rows of all readers of each."""
    by_place: dict[int, list[DepthReader]] = {}
    for reader in readers:
        if reader in weights:  # an early exit leaves others out
            by_place.setdefault(reader.place, []).append(reader)
    total = sum(each.numel() for each in weights.values())
    places = []
    for place, own in by_place.items():
        rows = [{"set": name, "head": head} for reader in own for name, head in reader.rows]
        by_token = None if effects is None else effects.by_token[place][0].numpy()
        places.append(
            {
                "place": place,
                "name": own[0].place_name(num_layers),
                "sources": list(own[0].source_ids),
                "rows": rows,
                "dependsOnTokens": own[0].depends_on_tokens,
                "columns": weights[own[0]].shape[-1],
                "weights": _array(torch.cat([weights[reader] for reader in own], dim=-3), total),
                "effects": None if by_token is None else by_token.sum(axis=0),
                "effectsByToken": None if by_token is None else _array(by_token, total),
            }
        )
    return places


def _array(numbers: Any, total: int) -> np.ndarray:
    """Numbers as they are kept: as float32, or, of many, as float16."""
    array = numbers.float().cpu().numpy() if isinstance(numbers, Tensor) else numbers
    return array.astype(np.float16 if total > WIDE else np.float32)


def _measured(effects: RouteEffects) -> list[dict[str, Any]]:
    """List what was cut really: routes, and cells, whose `row` is None, or the only one that there is."""
    rows_of: dict[int, set[int]] = {}
    for route in effects.routes:
        rows_of.setdefault(route.place, set()).add(route.row)
    found = {
        (effects.routes[number].place, effects.routes[number].row, effects.routes[number].source): (
            effects.routes[number].estimate,
            cut,
        )
        for number, cut in effects.cut.items()
    }
    estimates = effects.estimated_cells()
    for (place, source), cut in effects.cells.items():
        row = None if len(rows_of[place]) > 1 else 0
        found[place, row, source] = estimates[place, source], cut  # type: ignore[index]
    return [
        {"place": place, "row": row, "source": source, "estimate": estimate, "loss": cut.loss, "kl": cut.kl}
        for (place, row, source), (estimate, cut) in found.items()
    ]


def _effect_error(measured: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """How far estimates are from what was measured; not of routes that were cut before, of which nothing is left."""
    measured = [each for each in measured if each["estimate"] or each["loss"]]
    if not measured:
        return None
    found, estimated = ([each[key] for each in measured] for key in ("loss", "estimate"))
    errors = np.abs(np.subtract(found, estimated))
    return {
        "routes": len(found),
        "meanAbsolute": float(errors.mean()),
        "correlation": correlation(found, estimated),
    }


def _lenses(
    reader: ActivationReader, ids: Tensor, readers: Sequence[DepthReader], sources: dict[int, Tensor]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, str | None]:
    """The logit lens of representations, that of sources which are others, and why there is none."""
    try:
        lens = LogitLens(reader, ids[0])
    except (LookupError, UserError) as error:
        return None, None, str(error)
    hidden = [states[0] for states in reader(ids).hidden]
    names = ["embedding", *(f"after layer {layer}" for layer in range(len(hidden) - 1))]
    of_sources = None
    if sources and not all(_is_same(states, hidden, number) for number, states in sources.items()):
        named = {number: reader for reader in readers for number in reader.source_ids}
        of_sources = _read_out(lens, list(sources.values()), ids[0])
        of_sources["names"] = [named[number].source_name(number) for number in sources]
    return {"names": names, **_read_out(lens, hidden, ids[0])}, of_sources, None


def _is_same(states: Tensor, hidden: list[Tensor], number: int) -> bool:
    """Whether a source is the representation of its number."""
    return number < len(hidden) and states.shape == hidden[number].shape and torch.allclose(states, hidden[number])


def _read_out(lens: LogitLens, representations: list[Tensor], ids: Tensor) -> dict[str, Any]:
    """The best token, its probability and that of the token that follows, `[N, T]` each, NaN where none follows."""
    shape = len(representations), len(ids)
    best = np.zeros(shape, np.int32)
    probabilities, following = np.zeros(shape, np.float32), np.full(shape, np.nan, np.float32)
    for row, states in enumerate(representations):
        for start in range(0, len(ids), CHUNK):
            read = lens.logits(states[start : start + CHUNK]).softmax(dim=-1)
            place = slice(start, start + len(read))
            values, tokens = (each.cpu().numpy() for each in read.max(dim=-1))
            best[row, place], probabilities[row, place] = tokens, values
            targets = ids[start + 1 : start + 1 + len(read)].to(read.device)
            own = read[: len(targets)].gather(1, targets[:, None])[:, 0]
            following[row, start : start + len(targets)] = own.cpu().numpy()
    return {"ids": best, "probabilities": probabilities, "nextProbabilities": following}


def _source_names(readers: Sequence[DepthReader]) -> list[str]:
    """The names of all sources, by number."""
    names: dict[int, str] = {}
    for reader in readers:
        names |= {number: reader.source_name(number) for number in reader.source_ids}
    return [names.get(number, "") for number in range(max(names, default=-1) + 1)]


def _describe(model: PreTrainedModel) -> str:
    """The kind of a model in a few words."""
    config = model.config.get_text_config()
    attachment = attachment_of(model)
    routing = getattr(config, "routing", None) if attachment is None else f"attached {attachment.config.routing}"
    kind = config.model_type if routing is None else f"{config.model_type}, {routing}"
    return f"{kind}, {config.num_hidden_layers} layers of {config.hidden_size}"


@dataclass(frozen=True)
class Change:
    """A route that is cut: `row` counts over all sets of the place; None means all rows."""

    place: int
    source: int
    row: int | None = None


def cut_routes(model: PreTrainedModel, changes: Sequence[Change]) -> Routes:
    """The routes of a model without those that somebody has cut.

    Raises:
        UserError: for a route that is not there.
    """
    of = routes(model)
    for change in changes:
        place, row, source = change.place, change.row, change.source
        own = [reader for reader in of.readers if reader.place == place]
        rows = [row for reader in own for row in reader.rows]
        if not own:
            raise UserError(f"layer {place} reads nothing that can be cut")
        if not any(source in reader.source_ids for reader in own):
            raise UserError(f"layer {place} does not read source {source}")
        if row is not None and not 0 <= row < len(rows):
            raise UserError(f"layer {place} has no head {row}; its heads are 0 to {len(rows) - 1}")
        name, head = (None, None) if row is None else rows[row]
        of = of.cut(place, head, source, name or None)
    return of

"""Semantic circuits of dynamic routers: which tokens open which route (section 5.2, Table 2).

A route is a (layer, source, head). Two ways to its tokens stand beside each other: from the weights alone, and from
data. From the weights: the direction in the residual stream from which the head would read a token t is its row of the
output embedding over the gain of the final norm; the layer's routing norm and its projection turn it into the logit of
every route. As any direction has tokens that lie along it, random routes are put through the same procedure; and, as
frequent tokens have alike embeddings, once more with tokens as frequent as the route's (`limelm.analysis.frequency`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limelm.analysis.activations import Activations
from limelm.analysis.frequency import MatchedRoutes, frequency_bins, without_frequency
from limelm.analysis.logit_lens import final_norm_and_head
from limelm.analysis.retrieval import routers_of, set_label
from limelm.models.families import find_layers
from limelm.models.input_norms import InputNorm
from limelm.records import Records
from limelm.routing import routers_in
from limelm.tokenizers import token_text

TOP_TOKENS = 10
EXAMPLES = 5
CONTEXT = (10, 6)  # tokens shown before and after an example
CONTROLS = 128  # random routes per layer
USAGE_BINS = ("0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1")  # the authors'
NO_TOKEN = -1
ROUNDING = 1e-6  # of a coherence; matched routes may choose the very same tokens
CLEAR_ABOVE = 95  # percentile: by chance one route in twenty is
#: Whether a route's tokens are more alike than random routes' are: than those of any frequency and of its own, than
#: those of any frequency alone, or not even that.
CLEAR, FREQUENT, UNCLEAR = "yes", "frequent tokens", "no"


@dataclass(frozen=True)
class TopTokens:
    """The tokens that open some routes of one layer most.

    Attributes:
        tokens: ids `[routes, k]`, the largest logit first.
        logits: theirs `[routes, k]`.
        weights: what the softmax over the head's sources makes of them `[routes, k]`; NaN for random routes.
        coherence: mean cosine similarity of the tokens' embeddings, `[routes]`; the mean embedding is taken off first.
    """

    tokens: Tensor
    logits: Tensor
    weights: Tensor
    coherence: Tensor


def vocabulary_directions(model: PreTrainedModel) -> Tensor:
    """Residual streams that the final norm would turn into the output embeddings of the vocabulary's tokens.

    Returns:
        `[vocabulary, D]`, up to scale.

    Raises:
        LookupError: where the final norm or the head is not to be found, or the norm does more than to scale.
    """
    gain, head = _final_gain(model)
    tiny = torch.finfo(torch.float32).eps * gain.abs().max()
    embedding: Tensor = head.weight.detach().float()  # type: ignore[operator]
    return embedding / torch.where(gain.abs() < tiny, tiny.copysign(gain), gain)


def _final_gain(model: PreTrainedModel) -> tuple[Tensor, nn.Module]:
    norm, head = final_norm_and_head(model)
    if isinstance(norm, nn.LayerNorm):
        raise LookupError("its final norm is a LayerNorm, from which a token's direction cannot be told")
    weight: Tensor = norm.weight.detach()  # type: ignore[operator]
    return InputNorm(norm).scale(torch.ones_like(weight, dtype=torch.float32)).detach(), head


def check_circuits(model: PreTrainedModel) -> None:
    """Check that a model's circuits can be read.

    Raises:
        LookupError: where they cannot; it says why.
    """
    routers = routers_of(model)
    if not any(router.depends_on_tokens for router in routers.values()):
        raise LookupError("it has no dynamic routers")
    _final_gain(model)
    for index, router in routers.items():
        router.directions(find_layers(model)[index])


@torch.no_grad()
def tokens_of_routes(
    layer: nn.Module, directions: Tensor, k: int = TOP_TOKENS, controls: Tensor | None = None
) -> tuple[TopTokens, TopTokens]:
    """The tokens that open each route of a dynamically routing layer most, and the same for random routes.

    Args:
        directions: `[vocabulary, D]`, see `vocabulary_directions`.
        controls: from `random_route_logits`, where that is known already.

    Returns:
        Of the routes, head by head (row h n + s is source s of head h; where keys and values have routers of their own,
        the keys' heads come first), and of the random routes.

    Raises:
        LookupError: where there is no norm before attention.
    """
    router = next(routers_in(layer))
    norm, P = router.directions(layer)
    sources = router.spec.num_sources
    N = _read_by(norm, layer, directions)
    embedding = _embedding(directions)
    found = []
    for head in range(len(P) // sources):
        logits = N @ P[head * sources : (head + 1) * sources].T  # [vocabulary, n]
        found.append(_top(logits, logits.softmax(dim=-1), embedding, k))
    fields = (torch.cat([getattr(top, name) for top in found]) for name in TopTokens.__annotations__)
    controls = random_route_logits(layer, directions) if controls is None else controls
    return TopTokens(*fields), _top(controls, torch.full_like(controls, torch.nan), embedding, k)


@torch.no_grad()
def random_route_logits(layer: nn.Module, directions: Tensor) -> Tensor:
    """The logits `[vocabulary, CONTROLS]` of random routes, Gaussian directions with the mean norm of a layer's routes.

    They are the same for each call; arguments as in `tokens_of_routes`.
    """
    router = next(routers_in(layer))
    norm, P = router.directions(layer)
    generator = torch.Generator().manual_seed(router.spec.layer_idx)
    noise = torch.randn(CONTROLS, P.shape[1], generator=generator).to(P.device)
    return _read_by(norm, layer, directions) @ (normalize(noise, dim=-1) * P.norm(dim=-1).mean()).T


@torch.no_grad()
def matched_coherence(controls: Tensor, directions: Tensor, tokens: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """How alike the routes' tokens are frequency aside, and how alike those of random routes of the same frequency are.

    The direction along which embeddings change with frequency is taken out of them first, and random routes choose as
    many tokens of each frequency as a route did.

    Args:
        controls: from `random_route_logits`.
        directions: as in `tokens_of_routes`.
        tokens: ids of each route's tokens, `[routes, k]`.
        counts: how often each token stands in a sample, `[vocabulary]`.

    Returns:
        The coherence of the routes `[routes]`, and for each of them that of the random routes `[routes, CONTROLS]`.
    """
    matched = MatchedRoutes(controls, frequency_bins(counts.cpu()), tokens.shape[1])
    embedding = normalize(without_frequency(directions, counts), dim=-1)
    profiles = [matched.profile(own) for own in tokens]
    by_profile = {profile: _coherence(embedding, matched.tokens(profile)) for profile in dict.fromkeys(profiles)}
    return _coherence(embedding, tokens), torch.stack([by_profile[profile] for profile in profiles])


def _read_by(norm: Callable[[Tensor], Tensor], layer: nn.Module, directions: Tensor) -> Tensor:
    """The router's view of a residual stream along each token's direction, `[vocabulary, D]`."""
    return norm(directions.to(next(layer.parameters()).dtype)).float()


def _embedding(directions: Tensor) -> Tensor:
    """Tokens' directions of length 1, the mean taken off first, `[vocabulary, D]`."""
    return normalize(directions - directions.mean(dim=0), dim=-1)


def _top(logits: Tensor, weights: Tensor, embedding: Tensor, k: int) -> TopTokens:
    """The tokens with the largest logits, from logits and weights `[vocabulary, routes]`."""
    values, tokens = logits.T.topk(min(k, len(logits)), dim=-1)
    return TopTokens(tokens, values, weights.T.gather(1, tokens), _coherence(embedding, tokens))


def _coherence(embedding: Tensor, tokens: Tensor) -> Tensor:
    """The mean cosine similarity between the tokens `[sets, k]` of each set, `[sets]`."""
    own = embedding[tokens]
    together = own.sum(dim=1).square().sum(dim=-1)
    count = tokens.shape[1]
    return (together - own.square().sum(dim=(1, 2))) / max(1, count * (count - 1))


class OpenRoutes:
    """The places in the data where each route is open widest; memory depends on the number of routes alone.

    Attributes:
        counts: how often each token stands in the data, `[largest id + 1]`.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(0, dtype=torch.long)
        self.weights: dict[int, Tensor] = {}  # of each layer [G (i + 1), EXAMPLES]
        self.windows: dict[int, Tensor] = {}  # [G (i + 1), EXAMPLES, before + 1 + after]

    def update(self, seen: Activations) -> None:
        """Take in a batch."""
        before, after = CONTEXT
        counts = seen.input_ids.flatten().cpu().bincount(minlength=len(self.counts))
        counts[: len(self.counts)] += self.counts
        self.counts = counts
        ids = torch.nn.functional.pad(seen.input_ids, (before, after), value=NO_TOKEN)
        windows = ids.unfold(1, before + 1 + after, 1).flatten(0, 1)  # [B T, window]
        for layer, A in seen.routing.items():
            by_route = A.permute(2, 3, 0, 1).flatten(0, 1).flatten(1).cpu()  # [G (i + 1), B T]
            weights, places = by_route.topk(min(EXAMPLES, by_route.shape[1]), dim=-1)
            shown = windows[places]
            if layer in self.weights:
                weights = torch.cat((self.weights[layer], weights), dim=1)
                shown = torch.cat((self.windows[layer], shown), dim=1)
                weights, kept = weights.topk(min(EXAMPLES, weights.shape[1]), dim=-1)
                shown = shown.gather(1, kept[..., None].expand(-1, -1, shown.shape[-1]))
            self.weights[layer], self.windows[layer] = weights, shown


def circuit_records(
    label: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    usage: dict[int, np.ndarray],
    examples: OpenRoutes,
) -> Records:
    """One record per route of a model with dynamic routers.

    Args:
        usage: of each layer `[G, i + 1]`, the routes' mean weight on data.

    Raises:
        LookupError: where they cannot be read; see `check_circuits`.

    Returns:
        Records of `layer`, `source`, `head`; `is_own`, whether the source is the layer's own input; `usage` and its
        `usage_bin`; `tokens` with their logits and weights, and their `coherence`; `control_tokens` and
        `control_coherence` of a random route, and `coherence_percentile`, the share of the layer's random routes that
        are less coherent, in per cent; `matched_coherence` and `matched_percentile`, the same frequency aside (see
        `matched_coherence`); `clear`, whether both percentiles are above CLEAR_ABOVE (CLEAR), the first alone
        (FREQUENT) or not even that (UNCLEAR); `examples`, places in the data where the route is open widest.
    """
    directions = vocabulary_directions(model)
    counts = torch.zeros(len(directions), dtype=torch.long)
    counts[: len(examples.counts)] = examples.counts
    records: Records = []
    layers = find_layers(model)
    for index, router in routers_of(model).items():
        controls = random_route_logits(layers[index], directions)
        top, control = tokens_of_routes(layers[index], directions, controls=controls)
        aside, matched = matched_coherence(controls, directions, top.tokens, counts)
        sets, sources = router.weight_sets, router.spec.source_ids
        num_heads = len(usage[index]) // max(1, len(sets))
        for head in range(len(usage[index])):
            for slot, source in enumerate(sources):
                row = head * len(sources) + slot
                random = row % CONTROLS
                used = float(usage[index][head, source])
                percentile = _percentile(top.coherence[row], control.coherence)
                among_matched = _percentile(aside[row], matched[row])
                records.append(
                    {
                        "model": set_label(label, sets[head // num_heads]) if sets else label,
                        "layer": index,
                        "source": source,
                        "head": head % num_heads,
                        "is_own": source == index,
                        "usage": used,
                        "usage_bin": USAGE_BINS[min(4, int(used * 5))],
                        "tokens": _listed(tokenizer, top, row),
                        "coherence": float(top.coherence[row]),
                        "control_tokens": _listed(tokenizer, control, random),
                        "control_coherence": float(control.coherence[random]),
                        "coherence_percentile": percentile,
                        "matched_coherence": float(aside[row]),
                        "matched_percentile": among_matched,
                        "clear": _clear(percentile, among_matched),
                        "examples": _examples(tokenizer, examples, index, head * (index + 1) + source),
                    }
                )
    return records


def _percentile(coherence: Tensor, others: Tensor) -> float:
    """How many of the others are less coherent, in per cent."""
    return float((others < coherence - ROUNDING).float().mean() * 100)


def _clear(percentile: float, among_matched: float) -> str:
    if percentile <= CLEAR_ABOVE:
        return UNCLEAR
    return CLEAR if among_matched > CLEAR_ABOVE else FREQUENT


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    return str(tokenizer.decode([token for token in tokens if token != NO_TOKEN]))


def _listed(tokenizer: PreTrainedTokenizerBase, top: TopTokens, row: int) -> Records:
    return [
        {"token": token_text(tokenizer, token), "logit": logit, "weight": None if math.isnan(weight) else weight}
        for token, logit, weight in zip(
            top.tokens[row].tolist(), top.logits[row].tolist(), top.weights[row].tolist(), strict=True
        )
    ]


def _examples(tokenizer: PreTrainedTokenizerBase, examples: OpenRoutes, layer: int, route: int) -> Records:
    before, _ = CONTEXT
    return [
        {
            "before": _text(tokenizer, window[:before]),
            "token": token_text(tokenizer, window[before]),
            "after": _text(tokenizer, window[before + 1 :]),
            "weight": weight,
        }
        for weight, window in zip(
            examples.weights[layer][route].tolist(), examples.windows[layer][route].tolist(), strict=True
        )
    ]

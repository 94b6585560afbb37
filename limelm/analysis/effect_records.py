"""Effects of routes as tables: every route, how well weights and estimates tell effects, and where they arise."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from limelm.analysis.route_effects import Measured, Route, RouteEffects
from limelm.records import Record, Records
from limelm.tokenizers import token_text

STRONGEST, TOKENS = 10, 5  # routes of whose effects the tokens are listed, and how many of these


def effect_records(
    model: str, effects: RouteEffects, sequences: Sequence[Tensor], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Records]:
    """All tables of a model's route effects, by name.

    Args:
        sequences: the batches `[B, T]` that they were measured on.
    """
    return {
        "cell_effects": _every_cell(model, effects, sum(batch.numel() for batch in sequences)),
        "route_effects": _every_route(model, effects),
        "weight_and_effect": _rank_correlations(model, effects),
        "effect_estimates": _errors(model, effects),
        "effects_by_token": _by_token(model, effects, torch.cat(list(sequences)), tokenizer),
    }


def rank_correlation(x: Iterable[float], y: Iterable[float]) -> float | None:
    """Spearman's rank correlation of two samples, equal values at their mean rank; None where one does not vary."""
    return correlation(_ranks(x), _ranks(y))


def correlation(x: Iterable[float], y: Iterable[float]) -> float | None:
    """Pearson's correlation of two samples; None where one does not vary, or there are fewer than three."""
    x, y = np.asarray(list(x), dtype=float), np.asarray(list(y), dtype=float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: Iterable[float]) -> np.ndarray:
    _, inverse, counts = np.unique(np.asarray(list(values), dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _every_cell(model: str, effects: RouteEffects, tokens: int) -> Records:
    """List what places read of each source, all rows together.

    Fields: `layer`, `source`, `sources_are` (of what kind), the mean `weight` over rows, the sum of their `estimate`,
    and `effect` and `kl` where all were cut at once (None for others); `tokens`, on how many they were measured.
    """
    weights: dict[tuple[int, int], list[float]] = {}
    for route in effects.routes:
        weights.setdefault((route.place, route.source), []).append(route.weight)
    rows = []
    for (place, source), estimate in effects.estimated_cells().items():
        cut = effects.cells.get((place, source))
        rows.append(
            {
                "model": model,
                "layer": place,
                "source": source,
                "sources_are": effects.sources_are,
                "weight": float(np.mean(weights[place, source])),
                "estimate": estimate,
                "effect": cut and cut.loss,
                "kl": cut and cut.kl,
                "tokens": tokens,
            }
        )
    return rows


def _every_route(model: str, effects: RouteEffects) -> Records:
    """Fields: the route; its `weight`; `estimate` and `estimate_to_mean`, and what was measured (None for others)."""
    rows = []
    for number, route in enumerate(effects.routes):
        cut, to_mean = effects.cut.get(number), effects.to_mean.get(number)
        rows.append(
            {
                **_of_route(model, route),
                "weight": route.weight,
                "estimate": route.estimate,
                "effect": cut and cut.loss,
                "kl": cut and cut.kl,
                "estimate_to_mean": route.estimate_to_mean,
                "effect_to_mean": to_mean and to_mean.loss,
                "kl_to_mean": to_mean and to_mean.kl,
                "chosen": effects.chosen.get(number),
            }
        )
    return rows


def _of_route(model: str, route: Route) -> Record:
    """The fields that say which route a row is about."""
    return {
        "model": model,
        "layer": route.place,
        "set": route.weight_set,
        "head": route.head,
        "source": route.source,
    }


def _rank_correlations(model: str, effects: RouteEffects) -> Records:
    """Measure in each layer how weights and sizes of effects go together, and the effect of its own input.

    `own_input` is what cutting all routes to the layer's own input does, really; `largest_other` the largest estimate
    among its routes to other sources.
    """
    rows = []
    for place in dict.fromkeys(route.place for route in effects.routes):
        own = [route for route in effects.routes if route.place == place]
        others = [route.estimate for route in own if route.source != place]
        measured: Measured | None = effects.cells.get((place, place))
        rows.append(
            {
                "model": model,
                "layer": place,
                "routes": len(own),
                "rank_correlation": rank_correlation([r.weight for r in own], [abs(r.estimate) for r in own]),
                "own_input": measured and measured.loss,
                "own_input_kl": measured and measured.kl,
                "largest_other": max(others, default=None),
            }
        )
    return rows


def _errors(model: str, effects: RouteEffects) -> Records:
    """How far estimates are from what was measured, for the routes that were chosen for one reason each."""
    rows = []
    for why in dict.fromkeys(effects.chosen.values()):
        numbers = [number for number, chosen in effects.chosen.items() if chosen == why]
        found = np.array([effects.cut[number].loss for number in numbers])
        estimated = np.array([effects.routes[number].estimate for number in numbers])
        rows.append(
            {
                "model": model,
                "chosen": why,
                "routes": len(numbers),
                "mean_effect": float(np.abs(found).mean()),
                "largest_effect": float(found[np.abs(found).argmax()]),
                "mean_error": float(np.abs(found - estimated).mean()),
                "correlation": correlation(found, estimated),
                "mean_kl": float(np.mean([effects.cut[number].kl for number in numbers])),
            }
        )
    return rows


def _by_token(model: str, effects: RouteEffects, input_ids: Tensor, tokenizer: PreTrainedTokenizerBase) -> Records:
    """List the tokens at which reading the strongest routes matters most, all their occurrences together."""
    strongest = sorted(range(len(effects.routes)), key=lambda number: -abs(effects.routes[number].estimate))[:STRONGEST]
    ids, inverse, counts = torch.unique(input_ids, return_inverse=True, return_counts=True)
    rows = []
    for number in strongest:
        route = effects.routes[number]
        by_token = effects.by_token[route.place][:, :, route.row, route.column]
        totals = torch.zeros(len(ids)).index_add(0, inverse.flatten(), by_token.flatten().float())
        for place in totals.abs().argsort(descending=True)[:TOKENS].tolist():
            rows.append(
                {
                    **_of_route(model, route),
                    "estimate": route.estimate,
                    "token": token_text(tokenizer, int(ids[place])),
                    "occurrences": int(counts[place]),
                    "part": float(totals[place]),
                }
            )
    return rows

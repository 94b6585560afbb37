"""Cut the routes of a model, or change them, for as long as a `with` block lasts.

A route is what one row of weights (a head's) of one place (a layer) reads of one source: in LIMe the term `A[h, j] N_j`
of head h's input. Places, rows and sources are those of the model's readers (`limelm.routing.reader`).
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm.analysis.retrieval import readers_of, run_decoder, without_dropout
from limelm.routing import DepthReader, formulas
from limelm.routing.reader import Mix

#: Which of a dimension are meant: one, several, or None for all. Negative sources count from the place's own input, -1.
Which = int | Sequence[int] | None
#: The mean over tokens of a reader's n sources, by the part of the forward that reads them; from `source_means`.
Means = dict[DepthReader, dict[str, list[Tensor]]]


class Observer(Protocol):
    """Somebody who looks on while a reader mixes."""

    def __call__(
        self, reader: DepthReader, sources: Sequence[Tensor], term: "Term", output: Any, part: str, first_row: int
    ) -> None:
        """Look at one mix.

        Args:
            sources: n, `[B, T, ...]` each.
            term: makes the term of one of them.
            output: what all make together; it may be given hooks.
            part, first_row: as for `DepthReader.mixed`.
        """


#: `term(j, sources)`: what the j-th of n sources alone contributes to a mix, in the mix's form.
Term = Callable[[int, Sequence[Tensor]], Any]


@dataclass(frozen=True, eq=False)
class RouteChange:
    """A change of the routes of one reader, made in the place of its mix.

    Attributes:
        factors: `[R, n]`, by which terms are multiplied.
        averaged: `[R, n]`, where a term has the mean of its source instead of its source.
        means: see `Means`.
        observer: sees each mix.
    """

    reader: DepthReader
    factors: Tensor
    averaged: Tensor
    means: dict[str, list[Tensor]] | None = None
    observer: Observer | None = None

    @classmethod
    def nothing(cls, reader: DepthReader) -> "RouteChange":
        """No change."""
        ones = torch.ones(reader.num_rows, len(reader.source_ids))
        return cls(reader, ones, torch.zeros_like(ones, dtype=torch.bool))

    def then(self, other: "RouteChange") -> "RouteChange":
        """Combine this change with another one upon it.

        Raises:
            ValueError: where each sets routes to other means.
        """
        if None not in (self.means, other.means) and self.means is not other.means:
            raise ValueError("routes are set to their means over one text at a time")
        return RouteChange(
            self.reader,
            self.factors * other.factors,
            self.averaged | other.averaged,
            other.means or self.means,
            other.observer or self.observer,
        )

    def __call__(self, mix: Mix, sources: Sequence[Tensor], weights: Any, first_row: int, part: str) -> Any:
        """Mix the sources as `DepthReader.mixed` does, with this change."""
        rows = slice(first_row, first_row + _count_rows(weights, self.reader))
        factors, averaged = (x[rows, : len(sources)].to(sources[0].device) for x in (self.factors, self.averaged))
        kept = _times(weights, factors * ~averaged)
        output = mix(sources, kept)
        if self.means is not None and bool(averaged.any()):
            output = _sum(output, mix(like(self.means[part], sources), _times(weights, factors * averaged)))
        if self.observer is not None:

            def term(j: int, sources: Sequence[Tensor]) -> Any:
                if weights is None:  # the mix knows them, each source's by its place
                    return mix(sources, kept * torch.eye(len(sources), device=kept.device)[j])
                return mix(sources[j : j + 1], kept.narrow(1 if kept.ndim == 3 else -1, j, 1))

            self.observer(self.reader, sources, term, output, part, first_row)
        return output


def _count_rows(weights: Any, reader: DepthReader) -> int:
    """The rows of the weights of one call: `[R, n]`, `[R, n, G]`, `[B, T, R, n]`; else they are for all rows."""
    if weights is None or weights.ndim == 1:
        return reader.num_rows
    return weights.shape[0] if weights.ndim == 3 else weights.shape[-2]


def _times(weights: Any, factors: Tensor) -> Tensor:
    """Weights with a factor `[R, n]` on each route."""
    if weights is None:
        return factors
    factors = factors.to(weights.dtype)
    return weights * (factors.unsqueeze(-1) if weights.ndim == 3 else factors)


def like(means: Sequence[Tensor], sources: Sequence[Tensor]) -> list[Tensor]:
    """Means of sources in the place of them, `[B, T, ...]` each."""
    return [mean.to(source).expand_as(source) for mean, source in zip(means, sources, strict=False)]


def _sum(output: Any, more: Any) -> Any:
    if isinstance(output, list):
        return [x + y for x, y in zip(output, more, strict=True)]
    return output + more


class Routes:
    """The routes of a model, some of them changed while this is entered.

        with limelm.routes(model).cut(layer=5, head=2, source=0):
            model.generate(...)

    Each change gives a new object, so that they can be chained; blocks may stand in each other, too. Afterwards all is
    as it was. Inside, models run by the formulas of `limelm.routing.reference`, not compiled, which is slower.

    Args:
        model: with routers, native or attached, or another connection that weighs what earlier places left.

    Raises:
        ValueError: for a model that has none.
    """

    def __init__(self, model: nn.Module):
        self.readers = readers_of(model)
        if not self.readers:
            raise ValueError(f"{type(model).__name__}: it has no routers, and nothing else that weighs earlier layers")
        self._changes: dict[DepthReader, RouteChange] = {}
        self._entered: list[ExitStack] = []

    def cut(self, layer: Which = None, head: Which = None, source: Which = None, weight_set: str | None = None) -> Self:
        """Read nothing through these routes; arguments as in `scale`."""
        return self.scale(0, layer, head, source, weight_set)

    def scale(
        self,
        factor: float,
        layer: Which = None,
        head: Which = None,
        source: Which = None,
        weight_set: str | None = None,
    ) -> Self:
        """Multiply what is read through these routes; the weights of others stay as they are.

        Args:
            factor: 0 cuts a route.
            layer: places; by default all of them.
            head: rows of a set of weights, from 0.
            source: numbers of sources, 0 the embeddings, or from the end, -1 the place's own input.
            weight_set: "keys", "values" or what else a model has weights for; None means all sets.

        Raises:
            ValueError: for a layer, head, source or set that no reader has, or a combination that there is not.
        """
        return self._with(
            layer,
            head,
            source,
            weight_set,
            lambda change, chosen: replace(
                change, factors=torch.where(chosen, change.factors * factor, change.factors)
            ),
        )

    def set_to_mean(
        self,
        means: Means,
        layer: Which = None,
        head: Which = None,
        source: Which = None,
        weight_set: str | None = None,
    ) -> Self:
        """Read the mean of the source over a text, the same for all tokens, through these routes.

        Args:
            means: from `source_means`.
            layer, head, source, weight_set: as in `scale`.

        Raises:
            ValueError: as in `scale`; or where routes of one layer are set to other means already.
        """
        return self._with(
            layer,
            head,
            source,
            weight_set,
            lambda change, chosen: change.then(
                replace(RouteChange.nothing(change.reader), averaged=chosen, means=means[change.reader])
            ),
        )

    def observed_by(self, observer: Observer) -> Self:
        """Show every mix to somebody."""
        return self._with(None, None, None, None, lambda change, _: replace(change, observer=observer))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(formulas())
            for reader, change in self._changes.items():
                before = reader.change
                stack.callback(setattr, reader, "change", before)
                reader.change = before.then(change) if isinstance(before, RouteChange) else change
            self._entered.append(stack.pop_all())
        return self

    def __exit__(self, *error: object) -> None:
        self._entered.pop().close()

    def _with(
        self,
        layer: Which,
        head: Which,
        source: Which,
        weight_set: str | None,
        edit: Callable[[RouteChange, Tensor], RouteChange],
    ) -> Self:
        """Make routes that differ from these by an edit of those that are meant."""
        changed = type(self).__new__(type(self))
        changed.readers, changed._entered = self.readers, []
        changed._changes = dict(self._changes)
        layers = _places(layer, {reader.place for reader in self.readers})
        own = [reader for reader in self.readers if reader.place in layers]
        chosen = {reader: _chosen(reader, head, source, weight_set) for reader in own}
        is_there = any(bool(routes.any()) for routes in chosen.values())
        if not is_there or not _numbers(head) <= _heads_of(own) or not _numbers(source) <= _sources_of(own):
            raise ValueError(
                f"no such route: layer={layer}, head={head}, source={source}, weight_set={weight_set}; {_describe(own)}"
            )
        for reader, routes in chosen.items():
            if bool(routes.any()):
                changed._changes[reader] = edit(self._changes.get(reader, RouteChange.nothing(reader)), routes)
        return changed


def _numbers(which: Which) -> set[int]:
    """The numbers that are named: none where all are meant."""
    return set() if which is None else {which} if isinstance(which, int) else set(which)


def _places(which: Which, allowed: set[int]) -> set[int]:
    """The layers that are meant, all of which must be allowed."""
    if which is None:
        return allowed
    if unknown := _numbers(which) - allowed:
        raise ValueError(f"layer={min(unknown)}: no route there; allowed: {', '.join(map(str, sorted(allowed)))}")
    return _numbers(which)


def _heads_of(readers: Iterable[DepthReader]) -> set[int]:
    return {head for reader in readers for _, head in reader.rows}


def _sources_of(readers: Iterable[DepthReader]) -> set[int]:
    """The numbers by which sources may be named, from the end too."""
    return {id for reader in readers for id in (*reader.source_ids, *range(-len(reader.source_ids), 0))}


def _chosen(reader: DepthReader, head: Which, source: Which, weight_set: str | None) -> Tensor:
    """Which routes of a reader are meant, `[R, n]`."""
    heads, sources, last = _numbers(head), _numbers(source), len(reader.source_ids)
    rows = [weight_set in (None, name) and (head is None or row in heads) for name, row in reader.rows]
    columns = [source is None or bool({id, at - last} & sources) for at, id in enumerate(reader.source_ids)]
    return torch.tensor(rows)[:, None] & torch.tensor(columns)


def _describe(readers: list[DepthReader]) -> str:
    """Say in words which routes readers have."""
    sets = dict.fromkeys(name for reader in readers for name in reader.weight_sets)
    sources = sorted({source for reader in readers for source in reader.source_ids})
    named = f", sets {', '.join(sets)}" if sets else ""
    return f"there are heads 0 to {max(_heads_of(readers))}, sources {sources[0]} to {sources[-1]}{named}"


def routes(model: PreTrainedModel) -> Routes:
    """The routes of a model, to be cut or changed while a `with` block lasts; see `Routes`."""
    return Routes(model)


@torch.no_grad()
def source_means(model: PreTrainedModel, sequences: Iterable[Tensor]) -> Means:
    """The mean of what each reader reads of each source, for `Routes.set_to_mean`.

    Args:
        sequences: batches of token ids `[B, T]`, over whose tokens it is.
    """
    sums: dict[DepthReader, dict[str, list[Tensor]]] = {}
    tokens = 0

    def add(reader, sources, term, output, part, first_row) -> None:
        own = [source.sum(dim=(0, 1), keepdim=True, dtype=torch.float32) for source in sources]
        before = sums.setdefault(reader, {}).get(part)
        sums[reader][part] = own if before is None else [x + y for x, y in zip(before, own, strict=True)]

    with without_dropout(model), routes(model).observed_by(add):
        for batch in sequences:
            tokens += batch.numel()
            run_decoder(model, batch)
    return {
        reader: {part: [total / tokens for total in totals] for part, totals in parts.items()}
        for reader, parts in sums.items()
    }

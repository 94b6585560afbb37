"""Effects of a model's routes: how its loss and its predictions change when routes are cut.

A weight says how much is read; what reading it matters is another question, and weights are weak evidence for it. The
effect of a route is what the mean loss rises by when the route is cut: its term in the mix is left out, and the weights
of the others stay. Few routes are cut one by one. Of many, the effects are estimated first, all in one backward: a
term's is minus its product with the gradient of the loss by the mix, the first order of its Taylor series ("attribution
patching", Nanda 2023); then those that seem the largest are cut really, and some at random, which say how far the
estimates can be trusted. The same with "set to the mean": the source is read, but as the mean over all tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from transformers import PreTrainedModel

from limelm.analysis.interventions import Means, Routes, Term, like, routes, source_means
from limelm.analysis.retrieval import RetrievalWeights, retrieval_weights, without_dropout
from limelm.progress import progress_bar
from limelm.routing import DepthReader

#: Routes that are cut one by one: all of a model that has no more; else the largest by the estimate, and random ones.
LARGEST, RANDOM = 32, 16
SEED = 0  # of the choice of random routes


@dataclass(frozen=True)
class Route:
    """One route.

    Attributes:
        place: r, of its reader; in most models a layer.
        row: of the place's rows, those of all its readers one after the other.
        weight_set: what the row's weights are for; "" where there is one set for all.
        head: the row within its set.
        source, column: the number of what it reads, and its place among all that its reader reads.
        weight: its share of what the row reads, in absolute terms, the mean over tokens where weights depend on them.
        estimate, estimate_to_mean: the effects of cutting it, and of setting it to its mean, by the gradient (nats).
    """

    place: int
    row: int
    weight_set: str
    head: int
    source: int
    column: int
    weight: float
    estimate: float
    estimate_to_mean: float

    def cut(self, of: Routes) -> Routes:
        """A model's routes without this one."""
        return of.cut(self.place, self.head, self.source, self.weight_set or None)

    def set_to_mean(self, of: Routes, means: Means) -> Routes:
        """A model's routes with this one at its mean."""
        return of.set_to_mean(means, self.place, self.head, self.source, self.weight_set or None)


@dataclass(frozen=True)
class Measured:
    """The outcome of changing a model's routes really.

    Attributes:
        loss: the change of the mean loss on the next token, in nats.
        kl: the mean divergence of the changed prediction from the model's own, KL(own || changed), in nats.
    """

    loss: float
    kl: float


@dataclass
class RouteEffects:
    """The effects of a model's routes on a text.

    Attributes:
        routes: all of them, by place, row and source.
        by_token: for each place the estimated effect of reading at each token, `[B, T, R, n]`, by rows and the place's
            sources; its sum over tokens is the estimate.
        loss: of the model as it is, mean over tokens, in nats.
        sources_are: see `DepthReader.sources_are`.
        cut, to_mean: what was measured, by number of the route.
        chosen: why a route was measured: "all", "largest" or "random".
        cells: by place and source, what cutting the routes of all rows of the place to it does.
    """

    routes: list[Route]
    by_token: dict[int, Tensor]
    loss: float
    sources_are: str
    cut: dict[int, Measured] = field(default_factory=dict)
    to_mean: dict[int, Measured] = field(default_factory=dict)
    chosen: dict[int, str] = field(default_factory=dict)
    cells: dict[tuple[int, int], Measured] = field(default_factory=dict)

    def estimated_cells(self) -> dict[tuple[int, int], float]:
        """The sum of the estimates of all rows, by place and source."""
        sums: dict[tuple[int, int], float] = {}
        for route in self.routes:
            cell = route.place, route.source
            sums[cell] = sums.get(cell, 0.0) + route.estimate
        return sums


def route_effects(
    model: PreTrainedModel,
    sequences: Iterable[Tensor],
    largest: int = LARGEST,
    random: int = RANDOM,
    cells: int = 0,
    with_means: bool = True,
    label: str | None = "model",
) -> RouteEffects:
    """Estimate the effects of all routes of a model, and measure those of some.

    The model is left as it was; a model in training mode is looked at without dropout.

    Args:
        sequences: batches of token ids `[B, T]`, T at least 2, all of one T.
        largest, random: how many routes are cut one by one: so many that seem the largest, and so many of the rest by
            chance; all where there are no more.
        cells: how many pairs of place and source, with the largest sums of estimates, are cut for all rows at once.
        with_means: measure also what setting routes to their means does, and cut the places' own inputs.
        label: of the model, beside the progress bar; None shows no bar.

    Raises:
        ValueError: for a model that has no weights over depth, or no sequences.
    """
    batches = list(sequences)
    if not batches:
        raise ValueError("give sequences to measure effects on")
    of = routes(model)
    weights = retrieval_weights(model, "", batches)
    assert weights is not None
    means = source_means(model, batches) if with_means else None
    estimates = estimate_effects(model, batches, means)
    found = _list_routes(weights, of.readers, estimates)
    with without_dropout(model):
        judge = _Judge(model, batches)
        effects = RouteEffects(found, _by_place(of.readers, estimates), judge.loss, of.readers[0].sources_are)
        effects.chosen = _choose(found, largest, random)
        chosen_cells = _choose_cells(effects, cells, with_own_inputs=with_means)
        total = len(effects.chosen) * (1 + with_means) + len(chosen_cells)
        with progress_bar(f"{label}: effects", "cut", total=total, disable=label is None) as bar:
            for number in effects.chosen:
                effects.cut[number] = judge.measure(found[number].cut(of))
                if means is not None:
                    effects.to_mean[number] = judge.measure(found[number].set_to_mean(of, means))
                bar.update(1 + with_means)
            for place, source in chosen_cells:
                effects.cells[place, source] = judge.measure(of.cut(place, source=source))
                bar.update(1)
    return effects


class Estimates(NamedTuple):
    """The estimated effects of one reader's routes, by the token at which they are read; their sum is the effect.

    Attributes:
        cut, to_mean: `[B, T, R, n]`, in nats of the mean loss.
    """

    cut: Tensor
    to_mean: Tensor


def estimate_effects(
    model: PreTrainedModel, batches: Sequence[Tensor], means: Means | None = None
) -> dict[DepthReader, Estimates]:
    """The effects of all routes by the gradient, for each token at which they are read.

    Args:
        batches: token ids `[B, T]`, all of one T.
        means: for the effects of setting routes to their means; without them these are zero.
    """
    predicted = sum(batch[:, 1:].numel() for batch in batches)
    estimates: dict[DepthReader, list[Estimates]] = {}
    embeddings: list[Tensor] = []

    def begin_graph(module, arguments, output):
        embeddings.append(output.detach().requires_grad_())
        return embeddings[-1]

    hook = model.get_input_embeddings().register_forward_hook(begin_graph)
    try:
        with without_dropout(model), torch.enable_grad():
            for batch in batches:
                terms = _Terms(means)
                batch = batch.to(model.device)
                with routes(model).observed_by(terms):
                    logits = model(input_ids=batch, use_cache=False).logits
                loss = _losses(logits, batch).sum() / predicted
                torch.autograd.grad(loss, embeddings.pop())
                for reader, cut in terms.cut.items():
                    own = Estimates(cut.cpu(), terms.to_mean.get(reader, torch.zeros_like(cut)).cpu())
                    estimates.setdefault(reader, []).append(own)
    finally:
        hook.remove()
    return {reader: Estimates(*map(torch.cat, zip(*own, strict=True))) for reader, own in estimates.items()}


class _Terms:
    """Observes one forward, and takes the products of terms and gradients when its backward comes by."""

    def __init__(self, means: Means | None):
        self.means = means
        self.cut: dict[DepthReader, Tensor] = {}  # [B, T, R, n]
        self.to_mean: dict[DepthReader, Tensor] = {}

    def __call__(
        self, reader: DepthReader, sources: Sequence[Tensor], term: Term, output: Any, part: str, first_row: int
    ) -> None:
        means = None if self.means is None else like(self.means[reader][part], sources)
        take = partial(self._take, reader, sources, means, term, first_row)
        is_list = isinstance(output, list)
        for row, each in enumerate(output if is_list else [output]):
            if each.requires_grad:
                each.register_hook(partial(take, row if is_list else None))

    @torch.no_grad()
    def _take(
        self,
        reader: DepthReader,
        sources: Sequence[Tensor],
        means: Sequence[Tensor] | None,
        term: Term,
        first_row: int,
        row: int | None,
        gradient: Tensor,
    ) -> None:
        """Add the effects of the terms in one output, or in one row of it."""
        for j in range(len(sources)):
            of_source = _product(gradient, term(j, sources), row, reader.num_rows)
            rows = slice(first_row if row is None else row, None)
            self._add(self.cut, reader, -of_source, rows, j)
            if means is not None:
                of_mean = _product(gradient, term(j, means), row, reader.num_rows)
                self._add(self.to_mean, reader, of_mean - of_source, rows, j)

    @staticmethod
    def _add(sums: dict[DepthReader, Tensor], reader: DepthReader, effects: Tensor, rows: slice, j: int) -> None:
        """Add `[B, T, rows]` to the effects of a reader's j-th source."""
        if reader not in sums:
            shape = (*effects.shape[:2], reader.num_rows, len(reader.source_ids))
            sums[reader] = torch.zeros(shape, device=effects.device)
        sums[reader][:, :, rows, j][..., : effects.shape[2]] += effects


def _product(gradient: Tensor, term: Any, row: int | None, num_rows: int) -> Tensor:
    """The inner products of a gradient and a term at each token and row, `[B, T, rows]`."""
    product = gradient.float() * (term if row is None else term[row]).float()
    if row is not None or num_rows == 1:
        return product.flatten(2).sum(dim=-1, keepdim=True)
    return product.flatten(3).sum(dim=-1)


def _losses(logits: Tensor, input_ids: Tensor) -> Tensor:
    """The loss of each token but the first, `[B, T - 1]`, in nats."""
    logits = logits[:, :-1].float()
    return cross_entropy(logits.transpose(1, 2), input_ids[:, 1:].to(logits.device), reduction="none")


class _Judge:
    """Compares a model whose routes are changed with the model as it is, on a text.

    Attributes:
        loss: of the model as it is, mean over tokens, in nats.
    """

    def __init__(self, model: PreTrainedModel, batches: Sequence[Tensor]):
        self.model, self.batches = model, batches
        self._own = [self._run(batch) for batch in batches]
        self.loss = float(torch.cat([losses for losses, _ in self._own]).mean())

    @torch.no_grad()
    def measure(self, changed: Routes) -> Measured:
        """The losses and predictions within a change."""
        rises, divergences = [], []
        with changed:
            for batch, (losses, predictions) in zip(self.batches, self._own, strict=True):
                own, other = self._run(batch)
                rises.append(own - losses)
                divergences.append(kl_div(other, predictions, reduction="none", log_target=True).sum(dim=-1))
        return Measured(float(torch.cat(rises).mean()), float(torch.cat(divergences).mean()))

    @torch.no_grad()
    def _run(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The losses `[B, T - 1]`, and the log-probabilities `[B, T, vocabulary]` of the tokens that follow."""
        batch = batch.to(self.model.device)
        logits = self.model(input_ids=batch, use_cache=False).logits.float()
        return _losses(logits, batch), logits.log_softmax(dim=-1)


def _list_routes(
    weights: RetrievalWeights, readers: Sequence[DepthReader], estimates: dict[DepthReader, Estimates]
) -> list[Route]:
    """All routes of a model, by place, row and source; not those of readers that an early exit leaves out."""
    found: list[Route] = []
    rows_before: dict[int, int] = {}
    for reader in readers:
        if reader not in estimates:
            continue
        cut, to_mean = (each.sum(dim=(0, 1)) for each in estimates[reader])
        first = rows_before.get(reader.place, 0)
        for row, (name, head) in enumerate(reader.rows):
            for column, source in enumerate(reader.source_ids):
                found.append(
                    Route(
                        place=reader.place,
                        row=first + row,
                        weight_set=name,
                        head=head,
                        source=source,
                        column=column,
                        weight=float(weights.layers[reader.place][first + row, source]),
                        estimate=float(cut[row, column]),
                        estimate_to_mean=float(to_mean[row, column]),
                    )
                )
        rows_before[reader.place] = first + reader.num_rows
    return found


def _by_place(readers: Sequence[DepthReader], estimates: dict[DepthReader, Estimates]) -> dict[int, Tensor]:
    """The effects of cuts by token `[B, T, R, n]`, those of one place's readers together."""
    places: dict[int, list[Tensor]] = {}
    for reader in readers:
        if reader in estimates:
            places.setdefault(reader.place, []).append(estimates[reader].cut)
    return {place: torch.cat(own, dim=2) for place, own in places.items()}


def _choose(found: list[Route], largest: int, random: int) -> dict[int, str]:
    """The numbers of the routes to be cut one by one, and why each of them."""
    if len(found) <= largest + random:
        return dict.fromkeys(range(len(found)), "all")
    by_size = sorted(range(len(found)), key=lambda number: -abs(found[number].estimate))
    rest = np.random.default_rng(SEED).choice(by_size[largest:], random, replace=False)
    return dict.fromkeys(by_size[:largest], "largest") | dict.fromkeys(rest.tolist(), "random")


def _choose_cells(effects: RouteEffects, count: int, with_own_inputs: bool) -> list[tuple[int, int]]:
    """The pairs of place and source to be cut for all rows at once."""
    estimates = effects.estimated_cells()
    largest = sorted(estimates, key=lambda cell: -abs(estimates[cell]))[:count]
    own_inputs = [cell for cell in estimates if cell[0] == cell[1]] if with_own_inputs else []
    return list(dict.fromkeys([*largest, *own_inputs]))

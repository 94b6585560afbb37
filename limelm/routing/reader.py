"""The interface of every part of a model that weighs what earlier places left: routers, and other connections.

A *place* is a row in a triangle of weights: place r may read the sources 0 (the embeddings) to r (the newest there is).
In most models it is a layer; where sublayers read what sublayers added, it is a sublayer. Whoever measures or reports
weights over depth asks readers; nobody else knows which kinds there are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from limelm.routing.module import DepthModule

#: What the only set of weights is called where places are sublayers, attention and MLP in turn, and sources what each
#: added: source m > 0 is the delta of sublayer m - 1, or the sum of a block of them up to it.
SUBLAYERS = "sublayers"
#: What sources are, but for the embeddings: what layers left, or what layers or sublayers added to the residual stream.
REPRESENTATIONS, LAYER_DELTAS, SUBLAYER_DELTAS = "representations", "deltas of layers", "deltas of sublayers"

#: `mix(sources, weights)`: n sources `[B, T, ...]` and weights as `DepthReader.effective_weights` gives them, or shares
#: `[G, n]` of weights that the mix knows itself; linear in both. Returns `[B, T, G, ...]`, one row after the other in a
#: list, or `[B, T, ...]` where there is one row.
Mix = Callable[[Sequence[Tensor], Any], Any]
#: What is done in the place of a mix: `change(mix, sources, weights, first_row, part)`.
Change = Callable[[Mix, Sequence[Tensor], Any, int, str], Any]


class DepthReader(DepthModule):
    """A part of a model that reads a mix of what earlier places of it have left.

    Attributes:
        place: r, its row.
        source_ids: the sources that it reads, at most r, in the order of its weights; none where it stands nowhere.
        weight_sets: what each set of its weights is for, in their order; nothing where there is one for all. Several
            readers of one place have sets of their own.
        num_rows: S G, the rows of its weights.
        source_products: the multiply-adds for each number of a source that are not in matrix products, such as those of
            a weighted sum, so that costs can be counted from a model's parts.
        top_p: the mass of weights that is kept; None where nothing is pruned.
        change: what is done to its routes while somebody looks into them (`limelm.routing.formulas`); else None.
    """

    #: What its sources are and what is mixed of them, in a sentence.
    reads_what: ClassVar[str] = (
        "A source is the residual stream after a layer, or the embeddings; the layer's input is a mix of them."
    )
    #: Whether the newest of its sources is made by its own place, not left by the one before.
    makes_own_source: ClassVar[bool] = False
    #: Whether a source is what a layer added to the residual stream, not the stream after it.
    reads_deltas: bool = False
    #: Whether the weights are made for each token.
    depends_on_tokens: ClassVar[bool] = False
    place: int = 0
    source_ids: tuple[int, ...] = ()
    weight_sets: tuple[str, ...] = ()
    num_rows: int = 1
    source_products: int = 0
    top_p: float | None = None
    change: Change | None = None

    def mixed(self, mix: Mix, sources: Sequence[Tensor], weights: Any, first_row: int = 0, part: str = "") -> Any:
        """Mix sources by weights, or as the change that is under way has it.

        Args:
            mix: how, without a change.
            sources: n, in the order of `source_ids`.
            weights: of its rows from `first_row` on; None where the mix knows them itself.
            part: what the mix is for, where there are several in one forward.
        """
        return mix(sources, weights) if self.change is None else self.change(mix, sources, weights, first_row, part)

    @property
    def rows(self) -> list[tuple[str, int]]:
        """The set of each row of its weights, "" where there is one for all, and the row's number in it: its head."""
        sets = self.weight_sets or ("",)
        return [(name, head) for name in sets for head in range(self.num_rows // len(sets))]

    def source_name(self, number: int) -> str:
        """Name what left a source, for people: 0 are the embeddings."""
        if number == 0:
            return "embedding"
        left_by = _sublayer(number - 1) if self._is_by_sublayer else f"layer {number - 1}"
        return f"after {left_by}" if self.sources_are == REPRESENTATIONS else f"what {left_by} added"

    def place_name(self, num_layers: int) -> str:
        """Name the place for people, in a decoder of L layers."""
        if self.place == num_layers * (2 if self._is_by_sublayer else 1):
            return "final norm"
        return _sublayer(self.place) if self._is_by_sublayer else f"layer {self.place}"

    @property
    def sources_are(self) -> str:
        """Say what its sources are: REPRESENTATIONS, LAYER_DELTAS or SUBLAYER_DELTAS."""
        if self._is_by_sublayer:
            return SUBLAYER_DELTAS
        return LAYER_DELTAS if self.reads_deltas else REPRESENTATIONS

    @property
    def _is_by_sublayer(self) -> bool:
        return self.weight_sets == (SUBLAYERS,)

    @property
    def has_choice(self) -> bool:
        """Whether there is more than one source to read."""
        return len(self.source_ids) > 1

    def effective_weights(self, call: tuple | None = None) -> Tensor:
        """How much of each of the n sources there is in what is read here, a layer's own way past its router included.

        Args:
            call: the arguments of a call of this module; needed where the weights depend on tokens.

        Returns:
            `[S G, n]`, for S sets of weights of G rows each, those of keys before those of values; `[B, T, S G, n]`
            where they depend on tokens; or, where heads are mixed with others, `[S G, n, G]`, by the sources' heads.
        """
        raise NotImplementedError


def _sublayer(number: int) -> str:
    """Name a sublayer, attention and MLP in turn."""
    return f"{'MLP' if number % 2 else 'attention'} {number // 2}"


def readers_in(module: nn.Module) -> Iterator[DepthReader]:
    """The readers of a model or of a layer; where PEFT has put copies of them in, those that it runs."""
    return outermost(module, DepthReader)


Part = TypeVar("Part", bound=nn.Module)


def outermost(module: nn.Module, kind: type[Part]) -> Iterator[Part]:
    """The modules of a kind, not those inside another of them; where PEFT has put copies in, those that it runs."""
    active = _active(module)
    if isinstance(active, kind):
        yield active
        return
    for child in active.children():
        yield from outermost(child, kind)


def _active(module: nn.Module) -> nn.Module:
    """The module itself, or what PEFT's ModulesToSaveWrapper calls instead."""
    if not isinstance(getattr(module, "modules_to_save", None), nn.ModuleDict):
        return module
    if module.disable_adapters or not module.active_adapters:
        return module.original_module  # type: ignore[return-value]
    return module.modules_to_save[module.active_adapters[0]]  # type: ignore[index, return-value]

"""The interface of every router, be it in a model of this package or attached to another.

Whoever measures, trains or reports on routers asks them; nobody else knows which kinds there are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from limelm.routing.module import ROUTING_PROJECTIONS, ROUTING_WEIGHTS, Rule
from limelm.routing.reader import DepthReader, outermost
from limelm.routing.sources import source_ids

#: What attention modules call their router.
ROUTER = "router"
#: What a router with two sets of weights has them for, in their order.
WEIGHT_SETS = ("keys", "values")


@dataclass(frozen=True)
class RouterSpec:
    """The facts that a router must know of its layer.

    Attributes:
        layer_idx: i; layer 0 has nothing to choose from.
        hidden_size: D.
        num_heads: G, key/value heads.
        head_dim: d; None is D / G.
        sources: which it reads: None (all that there are), `{"first": m, "last": n}` or `{"every": s, "last": n}`.
        top_p: the mass of static weights that is kept; None prunes nothing.
        init: what the weights start from, one of the kind's `inits`.
        backend: how the routing is computed (`limelm.routing.ops.backends`).
        share_kv: one set of weights for keys and values; else one for each.
        share_heads: of static and dynamic routing, one distribution for all heads of a set.
        temperature: of static and dynamic routing, what logits are divided by before their softmax.
        trainable: whether the weights are trained; else they stay as they start.
        is_last: whether no layer follows, for connections behind layers.
    """

    layer_idx: int
    hidden_size: int
    num_heads: int
    head_dim: int | None = None
    sources: dict[str, int] | None = None
    top_p: float | None = None
    init: str = "paper"
    backend: str = "auto"
    share_kv: bool = True
    share_heads: bool = False
    temperature: float = 1.0
    trainable: bool = True
    is_last: bool = False

    @property
    def source_ids(self) -> tuple[int, ...]:
        """Indices of the representations that the layer routes over, its own the last; unbounded, 0 ... i."""
        return source_ids(self.layer_idx, self.sources)

    @property
    def num_sources(self) -> int:
        """How many they are."""
        return len(self.source_ids)

    @property
    def size_of_heads(self) -> int:
        """The size d of a head."""
        return self.hidden_size // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def num_sets(self) -> int:
        """How many sets of weights there are: one for keys and values together, or one for each."""
        return 1 if self.share_kv else len(WEIGHT_SETS)

    @property
    def num_distributions(self) -> int:
        """How many distributions over the sources are learned where heads have such."""
        return self.num_sets if self.share_heads else self.num_sets * self.num_heads


class Router(DepthReader):
    """One layer's choice among what all layers so far have left behind."""

    #: Whether earlier layers are read at all.
    routes: ClassVar[bool] = True
    #: Whether it mixes normalized representations, one input Z_h per head, before they are projected.
    mixes_representations: ClassVar[bool] = False
    #: Fields of a configuration that this kind understands, beyond `routing` and `routing_backend`.
    options: ClassVar[frozenset[str]] = frozenset({"routing_sources"})
    #: What `routing_init` may be.
    inits: ClassVar[tuple[str, ...]] = ("paper",)

    def __init__(self, spec: RouterSpec):
        super().__init__()
        self.spec = spec
        self.place, self.source_ids = spec.layer_idx, spec.source_ids
        self.weight_sets = () if spec.share_kv else WEIGHT_SETS  # the keys' heads come first
        self.num_rows = spec.num_sets * spec.num_heads
        self.top_p = spec.top_p
        self.trainable = spec.trainable

    def source_name(self, number: int) -> str:
        """Name what left a source: the representation that a layer is given, or the heads that it makes of it."""
        return f"layer {number}" if self.makes_own_source else super().source_name(number)

    @classmethod
    def default_sources(cls, num_layers: int) -> dict[str, int] | None:
        """The sources that are read in a model of L layers where nothing is asked for; None is all earlier ones."""
        return None

    @property
    def has_choice(self) -> bool:
        """Whether the router has weights of its own to look at: from layer 1 on, where it routes."""
        return self.routes and self.spec.layer_idx > 0

    def extra_repr(self) -> str:
        return f"layer_idx={self.spec.layer_idx}, num_heads={self.spec.num_heads}, num_sources={self.spec.num_sources}"

    def values_of_call(self, call: tuple, output: Any) -> tuple[Tensor, Tensor] | None:
        """The values that attention reads, and those of the layer's own input alone, each `[B, T, G d]`.

        Args:
            call: the arguments of a call of this module.
            output: what it returned.

        Returns:
            None for a call that was for keys alone.
        """
        raise NotImplementedError

    def directions(self, layer: nn.Module) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """How tokens open the routes of this router: the norm that representations pass, and a direction per route.

        Args:
            layer: the decoder layer that the router is in.

        Returns:
            A function of representations `[..., D]`, and P `[S G n, D]`, source by source within a head: the logits of
            the routes are `norm(X) P^T`.

        Raises:
            LookupError: where tokens do not choose, or not so; it says why.
        """
        raise LookupError("its routers do not depend on tokens")

    def parameter_rules(self) -> dict[str, Rule]:
        """Routing weights learn fast and do not decay; the matrices of projections decay."""
        own = {name for name, _ in self.named_parameters(recurse=False)}
        return {name: ROUTING_WEIGHTS if name in own else ROUTING_PROJECTIONS for name, _ in self.named_parameters()}


def routers_in(module: nn.Module) -> Iterator[Router]:
    """The routers of a model or of a layer; where PEFT has put copies of them in, those that it runs."""
    return outermost(module, Router)

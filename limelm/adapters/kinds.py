"""The kinds of routers and connections that can be attached, and what one may choose about them."""

from dataclasses import dataclass, fields

from limelm.adapters.connections import (
    AttachedAttentionResiduals,
    AttachedConnection,
    AttachedDeltaAttentionResiduals,
    AttachedDepthWeightedAverage,
    AttachedManifoldConnection,
    AttachedResidualScalars,
)
from limelm.adapters.routers import (
    AttachedDynamicRouter,
    AttachedKeyValueRouter,
    AttachedRouter,
    AttachedScale,
    AttachedStaticRouter,
    AttachedValueResidualRouter,
)
from limelm.errors import UserError
from limelm.routing import check_sources

#: Routers, which act in the attention of a layer, by the name that `attach` has for them.
ATTACHED_ROUTERS: dict[str, type[AttachedRouter]] = {
    "kv": AttachedKeyValueRouter,
    "static": AttachedStaticRouter,
    "dynamic": AttachedDynamicRouter,
    "value-residual": AttachedValueResidualRouter,
    "scale": AttachedScale,
}
#: Connections, which act behind a layer.
ATTACHED_CONNECTIONS: dict[str, type[AttachedConnection]] = {
    "residual-scalars": AttachedResidualScalars,
    "dense": AttachedDepthWeightedAverage,
    "attnres": AttachedAttentionResiduals,
    "delta-attnres": AttachedDeltaAttentionResiduals,
    "mhc": AttachedManifoldConnection,
}
ATTACHED: dict[str, type[AttachedRouter] | type[AttachedConnection]] = {**ATTACHED_ROUTERS, **ATTACHED_CONNECTIONS}


@dataclass(frozen=True)
class AdapterConfig:
    """How a model's routers or connections are attached: the arguments of `attach`.

    Raises:
        UserError: for an unknown routing, another value of the wrong kind, or an option that the routing does not have.
        ValueError: for `routing_sources` that are not understood.
    """

    routing: str = "kv"
    share_kv: bool = True
    routing_sources: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.routing not in ATTACHED:
            raise UserError(f"routing={self.routing!r} is unknown; allowed: {', '.join(ATTACHED)}")
        if not isinstance(self.share_kv, bool):
            raise UserError(f"share_kv={self.share_kv!r} must be true or false")
        check_sources(self.routing_sources)
        for option in fields(self)[1:]:
            value = getattr(self, option.name)
            if value != option.default and option.name not in self.kind.options:
                raise UserError(f"{option.name}={value}: routing={self.routing!r} has no such option")

    @property
    def kind(self) -> type[AttachedRouter] | type[AttachedConnection]:
        """The class of what is attached to each layer."""
        return ATTACHED[self.routing]

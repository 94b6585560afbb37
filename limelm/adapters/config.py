"""How a model's routers are attached: what `attach` was told."""

from dataclasses import dataclass

from limelm.adapters.routers import ROUTERS
from limelm.errors import UserError
from limelm.routing import check_routing_sources


@dataclass(frozen=True)
class AdapterConfig:
    """Arguments of `attach`.

    Raises:
        UserError: for an unknown routing, or another value of the wrong kind.
        ValueError: for `routing_sources` that are not understood.
    """

    routing: str = "kv"
    share_kv: bool = True
    routing_sources: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if self.routing not in ROUTERS:
            raise UserError(f"routing={self.routing!r} is unknown; allowed: {', '.join(ROUTERS)}")
        if not isinstance(self.share_kv, bool):
            raise UserError(f"share_kv={self.share_kv!r} must be true or false")
        check_routing_sources(self.routing_sources)
        if self.routing_sources is not None and not ROUTERS[self.routing].routes:
            raise UserError(f"routing_sources={self.routing_sources}: routing={self.routing!r} reads no other layer")

"""Which sources a layer reads: all that earlier layers left, or the first few or every so many, and the latest few."""

from collections.abc import Iterable
from typing import Any

from limelm.routing.ops.source_matrix import runs

#: The ways to bound sources: what each names, with the least that it may be.
BOUNDS = ({"first": 0, "last": 1}, {"every": 1, "last": 1})


def check_sources(sources: Any) -> None:
    """Raise ValueError unless `sources` is None, or one of BOUNDS with integers that are large enough."""
    if sources is None:
        return
    least = next((bounds for bounds in BOUNDS if isinstance(sources, dict) and set(sources) == set(bounds)), None)
    if least is None:
        raise ValueError(
            f'routing_sources={sources!r} is not understood; allowed: None (all), or {{"first": m, "last": n}} or '
            '{"every": s, "last": n} with m >= 0 and s, n >= 1'
        )
    for name, value in sources.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least[name]:
            raise ValueError(f"routing_sources[{name!r}]={value!r} is not an integer of at least {least[name]}")


def source_ids(layer_idx: int, sources: dict[str, int] | None) -> tuple[int, ...]:
    """Indices of the sources that layer i routes over, the oldest first, its own (i) the last."""
    everything = range(layer_idx + 1)
    if sources is None:
        return tuple(everything)
    kept = everything[: sources["first"]] if "first" in sources else everything[:: sources["every"]]
    return tuple(j for j in everything if j in kept or j > layer_idx - sources["last"])


class ReadPlan:
    """Which layer of a model reads which sources, and how they are kept; made once per model.

    Args:
        routers: the `LayerRouter` of each layer, the first one first.

    Attributes:
        reads: for each layer the indices of the sources that it is given.
        blocks: for each layer the runs of them, [first, last).
        expiring: for each layer the sources that no later one reads.
        num_sources: up to which source any layer reads.
        is_bounded: whether layers read some of the earlier sources only.
        mixes_representations: whether sources are normalized representations, and not what the layers leave.
        rows: of a source that a layer leaves; 0 where such sources stay tensors of their own.
        columns: of a row, per token.
        backend: what the routers were made with.
        has_fast_path: whether all of them know more than the reference.
    """

    def __init__(self, routers: Iterable[Any]):
        routers = list(routers)
        self.reads = [router.reads for router in routers]
        self.num_sources = max((source + 1 for sources in self.reads for source in sources), default=0)
        last_reader = {source: source for source in range(self.num_sources)}  # a layer's own, where no later one reads
        last_reader |= {source: layer for layer, sources in enumerate(self.reads) for source in sources}
        self.blocks = [[(place, place + last - first) for first, last, place in runs(ids)] for ids in self.reads]
        self.expiring = [[s for s, reader in last_reader.items() if reader == layer] for layer in range(len(routers))]
        self.is_bounded = any(router.spec.sources is not None for router in routers)
        self.mixes_representations = any(router.mixes_representations for router in routers)
        shape: tuple[int, int] = routers[0].source_shape() if routers else (0, 0)
        self.rows, self.columns = shape
        self.backend = routers[0].spec.backend if routers else "auto"
        self.has_fast_path = all(router.has_fast_path for router in routers)

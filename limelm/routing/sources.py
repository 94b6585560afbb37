"""Which sources a layer reads: all earlier ones, or the first few and the latest few (`routing_sources`)."""

from typing import Any


def check_routing_sources(bounds: Any) -> None:
    """Raise ValueError unless `bounds` is None or `{"first": m, "last": n}` with m >= 0 and n >= 1."""
    if bounds is None:
        return
    example = 'None (all), or {"first": m, "last": n} with m >= 0 and n >= 1'
    if not isinstance(bounds, dict) or set(bounds) != {"first", "last"}:
        raise ValueError(f"routing_sources={bounds!r} is not understood; allowed: {example}")
    for name, least in (("first", 0), ("last", 1)):
        value = bounds[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"routing_sources[{name!r}]={value!r} is not an integer of at least {least}")


def sources_of_layer(layer_idx: int, bounds: dict[str, int] | None) -> tuple[int, ...]:
    """Indices of the representations that layer i routes over, the oldest first, its own (i) the last."""
    everything = range(layer_idx + 1)
    if bounds is None:
        return tuple(everything)
    return tuple(j for j in everything if j < bounds["first"] or j > layer_idx - bounds["last"])

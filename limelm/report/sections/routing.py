"""The sections on what routers and other connections retrieve: Figures 2, 3, 4, 9, 10, 13 and 14, and Table 5."""

from collections.abc import Mapping

from limelm.analysis.retrieval import ATTACHED_ROUTERS, CONNECTIONS, set_label
from limelm.records import Record, Records
from limelm.report.captions import Words
from limelm.report.figures import heatmaps, routing
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import by_model
from limelm.report.writer import Section, file_names
from limelm.routing.reader import LAYER_DELTAS, SUBLAYER_DELTAS

DEEP = 31  # from this layer on the paper shows a model's weights in Figure 14


def _is_kv(row: Record) -> bool:
    return row["absolute"] is not None


def _has_same_head(row: Record) -> bool:
    return _is_kv(row) and row["same_head_share"] is not None


def _figures(rows: Records) -> Words:
    is_deep = {max(row["layer"] for row in own) >= DEEP for _, own in by_model(rows)}
    return {"figures": {(False,): "Figure 13", (True,): "Figure 14"}.get(tuple(is_deep), "Figures 13 and 14")}


ROUTING = (
    Section("mean_retrieval", routing.mean_retrieval),
    Section("self_retrieval", routing.self_retrieval),
    Section("self_retrieval_by_layer", routing.self_retrieval_by_layer),
    Section("expected_source", routing.expected_source),
    Section("pruned_weights"),
    Section("retrieval_under_top_p", routing.retrieval_under_top_p),
    Section("layer_mass", heatmaps.layer_mass),
    Section("layer_mass_absolute", heatmaps.absolute_mass, of="layer_mass", where=_is_kv),
    Section("layer_mass_same_head", heatmaps.same_head_share, of="layer_mass", where=_has_same_head),
    Section("weights", words=_figures),
)


def routing_sections(records: Mapping[str, Records]) -> list[Section]:
    """The sections on routing, with a part for each model's weights."""
    names = file_names(model for model, _ in by_model(records.get("weights", [])))
    return [*ROUTING, *(_weights_of(model, name) for model, name in names.items())]


def _weights_of(model: str, name: str) -> Section:
    return Section(
        f"weights-{name}",
        heatmaps.weights,
        of="weights",
        where=lambda row: bool(row["model"] == model),
        caption="weights_of_model",
        words=lambda _: {"model": model},
        is_part=True,
    )


def with_weight_sets(palette: Palette, records: Mapping[str, Records]) -> Palette:
    """The palette with sets of weights, such as those for keys and for values, which records have as models."""
    named = models_in(records)
    whole = {name: model for model in sorted(palette.kinds, key=len) for name in named if is_set_of(model, name)}
    kinds = {name: palette.kinds[model] for name, model in whole.items()}  # the longest label that fits
    return Palette([*palette.kinds, *named], kinds | palette.kinds)


def models_in(records: Mapping[str, Records]) -> list[str]:
    """The labels in retrieval records, sets of weights by themselves."""
    return list(dict.fromkeys(row["model"] for row in records.get("mean_retrieval", [])))


def is_set_of(model: str, name: str) -> bool:
    """Whether a label in retrieval records may be a set of a model's weights."""
    return name.startswith(set_label(model, "")[:-1])


def routing_words(records: Mapping[str, Records]) -> Words:
    """Facts for the texts: the kinds of routers and other connections in the records."""
    rows = records.get("mean_retrieval", [])
    kinds, sources = {row["readers"] for row in rows}, {row["sources_are"] for row in rows}
    return {
        "has_sublayers": SUBLAYER_DELTAS in sources,
        "has_deltas": LAYER_DELTAS in sources,
        "has_connections": CONNECTIONS in kinds,
        "has_dynamic": any(row["depends_on_tokens"] and row["readers"] != CONNECTIONS for row in rows),
        "has_kv": any(map(_is_kv, records.get("layer_mass", []))),
        "has_attached": ATTACHED_ROUTERS in kinds,
    }

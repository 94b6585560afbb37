"""The sections on what routers retrieve: Figures 2, 3, 4, 9, 10, 13 and 14, and Table 5."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure

from limelm.analysis.retrieval import set_label
from limelm.records import Records
from limelm.report.columns import Column, count, share
from limelm.report.figures import heatmaps, routing
from limelm.report.figures.palette import Palette
from limelm.report.figures.style import by_model
from limelm.report.html import Section, file_names
from limelm.routing import WEIGHT_SETS

DEEP = 31  # from this layer on the paper shows a model's weights in Figure 14
DYNAMIC = "Weights of dynamic routers depend on the token and are averaged over the data."
KEY_VALUE = "LIMe KV has signed weights: shown is each representation's share of their absolute values."
ATTACHED = (
    "An attached router works beside its layer's own path: shown is the share of all that a head reads, both ways."
)


#: The title and the text of each figure and table.
TEXTS = {
    "mean_retrieval": (
        "What is retrieved: mean weight by representation (Figure 2)",
        "Representation 0 is the token embedding, m the output of layer m - 1. The dashed line is what routers "
        "without preferences would give. Few layers read the last representations, so their means rest on few "
        "weights.",
    ),
    "self_retrieval": (
        "Self-retrieval, head by head (Figure 3)",
        "How much each head takes from its layer's own input: a thin line per head, their mean thick, a panel per "
        "model. It shows how far the heads of a model differ. Dashed: uniform.",
    ),
    "self_retrieval_by_layer": (
        "Self-retrieval, model by model (Figure 10)",
        "The thick lines of the figure before in one panel: it shows how far the models differ. 1 would be "
        "ordinary self-attention. The later a layer, the more representations share its weight, so a falling line "
        "means something only against the dashed one.",
    ),
    "expected_source": (
        "Expected retrieved representation (Figure 4)",
        "Which representation a layer retrieves on average: high is recent, low is early. The shade spans the "
        "heads. A model without routing would lie on the dotted line. A layer that reads only the first and the "
        "last representation has its mean between them, where it reads nothing.",
    ),
    "pruned_weights": (
        "Pruned routing weights (Table 5)",
        "How many routing weights top-p leaves out at the end of training. Layer r has one per head and "
        "representation 0 to r, H (L(L+1)/2 - 1) in all. The totals that the paper prints are H L (L-1), the "
        "size of one array for all layers with the short rows filled up with zeros; both are here. At 32, 64 "
        "and 128 layers with 8 heads and top-p 0.9 it prints 1,845 of 7,936 (23 %), 6,795 of 32,256 (21 %) and "
        "24,632 of 130,048 (19 %); of the 4,216, 16,632 and 66,040 weights that there are, that would be "
        "43.8 %, 40.9 % and 37.3 %.",
    ),
    "retrieval_under_top_p": (
        "Retrieval statistics under top-p (Figure 9)",
        "Green circles: the weight on representation n, the input of layer n, mean over heads and over the layers "
        "from n on, which can read it. Orange squares: the weight of layer n on its own input, mean over heads; 1 "
        "would be ordinary self-attention. Pruned weights count as zero.",
    ),
    "layer_mass": (
        "What each layer takes from each representation",
        "Mean over heads of the weights below: a row is a layer and sums to 1, a column a representation. A mean "
        "hides heads that do opposite things; the figures per head show them.",
    ),
    "layer_mass_absolute": (
        "LIMe KV: absolute mass by layer and representation",
        "A head of LIMe KV adds up the heads of earlier layers with signed weights R that need not sum to 1. Shown "
        "is the sum of |R| over the heads of a representation, mean over the reading heads. Large weights of "
        "opposite sign may cancel, and keys and values differ in scale from layer to layer: mass is not influence.",
    ),
    "layer_mass_same_head": (
        "LIMe KV: mass from the same head",
        "The part of that mass which a head takes from the head with its own number. Heads without preference "
        "would take one part in G, the number of key/value heads.",
    ),
}
PRUNED = [
    Column("model", "model"),
    Column("layers", "layers"),
    Column("heads", "heads"),
    Column("top_p", "top-p"),
    Column("pruned", "pruned weights", count),
    Column("weights", "of the weights there are", count),
    Column("pruned_share", "share", share),
    Column("padded_weights", "of the total with padding", count),
    Column("padded_pruned_share", "share", share),
]


def routing_sections(records: dict[str, Records], palette: Palette, is_attached: bool = False) -> list[Section]:
    """Make a section for each kind of records, in the order of the page.

    Args:
        is_attached: whether any of the models has routers that were attached to it.
    """
    # Keys and values that have routers of their own stand in the records as two models.
    named = dict.fromkeys(row["model"] for row in records.get("mean_retrieval", []))
    kinds = {set_label(model, part): kind for model, kind in palette.kinds.items() for part in WEIGHT_SETS}
    palette = Palette([*palette.kinds, *named], palette.kinds | kinds)
    notes = _notes([palette.kinds[model] for model in named], records, is_attached)
    kv = [row for row in records.get("layer_mass", []) if row["absolute"] is not None]
    records = records | {
        "layer_mass_absolute": kv,
        "layer_mass_same_head": [row for row in kv if row["same_head_share"] is not None],
    }

    def drawn(name: str, draw: Callable[..., Figure], *more: Any, notes: Sequence[str] = ()) -> list[Section]:
        rows = records.get(name)
        title, text = TEXTS[name]
        return [Section(name, title, [text, *notes], rows, draw(rows, *more))] if rows else []

    return [
        *drawn("mean_retrieval", routing.mean_retrieval, palette, notes=notes),
        *drawn("self_retrieval", routing.self_retrieval, palette),
        *drawn("self_retrieval_by_layer", routing.self_retrieval_by_layer, palette),
        *drawn("expected_source", routing.expected_source, palette),
        *_pruned(records.get("pruned_weights", [])),
        *drawn("retrieval_under_top_p", routing.retrieval_under_top_p),
        *drawn("layer_mass", heatmaps.layer_mass),
        *drawn("layer_mass_absolute", heatmaps.absolute_mass),
        *drawn("layer_mass_same_head", heatmaps.same_head_share),
        *_weights(records.get("weights", []), notes),
    ]


def _notes(kinds: list[str | None], records: dict[str, Records], is_attached: bool) -> list[str]:
    """Explain how weights that are no constant distributions are shown, for the kinds of routers in the report."""
    has_kv = any(row["absolute"] is not None for row in records.get("layer_mass", []))
    return [
        *([DYNAMIC] if None in kinds or "dynamic" in kinds else []),
        *([KEY_VALUE] if has_kv else []),
        *([ATTACHED] if is_attached else []),
    ]


def _pruned(records: Records) -> list[Section]:
    title, text = TEXTS["pruned_weights"]
    return [Section("pruned_weights", title, [text], records, columns=PRUNED)] if records else []


def _weights(records: Records, notes: list[str]) -> Iterator[Section]:
    if not records:
        return
    models = dict(by_model(records))
    is_deep = {max(row["layer"] for row in rows) >= DEEP for rows in models.values()}
    figures = {(False,): "Figure 13", (True,): "Figure 14", (False, True): "Figures 13 and 14"}[tuple(sorted(is_deep))]
    yield Section(
        "weights",
        f"All retrieval weights ({figures})",
        [
            "A panel per head; a row is a layer, a column a representation, and each row sums to 1. The diagonal is "
            "the layer's own input. The scale is that of the cube root, so that small weights show: a color half-way "
            "up stands for 0.125. Grey, where there is any: not read.",
            *notes,
        ],
    )
    for model, name in file_names(models).items():
        yield Section(f"weights-{name}", model, [], models[model], heatmaps.weights(models[model]), is_part=True)

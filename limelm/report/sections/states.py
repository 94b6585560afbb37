"""The sections on how representations change with depth: Figures 5, 6, 7, 11, 12 and 15, and beyond the paper."""

from collections.abc import Callable

from matplotlib.figure import Figure

from limelm.analysis.activations import HIDDEN, OWN_VALUES
from limelm.records import Record, Records
from limelm.report.captions import Words
from limelm.report.figures import heatmaps, states
from limelm.report.figures.palette import Palette
from limelm.report.writer import Section

PROBES = {
    "logistic": "a logistic regression on standardized features, trained to convergence",
    "paper": "one epoch of Adam on features as they are, as the authors trained it, which measures their scale too",
}
Draw = Callable[[Records, Palette], Figure]
#: By the records of a measure: its figure, and the numbers of the paper's figures on values and on hidden states.
OF_STATES: dict[str, tuple[Draw, int | None, int | None]] = {
    "entropy": (states.matrix_entropy, 5, 11),
    "separability": (states.separability, 7, 12),
    "tsne": (states.tsne, 6, 15),
    "effective_rank": (states.effective_rank, None, None),
}


def _is_hidden(row: Record) -> bool:
    return bool(row["states"] == HIDDEN)


def _is_value(row: Record) -> bool:
    return not _is_hidden(row)


def _of_values_and_hidden_states(name: str) -> tuple[Section, Section]:
    draw, of_values, of_hidden = OF_STATES[name]

    def words(rows: Records) -> Words:
        first, is_hidden = rows[0], _is_hidden(rows[0])
        ceilings = sorted({round(row["ceiling"], 2) for row in rows if row.get("ceiling") is not None})
        named = " or ".join(f"{value:.2f}" for value in ceilings)
        return {
            "of": HIDDEN if is_hidden else "values",
            "figure": f"Figure {of_hidden if is_hidden else of_values}",
            "alpha": first.get("alpha"),
            "ceiling": f" ({named} here)" if 0 < len(ceilings) <= 2 else "",
            "probe": PROBES.get(first.get("probe", "")),
            "has_before": any(row["states"] == OWN_VALUES for row in rows),
        }

    return (
        Section(f"{name}-values", draw, name, _is_value, name, words),
        Section(f"{name}-hidden-states", draw, name, _is_hidden, name, words),
    )


STATES = (
    *(section for name in OF_STATES for section in _of_values_and_hidden_states(name)),
    Section("cosine", states.cosine),
    Section("cka", heatmaps.cka),
    Section("logit_lens", states.logit_lens),
    Section("gradients", states.gradient_norms),
)

"""The look of each model: known models always look alike, in every figure of every report.

Colors of known models are Okabe and Ito's with three more, and those of other models are chosen so that readers with
any kind of color blindness tell all of them apart (tests/report/test_palette.py measures it).
"""

import math
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from limelm.report.figures.style import shown

Line = str | tuple[int, tuple[int, ...]]

#: Markers and lines of further models of one color, in this order. Dashes and dots are left to references.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "h", ">")
LINES: tuple[Line, ...] = ("-", (0, (6, 1, 1, 1)), (0, (8, 2)), (0, (4, 1, 1, 1, 1, 1)))
MARKS_PER_LINE = 20


@dataclass(frozen=True)
class Look:
    """A color, a marker and a line style."""

    color: str
    marker: str
    line: Line = "-"

    def other(self, number: int) -> "Look":
        """A look with another marker and line in the same color, for further models of one kind; 0 gives this look."""
        markers, lines = MARKERS.index(self.marker) + number, LINES.index(self.line) + number
        return Look(self.color, MARKERS[markers % len(MARKERS)], LINES[lines % len(LINES)])


#: The models of the recipes, native or attached to a pretrained model: kind, look, and labels.
MODELS = (
    ("llama", Look("#4d4d4d", "o"), ["LLaMA"]),
    ("hyper_connection", Look("#d55e00", "s"), ["Hyper-Connections", "hc"]),
    ("static", Look("#0072b2", "^"), ["LIMe static"]),
    ("dynamic", Look("#009e73", "D"), ["LIMe dynamic"]),
    ("kv", Look("#cc79a7", "v"), ["LIMe KV"]),
    ("top-p", Look("#56b4e9", "P"), ["LIMe static, top-p 0.9"]),
    ("none", Look("#e69f00", "X"), ["base", "no training"]),
    ("scale", Look("#ddcc77", "<"), ["K/V scale per head"]),
    ("lora", Look("#661100", "h"), ["LoRA, rank 1"]),
    ("full", Look("#000000", ">"), ["everything"]),
    ("llama-grouped", Look("#4d4d4d", "o").other(1), ["LLaMA, 8 key/value heads"]),
    ("kv-grouped", Look("#cc79a7", "v").other(1), ["LIMe KV, 8 key/value heads"]),
    ("kv-full", Look("#cc79a7", "v").other(2), ["LIMe KV and everything"]),
    ("static-full", Look("#0072b2", "^").other(1), ["LIMe static and everything"]),
    # The rivals have colors of models that stand in no comparison with them, or are of one kind with them.
    ("llama-wide", Look("#4d4d4d", "o").other(2), ["LLaMA, wider MLP"]),
    ("residual_scalars", Look("#661100", "h").other(1), ["Residual scalars"]),
    ("dense_former", Look("#ddcc77", "<").other(1), ["DenseFormer"]),
    ("value_residual", Look("#cc79a7", "v").other(3), ["Value Residual"]),
    ("depth_attention", Look("#0072b2", "^").other(2), ["Depth-Attention"]),
    ("mhc", Look("#d55e00", "s").other(1), ["mHC"]),
    ("attention_residuals", Look("#e69f00", "X").other(1), ["Attention Residuals"]),
    ("attention-residuals-heads", Look("#e69f00", "X").other(2), ["Attention Residuals, 4 heads"]),
    ("attention-residuals-block", Look("#e69f00", "X").other(3), ["Attention Residuals, blocks of 2 layers"]),
    ("deep_cross_attention", Look("#009e73", "D").other(1), ["DeepCrossAttention"]),
    ("mudd_former", Look("#000000", ">").other(1), ["MUDDFormer"]),
    ("mudd-former-norms", Look("#000000", ">").other(2), ["MUDDFormer, pre/post-norm"]),
    ("delta_attention_residuals", Look("#56b4e9", "P").other(1), ["Delta Attention Residuals"]),
)
KNOWN = {kind: look for kind, look, _ in MODELS}
LABELS = {label: kind for kind, _, labels in MODELS for label in labels}

#: Colors of other models, none of them a known model's.
OTHERS = ("#9900ee", "#993300", "#330099", "#99cc99", "#660066")


def kind_of(label: str, model_type: str | None = None, routing: str | None = None) -> str | None:
    """The known model that a label means, or else the routing, or else the type; None for another model.

    A part in brackets after a label, such as the folder's name or "keys", does not count.
    """
    plain = re.sub(r"( \([^()]*\))+$", "", label)
    for name in (label, plain):
        if name in KNOWN or name in LABELS:
            return name if name in KNOWN else LABELS[name]
    named = model_type if routing is None else routing
    return named if named in KNOWN else None


class Palette:
    """The look of each model of a report: the same color, marker and line in all of its figures.

    A known model looks the same in all reports. Where a report has several of one kind, the further ones have its
    color with other markers and lines. Any other model has a color that follows from its label, unless another such
    model of the report has that already.
    """

    def __init__(self, models: Iterable[str], kinds: Mapping[str, str | None] | None = None):
        """`kinds` says which known model a label means (see `kind_of`), where the label alone does not."""
        self.kinds = {model: (kinds or {}).get(model) or kind_of(model) for model in models}
        self.looks: dict[str, Look] = {}
        # Those that bear a known model's very name come first, so that it is they who look as it always does.
        for model in sorted(self.kinds, key=lambda name: name not in KNOWN and name not in LABELS):
            kind = self.kinds[model]
            self.looks[model] = self._free([KNOWN[kind]] if kind else _in_turn(model))

    def _free(self, wished: list[Look]) -> Look:
        """The first look that no model has."""
        taken = set(self.looks.values())
        rounds = len(MARKERS) * len(LINES)
        looks = (look.other(number) for number in range(rounds) for look in wished)
        return next((look for look in looks if look not in taken), wished[0])

    def __getitem__(self, model: str) -> str:
        """The model's color."""
        return self.looks[model].color

    def marker(self, model: str) -> str:
        """The model's marker."""
        return self.looks[model].marker

    def mark(self, model: str) -> dict[str, Any]:
        """The arguments to draw single points with."""
        return {"color": self[model], "marker": self.marker(model), "markersize": 5, "linestyle": ""}

    def line(self, model: str, points: int) -> dict[str, Any]:
        """The arguments to draw a line through so many points with, and its name in the legend."""
        return {
            "color": self[model],
            "marker": self.marker(model),
            "linestyle": self.looks[model].line,
            "markersize": 6,
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
            "markevery": math.ceil(points / MARKS_PER_LINE),
            "label": shown(model),
        }


def palette_of(models: Iterable[Mapping[str, Any]]) -> Palette:
    """The palette of records with `label`, and where known `name` (in a recipe), `model_type` and `routing`."""
    kinds = {}
    for model in models:
        routing = model.get("routing")
        named = kind_of(model["label"]) or kind_of(model.get("name", ""))
        kinds[model["label"]] = named or kind_of("", model.get("model_type"), routing if type(routing) is str else None)
    return Palette(kinds, kinds)


def _in_turn(label: str) -> list[Look]:
    """The looks of unknown models, starting at a place that follows from the label."""
    start = zlib.crc32(label.encode())
    colors = [OTHERS[(start + turn) % len(OTHERS)] for turn in range(len(OTHERS))]
    markers = MARKERS[len(OTHERS) :]  # the first are those of the best known models
    return [Look(color, markers[OTHERS.index(color)]) for color in colors]

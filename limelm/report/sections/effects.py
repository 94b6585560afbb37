"""The sections on what routes matter for: weights beside effects, estimates beside measurements, and tokens."""

from limelm.analysis.route_effects import LARGEST, RANDOM
from limelm.analysis.study import CELLS
from limelm.records import Records
from limelm.report.captions import Words
from limelm.report.figures import effects
from limelm.report.figures.style import by_model
from limelm.report.sections.circuits import visible_token
from limelm.report.writer import Section

STRONGEST = 10  # routes per model on the page


def _strongest(records: Records) -> Records:
    """Each model's routes with the largest effects, by what was measured, or else by the estimate."""
    return [row for _, own in by_model(records) for row in sorted(own, key=_size, reverse=True)[:STRONGEST]]


def _size(row: dict) -> float:
    return abs(row["estimate"] if row["effect"] is None else row["effect"])


def _words(rows: Records) -> Words:
    return {"largest": LARGEST, "random": RANDOM, "cells": CELLS, "effect_tokens": rows[0].get("tokens")}


def _visible(records: Records) -> Records:
    return [row | {"token": visible_token(row["token"])} for row in records]


EFFECTS = (
    Section("cell_effects", effects.weights_and_effects, words=_words),
    Section("route_effects", effects.weight_against_effect, words=_words, rows=_strongest),
    Section("weight_and_effect", effects.rank_correlations),
    Section("effect_estimates"),
    Section("effects_by_token", rows=_visible),
)

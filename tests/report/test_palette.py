"""How models look: known ones always alike, all of them apart, for color-blind readers too."""

import itertools

import numpy as np
import pytest

from limelm.recipes.files import load_recipe, recipe_names
from limelm.report.figures.palette import KNOWN, LABELS, OTHERS, Palette, kind_of, palette_of

# Machado, Oliveira and Fernandes 2009, full severity, on linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)
APART = 15  # CIE76; a just noticeable difference is 2.3


def seen(color, vision):
    """CIELAB of a color as such eyes see it."""
    encoded = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    x, y, z = TO_XYZ @ np.clip(np.array(VISION[vision]) @ linear, 0, 1) / np.array([0.95047, 1, 1.08883])
    x, y, z = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_all_colors_are_told_apart(vision):
    colors = {*(look.color for look in KNOWN.values()), *OTHERS}
    assert len(colors) == 10 + len(OTHERS)
    for one, other in itertools.combinations(sorted(colors), 2):
        assert np.linalg.norm(seen(one, vision) - seen(other, vision)) > APART, (one, other)


def test_known_models_of_one_color_have_different_markers_and_lines():
    for one, other in itertools.combinations(KNOWN.values(), 2):
        assert one.color != other.color or (one.marker != other.marker and one.line != other.line)


def test_a_known_model_looks_the_same_whatever_stands_beside_it():
    for label, kind in LABELS.items():
        for beside in ([], ["LLaMA"], ["my model", "gpt2"], ["LIMe static (a)", "llama (b)", "hc (c)"]):
            for models in ([*beside, label], [label, *beside]):
                assert Palette(models).looks[label] == KNOWN[kind], models


@pytest.mark.parametrize("recipe", sorted(recipe_names()))
def test_every_model_of_every_recipe_is_known(recipe):
    models = load_recipe(recipe).models
    looks = [KNOWN[kind_of(entry.get("label", name))] for name, entry in models.items()]
    assert len(set(looks)) == len(models)


def test_other_models_keep_their_colors_between_reports_and_never_have_a_known_one():
    known = {look.color for look in KNOWN.values()}
    for label in (f"model {i}" for i in range(40)):
        alone = Palette([label]).looks[label]
        assert alone.color not in known
        assert Palette(["LLaMA", "LIMe KV", label]).looks[label] == alone


def test_models_look_different_though_there_are_more_than_colors():
    labels = [str(i) for i in range(60)]
    looks = Palette(labels).looks
    assert len(set(looks.values())) == 60
    assert len({looks[label].color for label in labels[:5]}) == len(OTHERS)  # other colors before other markers


def test_models_of_one_kind_have_its_color_and_other_marks():
    palette = Palette(["LIMe KV (keys)", "LIMe KV (values)", "LIMe KV"])
    looks = list(palette.looks.values())
    assert {look.color for look in looks} == {KNOWN["kv"].color}
    assert len({look.marker for look in looks}) == len({look.line for look in looks}) == 3


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"label": "run-7", "model_type": "lime", "routing": "static"}, "static"),
        ({"label": "run-7", "model_type": "llama", "routing": None}, "llama"),
        ({"label": "run-7", "model_type": "llama", "routing": "kv"}, "kv"),  # an adapter upon a Llama
        ({"label": "run-7", "model_type": "gpt2", "routing": "kv"}, "kv"),
        ({"label": "run-7", "model_type": "llama", "routing": "dense"}, None),  # a connection upon a Llama
        ({"label": "run-7", "model_type": "llama", "routing": "value-residual"}, None),
        ({"label": "run-7", "model_type": "dense_former", "routing": {"top_p": None}}, "dense_former"),
        ({"label": "run-7", "model_type": "gpt2", "routing": None}, None),
        ({"label": "run-7", "model_type": "lime", "name": "top-p", "routing": {"top_p": 0.9}}, "top-p"),
        ({"label": "LIMe static, top-p 0.9", "model_type": "lime", "routing": "static"}, "top-p"),
        ({"label": "static (runs/a)", "model_type": "lime", "routing": "static"}, "static"),
    ],
)
def test_a_model_is_known_by_its_label_or_by_what_it_is(record, kind):
    (look,) = palette_of([record]).looks.values()
    assert look == KNOWN[kind] if kind else look.color in OTHERS

"""How far the parameters of connections have moved, against their distances by hand."""

import json

import pytest
import torch

from limelm.training import train_model
from limelm.training.movement import mixing_parameters, movement
from tests.models.variants import tiny_model
from tests.recipes import prepared, small_recipe


def test_distances_by_hand_and_by_kind():
    model = tiny_model("static")
    start = mixing_parameters(model)
    kept = {name: value.clone() for name, value in start.items()}
    assert movement(model, start) and all(row["distance"] == 0 for row in movement(model, start))
    with torch.no_grad():
        for layer, added in ((1, 3.0), (2, -4.0)):
            model.model.layers[layer].self_attn.router.weight[0, 0] += added
        model.model.layers[0].mlp.up_proj.weight += 1.0  # no connection
    row, *others = [row for row in movement(model, start) if row["distance"]]
    assert not others and row["parameters"] == "layers.*.self_attn.router.weight" and row["group"] == "router"
    weights = [value for name, value in kept.items() if name.endswith("router.weight")]
    assert row["distance"] == pytest.approx(5.0, abs=1e-5)
    assert row["numbers"] == sum(value.numel() for value in weights)
    assert row["start"] == pytest.approx(float(sum(value.square().sum() for value in weights)) ** 0.5)


def test_a_model_without_connections_has_none():
    assert mixing_parameters(tiny_model("none")) == {} and movement(tiny_model("none"), {}) == []


def test_a_training_writes_them_also_when_only_its_result_is_missing(tmp_path):
    recipe, data, out = small_recipe(tmp_path), prepared(tmp_path / "tokens"), tmp_path / "run"
    train_model(recipe, "static", data, out)
    written = json.loads((out / "result.json").read_text())["movement"]
    assert {row["group"] for row in written} >= {"router"} and all(row["distance"] > 0 for row in written)
    (out / "result.json").unlink()
    train_model(recipe, "static", data, out)
    assert json.loads((out / "result.json").read_text())["movement"] == written

"""The deepest recipe on a CPU: 128 layers of static top-p routing train, with memory that grows with the depth only."""

import json
from dataclasses import asdict

import pytest
from transformers import AutoModelForCausalLM

from limelm.planning.peak_memory import saved_for_backward
from limelm.training import load_recipe, train_model
from tests.recipes import prepared

SMALL = {"hidden_size": "64", "intermediate_size": "128", "num_attention_heads": "8", "sequence_length": "32"}
SHORT = {"steps": "3", "batch_size": "2", "warmup_steps": "1", "eval_steps": "3", "precision": "fp32"}


def test_128_layers_of_top_p_train(tmp_path):
    recipe, name = load_recipe("deep-128", SMALL | SHORT), "top-p"
    result = train_model(recipe, name, prepared(tmp_path / "tokens"), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3] and lines[-1]["loss"] < lines[0]["loss"]
    routing = asdict(result.routing)
    assert (routing["weights"], routing["padded_weights"]) == (66_040, 130_048)  # the real total, and Table 5's
    assert 0.05 < routing["pruned_share"] < 0.2
    assert len(routing["layers"]) == 127 and sum(layer["pruned"] for layer in routing["layers"]) == routing["pruned"]
    assert len(routing["self_retrieval"]["layer"]) == 127


def test_what_is_kept_for_the_backward_grows_with_the_depth_not_its_square():
    saved = {}
    for layers in (32, 64, 128):
        config = load_recipe(f"deep-{layers}", SMALL).subjects["top-p"].config(97)
        saved[layers] = saved_for_backward(AutoModelForCausalLM.from_config(config), 1, 256)
    per_layer = [(saved[2 * layers] - saved[layers]) / layers for layers in (32, 64)]
    assert per_layer[1] == pytest.approx(per_layer[0], rel=0.02)

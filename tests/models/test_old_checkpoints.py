"""Checkpoints that people have load as on the day they were saved: names, weights, logits, generated tokens.

Those of the record beside this file (old_checkpoints.py says how it was made) are written here from names and shapes
alone, and read as anybody reads a checkpoint.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

import limelm  # noqa: F401  (registers the model types)
from tests.models.old_checkpoints import (
    RECORD,
    approximately,
    assert_close,
    by_name,
    described,
    draws_as_then,
    fresh_model,
    generate,
    logits_of,
    write_checkpoint,
)

ENTRIES = json.loads(RECORD.read_text())
all_kinds = pytest.mark.parametrize("kind", ENTRIES)


@all_kinds
def test_an_old_checkpoint_loads_and_says_what_it_said(kind, tmp_path):
    entry = ENTRIES[kind]
    written = write_checkpoint(tmp_path, entry)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert {problem: names for problem, names in info.items() if names} == {}
    assert model.config.model_type == entry["config"]["model_type"]
    assert type(model).__name__ == entry["config"]["architectures"][0]
    loaded = model.state_dict()
    shapes = {name: shape for name, (shape, _) in by_name(entry["state_dict"]).items()}
    assert {name: list(value.shape) for name, value in loaded.items()} == shapes
    assert all(torch.equal(loaded[name], value) for name, value in written.items())
    assert_close(logits_of(model), entry["logits"])
    assert generate(model) == entry["generated"]


@all_kinds
def test_saved_today_it_is_the_checkpoint_that_it_was(kind, tmp_path):
    """Every field of its config.json is there, with its value, and every weight under its name."""
    entry = ENTRIES[kind]
    written = write_checkpoint(tmp_path, entry)
    AutoModelForCausalLM.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {name: saved.get(name) for name in entry["config"]} == entry["config"]
    tensors = load_file(tmp_path / "again" / "model.safetensors")
    assert tensors.keys() == written.keys()
    assert all(torch.equal(tensors[name], value) for name, value in written.items())


@all_kinds
def test_a_fresh_model_starts_from_what_it_started_from(kind, tmp_path):
    """With the same seed a training comes out as it did, to the digit."""
    if not draws_as_then():
        pytest.skip("this torch or transformers draws other numbers for its own Llama too")
    (tmp_path / "config.json").write_text(json.dumps(ENTRIES[kind]["config"]))
    model = fresh_model(AutoConfig.from_pretrained(tmp_path))
    assert described(model) == approximately(by_name(ENTRIES[kind]["state_dict"]))

"""Adapters that people have load as on the day they were saved, and so do models that were saved with routers.

Those of the record beside this file (old_adapters.py says how it was made) are written here from names and shapes
alone, and read as anybody reads them.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from limelm import load_adapter, save_adapter
from limelm.loading import load_model
from tests.adapters.old_adapters import (
    ADAPTER,
    BASE,
    DESCRIPTION,
    RECORD,
    ROUTING,
    WEIGHTS,
    WHOLE,
    fresh_routers,
    write_adapter,
    write_base,
    write_whole,
)
from tests.models.old_checkpoints import approximately, assert_close, by_name, described, draws_as_then, logits_of

ENTRIES = json.loads(RECORD.read_text())
OF_THE_DAY = ("limelm", "base_model")  # in a description: the version that wrote it, and from where
all_kinds = pytest.mark.parametrize("kind", ENTRIES)


def assert_as_recorded(model, base, adapter, kind):
    """It has the base's weights and the adapter's, nothing else, and says what it said."""
    loaded, expected = model.state_dict(), base | adapter
    expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())
    assert_close(logits_of(model), ENTRIES[kind]["logits"])


@all_kinds
def test_an_old_adapter_loads_upon_its_base(kind, tmp_path):
    base, adapter = write_base(tmp_path), write_adapter(tmp_path, ENTRIES[kind])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / BASE)
    assert_as_recorded(load_adapter(model, tmp_path / ADAPTER), base, adapter, kind)


@all_kinds
def test_an_old_adapter_finds_its_base(kind, tmp_path):
    base, adapter = write_base(tmp_path), write_adapter(tmp_path, ENTRIES[kind])
    assert_as_recorded(load_model(tmp_path / ADAPTER), base, adapter, kind)


@all_kinds
def test_an_old_model_that_was_saved_with_routers_loads(kind, tmp_path):
    base, adapter = write_base(tmp_path), write_adapter(tmp_path, ENTRIES[kind])
    write_whole(tmp_path, ENTRIES[kind])
    assert_as_recorded(load_model(tmp_path / WHOLE), base, adapter, kind)


@all_kinds
def test_saved_today_it_is_the_adapter_that_it_was(kind, tmp_path):
    """Every field of its description is there, with its value, and every weight under its name."""
    write_base(tmp_path)
    adapter = write_adapter(tmp_path, ENTRIES[kind])
    model = load_model(tmp_path / ADAPTER)
    save_adapter(model, tmp_path / "again")
    description = json.loads((tmp_path / "again" / DESCRIPTION).read_text())
    of_then = {name: value for name, value in ENTRIES[kind]["description"].items() if name not in OF_THE_DAY}
    assert {name: description.get(name) for name in of_then} == of_then
    tensors = load_file(tmp_path / "again" / WEIGHTS)
    assert tensors.keys() == adapter.keys()
    assert all(torch.equal(tensors[name], value) for name, value in adapter.items())


@all_kinds
def test_fresh_routers_start_from_what_they_started_from(kind, tmp_path):
    """With the same seed a training comes out as it did, to the digit."""
    if not draws_as_then():
        pytest.skip("this torch or transformers draws other numbers for its own Llama too")
    write_base(tmp_path)
    routers = {
        name: entry
        for name, entry in described(fresh_routers(tmp_path / BASE, ENTRIES[kind][ROUTING])).items()
        if "router" in name
    }
    recorded = {name: entry for name, entry in by_name(ENTRIES[kind]["weights"]).items() if "router" in name}
    assert routers == approximately(recorded)

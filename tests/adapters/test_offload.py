"""Models whose weights accelerate keeps elsewhere: routers work, and can be saved, or a line says what to do."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from transformers import AutoModelForCausalLM

from limelm import attach, detach, load_adapter, save_adapter
from limelm.errors import UserError
from tests.families import ATTACHABLE, family_model, router_parameters, tokens, train_routers

families = pytest.mark.parametrize("family", ATTACHABLE)
routings = pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])


def to_disk(model, folder):
    return disk_offload(model, str(folder), execution_device=torch.device("cpu"))


def in_parts(model, folder):
    """As `device_map="auto"` does where there is little memory: some layers here, some on the disk."""
    name, layers = next(
        (name, child)
        for name, child in model.named_modules()
        if isinstance(child, torch.nn.ModuleList) and len(child) == 3
    )
    places = {
        child_name: "cpu"
        for child_name, child in model.named_modules()
        if child_name and not list(child.children()) and not child_name.startswith(name) and list(child.parameters())
    }
    places |= {f"{name}.{index}": "disk" if index else "cpu" for index in range(len(layers))}
    return dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


OFFLOADS = {
    "to memory": lambda model, folder: cpu_offload(model, torch.device("cpu")),
    "to disk": to_disk,
    "in parts": in_parts,
}


@families
@routings
@pytest.mark.parametrize("offload", OFFLOADS)
@torch.no_grad()
def test_routers_in_a_model_that_is_offloaded_afterwards(family, routing, offload, tmp_path):
    model = train_routers(attach(family_model(family), routing))
    wanted = model(tokens()).logits
    save_adapter(model, tmp_path / "before")
    OFFLOADS[offload](model, tmp_path / "offloaded")
    torch.testing.assert_close(model(tokens()).logits, wanted, atol=1e-6, rtol=1e-5)
    save_adapter(model, tmp_path / "after")
    assert_same_files(tmp_path)


@families
@routings
@pytest.mark.parametrize("offload", OFFLOADS)
@torch.no_grad()
def test_routers_in_a_model_that_was_offloaded_before(family, routing, offload, tmp_path):
    plain = family_model(family)
    before = plain(tokens()).logits
    save_adapter(train_routers(attach(plain, routing)), tmp_path / "before")
    wanted = plain(tokens()).logits
    model = family_model(family)
    OFFLOADS[offload](model, tmp_path / "offloaded")
    attach(model, routing)
    assert {parameter.device.type for parameter in router_parameters(model).values()} == {"cpu"}
    torch.testing.assert_close(model(tokens()).logits, before, atol=1e-6, rtol=1e-5)
    train_routers(model)
    torch.testing.assert_close(model(tokens()).logits, wanted, atol=1e-6, rtol=1e-5)
    save_adapter(model, tmp_path / "after")
    assert_same_files(tmp_path)
    detach(model)
    load_adapter(model, tmp_path / "before")
    torch.testing.assert_close(model(tokens()).logits, wanted, atol=1e-6, rtol=1e-5)


def assert_same_files(folder):
    for name in ("lime_adapter.json", "lime_adapter.safetensors"):
        assert (folder / "before" / name).read_bytes() == (folder / "after" / name).read_bytes()


def test_loaded_with_a_device_map(tmp_path):
    family_model("llama").save_pretrained(tmp_path / "base")
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{index}": "disk" if index else "cpu" for index in range(3)}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", device_map=places, offload_folder=str(tmp_path / "offloaded")
    )
    with torch.no_grad():
        wanted = train_routers(attach(family_model("llama"), "static"))(tokens()).logits
        got = train_routers(attach(model, "static"))(tokens()).logits
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_weights_of_the_model_itself_are_not_written_where_they_are_not(tmp_path):
    model = attach(family_model("llama"))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(2)
    save_adapter(model, tmp_path / "adapter")
    offloaded = cpu_offload(family_model("llama"), torch.device("cpu"))
    with pytest.raises(UserError, match="is not in the model's memory; load the adapter before weights are offloaded"):
        load_adapter(offloaded, tmp_path / "adapter")
    assert not router_parameters(offloaded)

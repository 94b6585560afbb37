"""Adapters as files: what is loaded is what was saved, upon its own base and on no other."""

import json
import shutil
import sys
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from limelm import attach, detach, load_adapter, save_adapter, set_trainable
from limelm.errors import UserError
from limelm.loading import find_checkpoints, load_adapter_config, load_config, load_model, load_tokenizer
from tests.families import ATTACHABLE, family_model, router_parameters, tokens, train_routers

families = pytest.mark.parametrize("family", ATTACHABLE)
routings = pytest.mark.parametrize("routing", ["kv", "static", "dynamic", "scale"])
DESCRIPTION, WEIGHTS = "lime_adapter.json", "lime_adapter.safetensors"


def trained(family: str = "llama", routing: str = "kv", **options):
    return train_routers(attach(family_model(family), routing, **options))


def shift(model, name: str) -> None:
    """Change one of the model's own weights as a training would, by less than bfloat16 can tell."""
    with torch.no_grad():
        dict(model.named_parameters())[name].mul_(1 + 2**-11)


@families
@routings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_equals_saved(family, routing, dtype, tmp_path):
    model = trained(family, routing, share_kv=False).to(dtype)
    save_adapter(model, tmp_path)
    base = family_model(family).to(dtype)
    before = base(tokens()).logits
    assert load_adapter(base, tmp_path) is base
    assert torch.equal(base(tokens()).logits, model(tokens()).logits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(detach(base)(tokens()).logits, before)


@families
def test_weights_that_were_trained_beside_the_routers_are_saved(family, tmp_path):
    model = attach(family_model(family))
    set_trainable(model, "kv")
    own = [name for name, p in model.named_parameters() if p.requires_grad and "router" not in name]
    shift(train_routers(model), own[0])
    save_adapter(model, tmp_path)
    assert json.loads((tmp_path / DESCRIPTION).read_text())["replaces"] == [own[0]]
    assert set(load_file(tmp_path / WEIGHTS)) == {own[0], *router_parameters(model)}
    loaded = load_adapter(family_model(family), tmp_path)
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    with pytest.warns(UserWarning, match=r"1 weights of the model itself have changed since attach"):
        detach(loaded)


@routings
def test_the_base_counts_as_the_same_in_every_dtype(routing, tmp_path):
    save_adapter(trained(routing=routing), tmp_path)
    load_adapter(family_model("llama").to(torch.bfloat16), tmp_path)


def test_options_are_kept(tmp_path):
    model = trained(routing="static", share_kv=False, routing_sources={"first": 1, "last": 1})
    save_adapter(model, tmp_path)
    loaded = load_adapter(family_model("llama"), tmp_path)
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)


def test_two_adapted_models_do_not_disturb_each_other(tmp_path):
    first, second = trained(), trained(routing="static")
    expected = [model(tokens()).logits for model in (first, second)]
    save_adapter(first, tmp_path)
    third = load_adapter(family_model("llama"), tmp_path)
    with torch.no_grad():
        router_parameters(third)["model.layers.1.self_attn.router.weight"].mul_(2)
    assert torch.equal(first(tokens()).logits, expected[0])
    detach(third)
    assert torch.equal(second(tokens()).logits, expected[1])


def test_an_adapter_can_be_replaced(tmp_path):
    save_adapter(trained(), tmp_path)
    model = trained(routing="static")
    save_adapter(model, tmp_path)
    assert torch.equal(load_adapter(family_model("llama"), tmp_path)(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize(
    ("family", "seed", "message"),
    [
        ("llama", 1, "made for a model of this shape with other weights"),
        ("qwen2", 0, "made for a model with model_type='llama', not 'qwen2'"),
    ],
)
def test_another_base_is_refused_and_left_alone(family, seed, message, tmp_path):
    save_adapter(trained(), tmp_path)
    other = family_model(family, seed)
    names = list(other.state_dict())
    with pytest.raises(UserError, match=message):
        load_adapter(other, tmp_path)
    assert list(other.state_dict()) == names


def test_the_check_can_be_left_out(tmp_path):
    save_adapter(trained(), tmp_path)
    load_adapter(family_model("llama", seed=1), tmp_path, check_base=False)


def test_adapters_are_not_merged(tmp_path):
    save_adapter(trained(), tmp_path)
    with pytest.raises(UserError, match="has routers already, and adapters that were trained apart cannot be merged"):
        load_adapter(trained(), tmp_path)


def test_a_model_without_routers_has_no_adapter(tmp_path):
    with pytest.raises(UserError, match="has no attached routers"):
        save_adapter(family_model("llama"), tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_attached_without_weights_has_no_base(tmp_path):
    with torch.device("meta"):
        model = attach(family_model("llama"))
    with pytest.raises(UserError, match="had no weights when the routers were attached"):
        save_adapter(model, tmp_path)


def edit(folder, **changes):
    path = folder / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def drop_router(folder):
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("model.layers.2.self_attn.router.weight")
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / DESCRIPTION).unlink(), "not a complete adapter"),
        (lambda folder: (folder / WEIGHTS).unlink(), "cannot be read"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 100), "cannot be read"),
        (lambda folder: (folder / DESCRIPTION).write_text("{"), "not JSON"),
        (lambda folder: edit(folder, format_version=9), "format_version=9 must be 1"),
        (lambda folder: edit(folder, routing="hc"), "routing='hc' is unknown"),
        (lambda folder: edit(folder, share_kv=False), r"router.weight is \(1, 2, 4\), not \(2, 2, 4\)"),
        (lambda folder: edit(folder, routing="static"), "router.gate is missing"),
        (drop_router, "model.layers.2.self_attn.router.weight is missing"),
        (lambda folder: edit(folder, replaces=["model.x"]), "model.x belongs to no router or weight of this model"),
    ],
)
def test_a_broken_adapter_is_named_and_leaves_the_model_alone(damage, message, tmp_path):
    save_adapter(trained(), tmp_path)
    damage(tmp_path)
    model = family_model("llama")
    before, names = model(tokens()).logits, list(model.state_dict())
    with pytest.raises(UserError, match=message):
        load_adapter(model, tmp_path)
    assert list(model.state_dict()) == names and torch.equal(model(tokens()).logits, before)


@pytest.mark.parametrize(("routing", "is_lime"), [("kv", True), ("scale", False), ("attnres", False)])
def test_a_card_calls_lime_what_is_lime(routing, is_lime, tmp_path):
    save_adapter(attach(family_model("llama"), routing), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert ("Layer-Integrated Memory routers" in card) == ("- lime\n" in card) == is_lime
    assert f"- {routing}\n" in card and f'`routing="{routing}"`' in card


def nan_lora(folder):
    tensors = load_file(folder / "lora" / "adapter_model.safetensors")
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, folder / "lora" / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (nan_lora, "lora: .* holds NaN or infinite values"),
        (lambda folder: (folder / "lora" / "adapter_config.json").write_text("{"), "lora: broken checkpoint"),
        (
            lambda folder: (folder / "lora" / "adapter_model.safetensors").write_bytes(b"x" * 99),
            "lora: broken checkpoint",
        ),
    ],
)
def test_a_broken_lora_leaves_the_model_alone(damage, message, tmp_path):
    model = trained()
    model.add_adapter(LoraConfig(**LORA))
    shift(model, "model.layers.1.mlp.down_proj.weight")
    save_adapter(model, tmp_path / "good")
    shutil.copytree(tmp_path / "good", tmp_path / "broken")
    damage(tmp_path / "broken")
    base = family_model("llama")
    with pytest.raises(UserError, match=message):
        load_adapter(base, tmp_path / "broken")
    assert not router_parameters(base)
    assert torch.equal(base(tokens()).logits, family_model("llama")(tokens()).logits)
    load_adapter(base, tmp_path / "good")
    assert torch.equal(base(tokens()).logits, model.eval()(tokens()).logits)


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    for missing in (tmp_path, tmp_path / "nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="no adapter"):
            load_adapter(family_model("llama"), missing)


def test_an_adapter_comes_from_the_hub(tmp_path, monkeypatch):
    """As it lies in the hub's cache: nothing is fetched in a test."""
    folder = tmp_path / "models--someone--routers"
    save_adapter(trained(), folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = load_adapter(family_model("llama"), "someone/routers")
    assert torch.equal(model(tokens()).logits, trained()(tokens()).logits)


def test_every_reader_of_checkpoints_reads_adapters(tmp_path):
    family_model("llama").save_pretrained(tmp_path / "base")
    base = load_model(tmp_path / "base")
    model = train_routers(attach(base))
    save_adapter(model, tmp_path / "adapter")
    loaded = load_model(tmp_path / "adapter")
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    assert load_config(str(tmp_path / "adapter")).model_type == "llama"
    assert load_adapter_config(tmp_path / "adapter").routing == "kv"
    assert load_adapter_config(tmp_path / "base") is None
    with pytest.raises(UserError, match="base: no readable tokenizer"):
        load_tokenizer(tmp_path / "adapter")
    edit(tmp_path / "adapter", base_model=None)
    with pytest.raises(UserError, match="names no base_model"):
        load_model(tmp_path / "adapter")
    edit(tmp_path / "adapter", base_model=str(tmp_path / "gone"))
    with pytest.raises(UserError, match="gone: no such folder"):
        load_model(tmp_path / "adapter")


def test_a_base_that_was_named_from_above_the_adapter_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    family_model("llama").save_pretrained("models/base")
    model = train_routers(attach(load_model("models/base")))
    save_adapter(model, "runs/adapter")
    assert json.loads((tmp_path / "runs" / "adapter" / DESCRIPTION).read_text())["base_model"] == "models/base"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_model("../runs/adapter")
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)


def set_base(**changes):
    def damage(folder):
        edit(folder, base={**json.loads((folder / DESCRIPTION).read_text())["base"], **changes})

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_base(sha256=4), "base.sha256=4 must be a string"),
        (lambda folder: edit(folder, base_model=5), "base_model=5 must be a string"),
        (lambda folder: edit(folder, base_model=str(folder)), "names itself as its base_model"),
        (lambda folder: edit(folder, lora=True), "lora: missing"),
        (lambda folder: edit(folder, share_kv="False"), "share_kv='False' must be true or false"),
        (
            lambda folder: edit(folder, base_model="/nowhere/at/all"),
            "its base cannot be read: /nowhere/at/all",
        ),
    ],
)
def test_a_description_that_says_nonsense_is_named(damage, message, tmp_path):
    family_model("llama").save_pretrained(tmp_path / "base")
    save_adapter(attach(load_model(tmp_path / "base")), tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises(UserError, match=message) as error:
        load_model(tmp_path / "adapter")
    assert str(tmp_path / "adapter") in str(error.value)


def test_a_model_folder_is_no_place_for_an_adapter(tmp_path):
    family_model("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds a model; name another folder"):
        save_adapter(trained(), tmp_path)


def test_the_model_within_pefts_is_not_saved_without_its_lora(tmp_path):
    model = trained()
    get_peft_model(model, LoraConfig(**LORA))
    with pytest.raises(UserError, match="has a LoRA of a PEFT model around it; save that model's adapter"):
        save_adapter(model, tmp_path)


def test_routers_around_a_peft_model(tmp_path):
    model = get_peft_model(family_model("llama"), LoraConfig(**LORA))
    attach(model)
    set_trainable(model, "lora")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".router." in name:
                parameter.fill_(0.1)
    save_adapter(model, tmp_path)
    loaded = load_adapter(family_model("llama"), tmp_path)
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    with pytest.raises(UserError, match="has a LoRA, and so has the model"):
        load_adapter(detach(loaded), tmp_path)


LORA = {"r": 2, "target_modules": ["k_proj", "v_proj", "q_proj"], "init_lora_weights": False}


@pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])
def test_a_lora_travels_with_the_routers(routing, tmp_path):
    model = trained(routing=routing)
    without = model(tokens()).logits
    model.add_adapter(LoraConfig(**LORA))
    set_trainable(model, "lora")
    assert not torch.allclose(model(tokens()).logits, without, atol=1e-3)
    save_adapter(model, tmp_path)
    loaded = load_adapter(family_model("llama"), tmp_path)
    assert_equal(loaded, model)


@pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])
def test_peft_around_routers(routing, tmp_path):
    """TRL's way: PEFT wraps the model, and routers are among what it trains and saves."""
    model = get_peft_model(trained(routing=routing), LoraConfig(**LORA, modules_to_save=["router"]))
    routers = {name for name, p in model.named_parameters() if p.requires_grad and "router" in name}
    assert len(routers) == len(router_parameters(trained(routing=routing)))
    model.save_pretrained(tmp_path / "peft")
    loaded = PeftModel.from_pretrained(attach(family_model("llama"), routing), tmp_path / "peft")
    assert_equal(loaded, model)
    save_adapter(model, tmp_path / "adapter")
    ours = load_adapter(family_model("llama"), tmp_path / "adapter")
    assert_equal(ours, model)


def assert_equal(loaded, saved):
    """PEFT freezes what it loads; a weight with gradients is multiplied otherwise, and not to the bit alike."""
    for model in (loaded, saved):
        model.requires_grad_(False)
    assert torch.equal(loaded(tokens()).logits, saved(tokens()).logits)


def test_a_lora_that_an_adapter_stands_on_needs_peft_before_any_model_is_read(tmp_path, monkeypatch):
    save_adapter(trained(), tmp_path / "adapter")
    description = json.loads((tmp_path / "adapter" / DESCRIPTION).read_text())
    (tmp_path / "adapter" / DESCRIPTION).write_text(json.dumps(description | {"base_model": "../lora"}))
    (tmp_path / "lora").mkdir()
    fields = {"base_model_name_or_path": str(tmp_path / "base"), "peft_type": "LORA"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(fields))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="peft is not installed"):
        find_checkpoints([str(tmp_path / "adapter")])

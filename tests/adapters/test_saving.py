"""`save_pretrained` of a model with routers: they can be read again, or somebody says that they are not there."""

import copy
import json
import pickle

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from limelm import attach, detach, load_adapter, save_adapter
from limelm.adapters.kinds import AdapterConfig
from limelm.errors import UserError
from limelm.loading import load_adapter_config, load_model
from tests.families import ATTACHABLE, family_model, router_parameters, tokens, train_routers

OPTIONS = {"share_kv": False, "routing_sources": {"first": 1, "last": 1}}
routings = pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])


def trained(family="llama", routing="kv", **options):
    return train_routers(attach(family_model(family), routing, **options))


def assert_reads_back(folder, model):
    loaded = load_model(folder)
    tensors, wanted = loaded.state_dict(), model.state_dict()
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors.items())
    if model.dtype == torch.bfloat16:
        return  # `to` has rounded frequencies of rotary embeddings too, which are not saved
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    assert not hasattr(loaded.config, "attached_routing")


@pytest.mark.parametrize("family", ATTACHABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_is_read_again_with_its_routers(family, dtype, tmp_path):
    model = trained(family, "kv", **OPTIONS)
    model.to(dtype)
    with pytest.warns(UserWarning, match=r"holds attached routers, which .*load_model reads.*limelm.save_adapter"):
        model.save_pretrained(tmp_path)
    assert_reads_back(tmp_path, model)
    assert load_adapter_config(tmp_path) == AdapterConfig("kv", **OPTIONS)


@routings
def test_sharded_or_copied_or_pickled(routing, tmp_path):
    model = trained(routing=routing)
    for number, each in enumerate((model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        router_parameters(each)["model.layers.1.self_attn.router.weight"].data.mul_(number + 1)
        with pytest.warns(UserWarning, match="holds attached routers"):
            each.save_pretrained(tmp_path / str(number), max_shard_size="10KB")
        assert (tmp_path / str(number) / "model.safetensors.index.json").exists()
        assert_reads_back(tmp_path / str(number), each)


@pytest.mark.filterwarnings("ignore:.*holds attached routers")
def test_the_trainers_own_checkpoints_hold_them(tmp_path):
    model = trained()
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_steps=1, report_to=[], use_cpu=True, per_device_train_batch_size=1
    )
    row = tokens()[0]
    trainer = Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row}])
    trainer.train()
    trainer.save_model(str(tmp_path / "end"))
    for folder in ("checkpoint-1", "end"):
        assert_reads_back(tmp_path / folder, model.eval())


@pytest.mark.filterwarnings("ignore:.*holds attached routers")
def test_what_is_pushed_holds_them(tmp_path, monkeypatch):
    model = trained()
    uploaded = {}

    def upload(self, working_dir, *_, **__):
        uploaded["config"] = json.loads((working_dir / "config.json").read_text())

    monkeypatch.setattr(
        type(model), "_upload_modified_files", lambda self, folder, *a, **k: upload(self, _path(folder))
    )
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *a, **k: type("Repo", (), {"repo_id": "a/b"}))
    model.push_to_hub("a/b")
    assert uploaded["config"]["attached_routing"]["routing"] == "kv"


def _path(folder):
    from pathlib import Path

    return Path(folder)


@routings
def test_without_our_reader_they_are_not_lost_in_silence(routing, tmp_path):
    model = trained(routing=routing)
    with pytest.warns(UserWarning):
        model.save_pretrained(tmp_path / "saved")
    bare = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    bare.save_pretrained(tmp_path / "again")
    with pytest.raises(UserError, match=r"again: config.json says that routers are attached \(attached_routing\)"):
        load_model(tmp_path / "again")
    with pytest.warns(UserWarning, match="saved with routers, which from_pretrained has left out"):
        attach(bare, routing)


def test_beside_a_lora_it_says_that_they_are_missing(tmp_path):
    from peft import LoraConfig

    model = trained()
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.warns(UserWarning, match=r"writes the LoRA without the attached routers; limelm.save_adapter"):
        model.save_pretrained(tmp_path / "lora")
    save_adapter(model, tmp_path / "adapter")  # says nothing: it is what was asked for
    assert len(router_parameters(load_adapter(family_model("llama"), tmp_path / "adapter"))) == 2


def test_detached_it_is_saved_as_any_other(tmp_path):
    model = detach(trained())
    assert "save_pretrained" not in model.__dict__
    model.save_pretrained(tmp_path)
    assert load_adapter_config(tmp_path) is None
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(tokens()).logits, model(tokens()).logits)


def test_a_configuration_that_models_share_stays_as_it_was(tmp_path):
    model = trained()
    other = type(model)(model.config)
    with pytest.warns(UserWarning):
        model.save_pretrained(tmp_path / "routed")
    other.save_pretrained(tmp_path / "plain")
    assert load_adapter_config(tmp_path / "plain") is None

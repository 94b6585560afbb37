"""Model cards: what the hub reads at their top is right, their Python runs, and text of others stays text."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import GPT2Config, LlamaConfig

import limelm
from limelm.adapters.kinds import ATTACHED
from limelm.models.card import Training, adapter_card, lora_card, model_card, name_on_hub, write_card
from limelm.models.card_text import about
from limelm.registration import MODELS
from limelm.routing.build import ROUTERS
from tests.families import family_model
from tests.models.variants import VARIANTS, tiny_model

TRAINING = Training(
    name="LIMe static (recipe tiny, seed 1)",
    data="a text",
    data_sha256="0f" * 32,
    datasets=("owner/data",),
    settings={"steps": "4", "tokens": "256"},
    train_loss=2.25,
    held_out_loss=2.5,
    perplexity=12.182,
)
HOSTILE = 'a`b"|<img src=x onerror=1>[c](http://d)\n---\nlicense: mit\x1b[31m\u202e```'
SIZES = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def read(text: str) -> ModelCard:
    return ModelCard(text, ignore_metadata_errors=False)


def python_of(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_model_says_what_it_is(variant):
    config = tiny_model(variant).config
    card = read(model_card(config))
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", None)
    kind = config.routing if config.model_type == "lime" else "depth-connection"
    assert {"limelm", config.model_type.replace("_", "-"), kind.replace("_", "-")} <= {*data.tags}
    assert config.kind in card.text and "is not said here yet" in card.text
    papers = re.findall(r"https://arxiv\.org/abs/(\d{4}\.\d{5})", card.text)
    assert len(papers) == (kind != "none" if config.model_type == "lime" else config.paper is not None)
    assert "---" not in card.text.replace("|---|---|", "")


def test_every_connection_is_known():
    for name in {*ROUTERS, *MODELS, *(name.replace("-", "_") for name in ATTACHED)} - {"lime"}:  # which is its routings
        assert about((name.replace("_", "-"),)), name
    assert about(("recency",)) == ""


def test_manifold_constrained_connections_have_their_own_paper():
    text = model_card(tiny_model("mhc_gqa").config)
    assert "2512.24880" in text and "- mhc\n" in text


def test_the_python_of_a_card_loads_its_model(tmp_path):
    model = tiny_model("static")
    model.save_pretrained(tmp_path)
    blocks = python_of((tmp_path / "README.md").read_text())
    assert len(blocks) == 2
    for block in blocks:
        names: dict = {}
        exec(block.replace("NAME OR FOLDER OF THIS MODEL", str(tmp_path)), names)
        assert torch.equal(names["model"].lm_head.weight, model.lm_head.weight)


def test_the_python_of_an_adapters_card_loads_it(tmp_path):
    family_model("llama").save_pretrained(tmp_path / "base")
    limelm.save_adapter(limelm.attach(limelm.load_model(tmp_path / "base"), "kv"), tmp_path / "adapter")
    text = (tmp_path / "adapter" / "README.md").read_text()
    blocks = python_of(text)
    assert len(blocks) == 2 and str(tmp_path) not in text
    for block in blocks:
        names: dict = {}
        block = block.replace("NAME OR FOLDER OF THIS ADAPTER", str(tmp_path / "adapter"))
        exec(block.replace('"base"', f'"{tmp_path}/base"'), names)
        assert hasattr(names["model"].model.layers[1].self_attn, "router")


def test_a_training_is_told_of_with_its_results():
    card = read(model_card(LlamaConfig(**SIZES), TRAINING))
    assert card.data.model_name == TRAINING.name and card.data.datasets == ["owner/data"]
    found = {result.metric_type: result for result in card.data.eval_results}
    assert (found["loss"].metric_value, found["perplexity"].metric_value) == (2.5, 12.182)
    assert (found["loss"].dataset_type, found["loss"].dataset_name) == ("owner/data", "a text")
    for words in ("| steps | 4 |", "2.5000", "0f" * 32, "one training with one seed", TRAINING.name, "plain Llama"):
        assert words in card.text
    assert "import limelm" not in card.text


def test_a_result_that_is_not_finite_is_not_among_the_metadata():
    endless = replace(TRAINING, perplexity=float("inf"), datasets=())
    data = read(model_card(LlamaConfig(**SIZES), endless)).data
    assert [result.metric_type for result in data.eval_results] == ["loss"] and data.datasets is None


@pytest.mark.parametrize(
    ("base", "name"),
    [("owner/model", "owner/model"), ("model", None), ("/a/model", None), ("../model", None), (None, None)],
)
def test_a_base_on_the_hub_is_named_to_it_and_a_folder_is_not(base, name, tmp_path):
    assert name_on_hub(base) == name
    adapter = read(adapter_card("mine", "Routers", ("lime",), "kv", base, " 0.1", "LlamaForCausalLM", None))
    converted = read(model_card(LlamaConfig(**SIZES), base=base, origin="Converted."))
    assert adapter.data.base_model == converted.data.base_model == name
    relation = adapter.data.to_dict().get("base_model_relation")
    assert relation == ("adapter" if name else None)
    assert adapter.data.library_name == "limelm"
    assert "and of the base" in adapter.text and "read the base's card" in adapter.text
    assert ("and of the base" in converted.text) == (base is not None)


@pytest.mark.parametrize(
    ("model_class", "loader", "task"),
    [
        ("GPT2LMHeadModel", "AutoModelForCausalLM", "text-generation"),
        ("LlamaForSequenceClassification", "AutoModelForSequenceClassification", "text-classification"),
        ("LlamaModel", "AutoModel", None),
    ],
)
def test_an_adapters_base_is_loaded_by_its_own_class(model_class, loader, task):
    card = read(adapter_card("mine", "Routers", ("lime",), "kv", "o/m", "", model_class, None))
    assert card.data.pipeline_tag == task and f"import {loader}\n" in card.text


def test_text_of_others_stays_text():
    hostile = replace(TRAINING, name=HOSTILE, data=HOSTILE, settings={HOSTILE: HOSTILE})
    for text in (
        model_card(GPT2Config(), hostile, base=HOSTILE),
        lora_card(HOSTILE, hostile),
        adapter_card(HOSTILE, "Routers", ("lime",), "kv", HOSTILE, "", "LlamaForCausalLM", hostile),
        adapter_card(HOSTILE, "Routers", ("lime",), "kv", HOSTILE, "", "LlamaForCausalLM", None),
    ):
        card = read(text)
        assert card.data.license is None
        prose = re.sub(r"^```python\n.*?^```$|`[^`\n]*`", "", card.text, flags=re.DOTALL | re.MULTILINE)
        assert "<img" not in prose and not re.search(r"(?<!\\)\[c", prose)
        assert not {"\x1b", "\u202e"} & {*text} and "\nlicense: mit" not in card.text
        for block in python_of(card.text):
            compile(block, "card", "exec")


def test_a_card_that_is_there_stays(tmp_path: Path):
    write_card(tmp_path, "one")
    write_card(tmp_path, "two")
    assert (tmp_path / "README.md").read_text() == "one"
    model = limelm.attach(family_model("llama"), "kv")
    limelm.save_adapter(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "one"

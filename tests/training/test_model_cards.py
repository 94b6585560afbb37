"""The card that a finished training writes tells of it, is equal for equal trainings, and never replaces another."""

import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import LlamaConfig, LlamaForCausalLM

from limelm.data.dataset import load_prepared_tokenizer
from limelm.models.decoder import DecoderPreTrainedModel
from limelm.training import load_recipe, train_model
from limelm.training.card import training_of_card
from tests.recipes import prepared, small_recipe

CARD = "README.md"
SHORT = {"steps": "2", "batch_size": "2", "sequence_length": "32", "eval_steps": "2", "warmup_steps": "1"}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    return small_recipe(folder), prepared(folder / "tokens")


@pytest.fixture(scope="module")
def trained(setting, tmp_path_factory):
    """A finished training of LIMe static."""
    folder = tmp_path_factory.mktemp("trained")
    train_model(setting[0], "static", setting[1], folder)
    return folder


def test_it_tells_of_recipe_data_and_result(setting, trained):
    recipe, data = setting
    card, result = ModelCard.load(trained / CARD), json.loads((trained / "result.json").read_text())
    assert card.data.tags == ["limelm", "lime", "static"] and card.data.datasets is None
    values = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert values == {"loss": round(result["eval_loss"], 4), "perplexity": round(result["eval_perplexity"], 4)}
    assert card.data.model_name == f"LIMe static (recipe {recipe.name}, seed 1)"
    for words in (
        f"| parameters | {result['parameters']:,} |",
        f"| tokens | {result['train_tokens']:,} |",
        "| learning rate | 0.001 |",
        "| learning rate of routers, connections and LoRA | 0.01 |",
        "| seed | 1 |",
        "Data: a test corpus.",
        recipe.data.describe(data)["content_sha256"],
        f"{result['final_train_loss']:.4f}",
    ):
        assert words in card.text, words


def test_a_plain_llama_has_one_too(setting, tmp_path):
    train_model(setting[0], "llama", setting[1], tmp_path)
    card = ModelCard.load(tmp_path / CARD)
    assert card.data.tags == ["limelm", "llama"] and "learning rate of routers" not in card.text


def test_killed_behind_the_card_it_ends_with_the_same_files(setting, trained, tmp_path, monkeypatch):
    save = DecoderPreTrainedModel.save_pretrained

    def killed(self, folder, *rest, **options):
        if str(folder) == str(tmp_path):
            raise KeyboardInterrupt
        return save(self, folder, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DecoderPreTrainedModel, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            train_model(setting[0], "static", setting[1], tmp_path)
    assert (tmp_path / CARD).exists() and not (tmp_path / "result.json").exists()
    train_model(setting[0], "static", setting[1], tmp_path)
    for name in (CARD, "model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_a_card_that_is_there_stays(setting, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy" / CARD).write_text("mine")
    (tmp_path / "copy" / "result.json").unlink()
    train_model(setting[0], "static", setting[1], tmp_path / "copy")
    assert (tmp_path / "copy" / "result.json").exists() and (tmp_path / "copy" / CARD).read_text() == "mine"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("HuggingFaceTB/smollm-corpus, fineweb-edu-dedup, train", ("HuggingFaceTB/smollm-corpus",)),
        ("corpus, default, train", ()),
        ("a/b", ()),
        ("a.txt, b.txt", ()),
        ("../a/b, default, train", ()),
    ],
)
def test_data_on_the_hub_are_named_to_it(setting, trained, source, names):
    result = train_model(setting[0], "static", setting[1], trained)
    data = {"source": source, "content_sha256": "0" * 64}
    assert training_of_card(setting[0], "static", data, result).datasets == names


@pytest.mark.parametrize(
    ("model", "library", "words"),
    [
        ("kv", "limelm", ('(`routing="kv"`) for `base`', 'limelm.load_model("NAME OR FOLDER OF THIS ADAPTER")')),
        ("lora", "peft", ("A LoRA (PEFT) for `base`", "PeftModel.from_pretrained")),
        ("full", "transformers", ("It is a plain Llama",)),
        ("base", None, ()),
    ],
)
def test_parts_of_a_pretrained_model(setting, model, library, words, tmp_path):
    tokenizer = load_prepared_tokenizer(setting[1])
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    layers = {"lora_layers": "[1]"} if model == "lora" else {}
    recipe = load_recipe("attach", {**SHORT, **layers, "base": str(tmp_path / "base")}, model)
    train_model(recipe, model, setting[1], tmp_path / "run")
    if library is None:
        assert not (tmp_path / "run" / CARD).exists()
        return
    text = (tmp_path / "run" / CARD).read_text()
    card = ModelCard(text)
    assert card.data.library_name == library and len(card.data.eval_results) == 2 and card.data.base_model is None
    assert str(tmp_path) not in text and "parameters that were trained" in text
    for sentence in words:
        assert sentence in text

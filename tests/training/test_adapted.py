"""Training in a pretrained model: what is trained changes and nothing else, also across an interruption."""

import csv
import signal

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from limelm.adapters import set_trainable
from limelm.cli import main
from limelm.data.dataset import TokenDataset, load_prepared_tokenizer
from limelm.errors import Stopped, UserError
from limelm.loading import load_model
from limelm.optimization import parameter_groups
from limelm.training import Recipe, load_recipe, read_summary, train_model
from tests.recipes import corpus, prepared

SMALL = {
    "steps": "8",
    "batch_size": "4",
    "micro_batch_size": "2",
    "sequence_length": "32",
    "eval_steps": "3",
    "save_steps": "3",
    "keep_checkpoints": "2",
    "warmup_steps": "2",
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A pretrained model of three layers, and data for it."""
    folder = tmp_path_factory.mktemp("adapted")
    data = prepared(folder / "tokens")
    tokenizer = load_prepared_tokenizer(data)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return str(folder / "base"), data


def recipe_of(setting, model, **changes):
    return load_recipe("attach", {**SMALL, "base": setting[0], **changes}, model), model


def built(recipe: Recipe, model: str):
    """The model before training."""
    return recipe.subjects[model].build(None, recipe.training)


CASES = {
    "kv": {},
    "static": {"trains": "kv"},
    "dynamic": {"trains": "all", "share_kv": "false"},
    "scale": {},
    "lora": {"lora_layers": "[1]", "lora_targets": '["k_proj"]'},
}


def written(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} | {
        path.name: path.read_bytes() for path in folder.glob("lora/*.safetensors")
    }


@pytest.mark.parametrize("name", [*CASES, "kv with LoRA"])
def test_resumed_is_uninterrupted_bit_for_bit(setting, tmp_path, monkeypatch, name):
    changes = {"trains": "lora", "lora_layers": "[]"} if name == "kv with LoRA" else CASES[name]
    recipe, model = recipe_of(setting, name.split()[0], **changes)
    whole = train_model(recipe, model, setting[1], tmp_path / "whole")
    original, count = TokenDataset.__getitem__, 0

    def getitem(self, index):
        nonlocal count
        count += self.split == "train"
        if count == 19 and self.split == "train":
            signal.raise_signal(signal.SIGTERM)
        return original(self, index)

    monkeypatch.setattr(TokenDataset, "__getitem__", getitem)
    with pytest.raises(Stopped, match="stopped after step 4 of 8"):
        train_model(recipe, model, setting[1], tmp_path / "run")
    resumed = train_model(recipe, model, setting[1], tmp_path / "run")
    assert resumed.eval_loss == whole.eval_loss
    assert written(tmp_path / "run") == written(tmp_path / "whole") != {}


@pytest.mark.parametrize("name", CASES)
def test_what_was_trained_loads_upon_its_base(setting, tmp_path, name):
    recipe, model = recipe_of(setting, name, **CASES[name])
    result = train_model(recipe, model, setting[1], tmp_path / "run")
    validation = TokenDataset(setting[1], "validation", 32, False)
    sequences = torch.stack([validation[index]["input_ids"] for index in range(len(validation))])
    loaded = load_model(tmp_path / "run")
    with torch.no_grad():
        loss = loaded(sequences, labels=sequences).loss.item()
        base = AutoModelForCausalLM.from_pretrained(setting[0])(sequences, labels=sequences).loss.item()
    assert loss == pytest.approx(result.eval_loss, abs=1e-5)
    assert loss != base


def test_no_training_measures_the_base(setting, tmp_path):
    recipe, model = recipe_of(setting, "base")
    result = train_model(recipe, model, setting[1], tmp_path / "run")
    assert result.trainable_parameters == result.train_tokens == 0 and result.final_train_loss is None
    recipe, model = recipe_of(setting, "kv", steps="1", eval_steps="1", warmup_steps="1")
    untrained = built(recipe, model)
    validation = TokenDataset(setting[1], "validation", 32, False)
    sequences = torch.stack([validation[index]["input_ids"] for index in range(len(validation))])
    assert untrained(sequences, labels=sequences).loss.item() == pytest.approx(result.eval_loss, abs=1e-5)
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("trains", "groups"),
    [
        ("routers", {"router": {"router"}}),
        ("kv", {"router": {"router"}, "matrices": {"k_proj", "v_proj"}}),
        ("lora", {"router": {"router"}, "lora": {"lora_A", "lora_B"}}),
        ("all", {"router", "matrices", "norms_and_biases"}),
    ],
)
def test_what_is_trained_and_at_which_rate(setting, trains, groups):
    recipe, name = recipe_of(setting, "static", trains=trains, adapter_learning_rate="0.5")
    model, rate = built(recipe, name), recipe.subjects[name].router_learning_rate(recipe.training)
    found = parameter_groups(model, recipe.training.learning_rate, rate)
    assert {group["name"] for group in found} == set(groups)
    rates = {group["name"]: group["lr"] for group in found}
    assert rates["router"] == 0.5 and rates.get("lora", 0.5) == 0.5 and rates.get("matrices", 1e-4) == 1e-4
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if trains == "all":
        assert sum(len(group["params"]) for group in found) == len(names)
        return
    for group in found:
        parts = {part for parameter in group["params"] for part in names[id(parameter)].split(".")}
        assert groups[group["name"]] <= parts


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("kv", {"base": ""}, "names no pretrained model to start from; give --from MODEL"),
        ("kv", {"base": "nowhere"}, "nowhere: no such folder"),
        ("kv", {"sequence_length": "128"}, "its context of 64 tokens is less than data.sequence_length=128"),
        (
            "lora",
            {"lora_targets": '["c_attn"]', "lora_layers": "[]"},
            "lora_targets: unknown projection 'c_attn'; allow",
        ),
        ("lora", {"lora_targets": '["v_pro"]'}, "lora_targets: unknown projection 'v_pro'; did you mean 'v_proj'?"),
        ("lora", {"lora_layers": "[1, 3]"}, "lora_layers: there is no layer 3; allowed: 0 to 2"),
    ],
)
def test_bad_input_is_refused_before_any_work(setting, model, changes, message):
    recipe, model = recipe_of(setting, model, **changes)
    with pytest.raises(UserError, match="recipe attach, model") as error:
        recipe.subjects[model].check(recipe.data.sequence_length, 300)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trains": "heads"}, "models.kv.trains='heads' must be 'routers' or 'kv' or 'lora' or 'all' or 'nothing'"),
        ({"attach": "none"}, "models.kv: trains='routers' needs routers, not attach='none'"),
        (
            {"attach": "hc"},
            "attach='hc' is unknown; allowed: none, kv, static, dynamic, value-residual",
        ),
        ({"adapter_learning_rate": "0"}, "adapter_learning_rate=0 must be more than 0"),
        ({"adapter_learning_rate": "inf"}, "adapter_learning_rate=inf must be a finite number"),
        ({"routing_sources": "{first = 1}"}, "routing_sources"),
        ({"lora_layers": "[-1]"}, "lora_layers[0]=-1 must be at least 0"),
        ({"lora_rank": "x"}, "lora_rank='x' must be an integer"),
        ({"adapter_learning_rate": "fast"}, "adapter_learning_rate='fast' must be a number"),
        ({"share_kv": "no"}, "share_kv='no' must be true or false"),
        ({"lora_targets": "v_proj"}, "lora_targets='v_proj' must be a list"),
        ({"routing_sources": "2"}, "routing_sources=2 must be a table of fields"),
        ({"hidden_size": "64"}, "unknown field 'hidden_size'"),
    ],
)
def test_values_of_another_type_are_refused(setting, changes, message):
    with pytest.raises(UserError, match="recipe attach") as error:
        recipe_of(setting, "kv", **changes)
    assert message in str(error.value)


def test_data_of_another_tokenizer_is_refused(setting, tmp_path):
    recipe, model = recipe_of(setting, "kv")
    other = prepared(tmp_path / "other", corpus(31), vocab_size=290)
    with pytest.raises(UserError, match="its tokens were made with another tokenizer than"):
        train_model(recipe, model, other, tmp_path / "run")


def test_lora_has_to_be_there_to_be_trained(setting):
    model = built(*recipe_of(setting, "kv"))
    with pytest.raises(UserError, match=r"has no LoRA; put one in with model\.add_adapter"):
        set_trainable(model, "lora")


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("seeds", [[], ["--seeds", "2"]])
def test_the_comparison_from_the_command_line(setting, tmp_path, capsys, seeds):
    base, data = setting
    values = [text for key, value in SMALL.items() for text in (f"--{key}", value)]
    command = ["reproduce", "attach", "--from", base, "--data", str(data), "--out", str(tmp_path / "out")]
    models = ["--models", "base,scale,kv"]
    assert main([*command, *models, *seeds, *values]) == 0
    printed = capsys.readouterr().out
    assert "no training" in printed and "LIMe KV" in printed
    rows = {name: read_csv(tmp_path / "out" / "figures" / f"{name}.csv") for name in ("results", "against")}
    assert [row["trained_parameters"] for row in rows["results"]] == ["0", "12", "20"]
    assert [(row["model"], row["reference"]) for row in rows["against"]] == [("LIMe KV", "K/V scale per head")]
    trainings = read_summary(tmp_path / "out")["trainings"]
    first, *others = rows["results"]
    assert first["difference"] == ""
    for row in others:
        losses = [entry["eval_loss"] for entry in trainings if entry["label"] == row["model"]]
        assert len(losses) == (2 if seeds else 1)
        mean = sum(losses) / len(losses)
        assert float(row["difference"]) == pytest.approx(mean - float(first["eval_loss"]))
    assert (tmp_path / "out" / "figures" / "differences.png").exists() == bool(seeds)
    assert main([*command, *models, *seeds, *values]) == 0  # complete


def test_one_training_from_the_command_line(setting, tmp_path, capsys):
    base, data = setting
    values = [text for key, value in SMALL.items() for text in (f"--{key}", value)]
    out = tmp_path / "out"
    assert (
        main(["train", "attach", "--model", "kv", "--from", base, "--data", str(data), "--out", str(out), *values]) == 0
    )
    assert "LIMe KV" in capsys.readouterr().out
    assert main(["generate", str(out), "Document 1", "--max-new-tokens", "3"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "attach", "--model", "kv", "--out", "x"], "names no pretrained model"),
        (["train", "attach", "--model", "hc", "--from", "y", "--out", "x"], "unknown model 'hc'; "),
        (["train", "tiny", "--model", "kv", "--from", "y", "--out", "x"], "trains from scratch; --from MODEL is"),
        (["reproduce", "attach", "--from", "y", "--out", "x"], "needs --data"),
        (["plan", "attach", "--model", "kv", "--gpus", "1"], "starts from a pretrained model"),
    ],
)
def test_bad_commands(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_in_bf16_frozen_weights_keep_their_type(setting, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(setting[0]).to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    load_prepared_tokenizer(setting[1]).save_pretrained(tmp_path / "base")
    recipe, model = recipe_of((str(tmp_path / "base"), None), "static", precision="bf16", steps="3")
    kinds = {parameter.dtype for name, parameter in built(recipe, model).named_parameters() if "router" not in name}
    assert kinds == {torch.bfloat16}
    train_model(recipe, model, setting[1], tmp_path / "run")
    loaded = load_model(tmp_path / "run")
    routers = [parameter for name, parameter in loaded.named_parameters() if "router" in name]
    assert all(parameter.dtype == torch.float32 for parameter in routers) and any(p.any() for p in routers)

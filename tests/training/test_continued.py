"""A trained native model goes on training: from the command line, and with limelm's groups in any loop."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import limelm
from limelm.cli import main
from limelm.data.dataset import TokenDataset
from limelm.training import train_model
from tests.recipes import prepared, small_recipe

SHORT = {"steps": 3, "batch_size": 2, "sequence_length": 32, "eval_steps": 3, "save_steps": 3, "warmup_steps": 1}
OPTIONS = [text for key, value in SHORT.items() for text in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("continued") / "tokens")


@pytest.mark.parametrize("name", ["static", "dynamic", "kv", "hc"])
def test_from_the_command_line(data, tmp_path, name, capsys):
    train_model(small_recipe(tmp_path), name, data, tmp_path / "first")
    command = [
        "train",
        "attach",
        "--model",
        "full",
        "--from",
        str(tmp_path / "first"),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "more"),
    ]
    assert main([*command, *OPTIONS, "--learning-rate", "1e-3"]) == 0
    before, after = (AutoModelForCausalLM.from_pretrained(tmp_path / side) for side in ("first", "more"))
    assert type(before) is type(after)
    changed = [not torch.equal(p, q) for p, q in zip(before.parameters(), after.parameters(), strict=True)]
    assert all(changed)
    first, more = (json.loads((tmp_path / side / "result.json").read_text()) for side in ("first", "more"))
    assert more["eval_loss"] < first["eval_loss"]
    rates = json.loads((tmp_path / "more" / "metrics.jsonl").read_text().splitlines()[0])["learning_rate"]
    assert any("router" in group for group in rates) == (name != "hc")
    capsys.readouterr()
    assert main([*command, *OPTIONS, "--learning-rate", "1e-3"]) == 0
    assert "complete, nothing to train" in capsys.readouterr().out


def test_with_the_trainer(data, tmp_path):
    recipe = small_recipe(tmp_path)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(recipe.subjects["static"].config(300))
    optimizer = torch.optim.AdamW(limelm.parameter_groups(model), betas=(0.9, 0.95))
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=2, use_cpu=True, report_to="none", save_strategy="no"
    )
    trainer = Trainer(model, arguments, train_dataset=TokenDataset(data, "train", 32), optimizers=(optimizer, None))
    trainer.train()
    groups = {group["name"]: group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert groups == {"router": 0.0, "matrices": 0.1, "norms_and_biases": 0.0}

import itertools
import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from limelm.data.dataset import TokenDataset, load_prepared_tokenizer
from limelm.errors import UserError
from limelm.training import train_model
from limelm.training.callbacks import MetricsLog
from limelm.training.router_statistics import RouterStatistics
from limelm.training.run import initial_model
from limelm.training.trainer import LimeTrainer, SeededOrder, training_arguments
from tests.recipes import prepared, small_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("data") / "tokens")


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Recording(TokenDataset):
    """Remembers which sequences were asked for."""

    def __getitem__(self, index):
        self.__dict__.setdefault("asked", []).append(index)
        return super().__getitem__(index)


def train(recipe, name, data, folder):
    """Train with the thin Trainer alone; returns the metrics and the order of the sequences."""
    model = initial_model(recipe, name, load_prepared_tokenizer(data))
    train_set = Recording(data, "train", recipe.data.sequence_length)
    folder.mkdir()
    trainer = LimeTrainer(
        recipe,
        run={},
        statistics=RouterStatistics(folder / "routers.jsonl", torch.arange(20)[None]),
        subject=recipe.subjects[name],
        model=model,
        args=training_arguments(recipe, name, folder),
        train_dataset=train_set,
        eval_dataset=TokenDataset(data, "validation", recipe.data.sequence_length),
        callbacks=[MetricsLog(folder / "metrics.jsonl", tokens_per_step=64)],
    )
    trainer.train()
    return read_lines(folder / "metrics.jsonl"), train_set.asked


def test_every_model_sees_the_same_sequences_in_the_same_order(tmp_path, data):
    recipe = small_recipe(tmp_path, ("steps = 4", "steps = 60"), ("eval_steps = 3", "eval_steps = 60"))
    orders = [train(recipe, name, data, tmp_path / name)[1] for name in ("llama", "dynamic")]
    assert orders[0] == orders[1]
    length = len(TokenDataset(data, "train", 32)) // 2 * 2  # full batches of two
    assert len(orders[0]) >= 120 > 2 * length, "this test wants more than two epochs"
    first, second = orders[0][:length], orders[0][length : 2 * length]
    assert len(set(first)) == len(set(second)) == length
    assert first != second != sorted(second)
    other_seed = recipe.with_training(seed=2, steps=5)
    assert train(other_seed, "llama", data, tmp_path / "seed")[1][:10] != orders[0][:10]


def test_the_order_depends_on_seed_and_epoch_alone():
    order = SeededOrder(100, batch_size=1, seed=3)
    torch.manual_seed(1)
    first = list(order)
    torch.manual_seed(2)
    assert first == list(order) and sorted(first) == list(range(100))
    first_epoch = first
    order.set_epoch(1)
    assert first != list(order)
    assert list(SeededOrder(100, batch_size=8, seed=3)) == first_epoch[:96]
    assert first != list(SeededOrder(100, batch_size=1, seed=4))


def test_losses_are_the_models_own_and_every_rate_follows_the_schedule(tmp_path, data):
    recipe = small_recipe(tmp_path, ("steps = 4", "steps = 8"))
    lines, order = train(recipe, "static", data, tmp_path / "run")
    steps = lines
    assert [line["step"] for line in steps] == list(range(1, 9))
    assert [line["step"] for line in lines if "eval_loss" in line] == [3, 6, 8]
    assert [line["tokens"] for line in steps] == [64 * step for step in range(1, 9)]
    assert all(later["seconds"] > sooner["seconds"] for sooner, later in itertools.pairwise(steps))

    model = initial_model(recipe, "static", load_prepared_tokenizer(data))
    train_set = TokenDataset(data, "train", 32)
    batch = torch.stack([train_set[index]["input_ids"] for index in order[:2]])
    logits = model(batch).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch[:, 1:].flatten()).item()
    assert steps[0]["loss"] == pytest.approx(expected, abs=1e-5)

    for line in steps:
        done = line["step"] - 1  # steps before this one
        cosine = 0.5 * (1 + math.cos(math.pi * (done - 2) / 6))
        factor = done / 2 if done < 2 else cosine * (1 - 1e-6) + 1e-6
        assert line["learning_rate"] == pytest.approx(
            {"router": 1e-2 * factor, "matrices": 1e-3 * factor, "norms_and_biases": 1e-3 * factor}
        )


def test_same_seed_same_training(tmp_path, data):
    recipe = small_recipe(tmp_path)
    losses = [
        [line["loss"] for line in train(recipe, "dynamic", data, tmp_path / name)[0] if "loss" in line]
        for name in ("a", "b")
    ]
    assert losses[0] == losses[1]


def test_models_start_from_the_same_shared_values(tmp_path, data):
    recipe, tokenizer = small_recipe(tmp_path), load_prepared_tokenizer(data)
    llama = initial_model(recipe, "llama", tokenizer).state_dict()
    for name in ("hc", "static", "dynamic", "kv"):
        state = initial_model(recipe, name, tokenizer).state_dict()
        shared = [key for key in state if key in llama]
        assert "model.layers.2.self_attn.k_proj.weight" in shared
        assert all(torch.equal(state[key], llama[key]) for key in shared)
        assert state.keys() - llama.keys()


def test_a_diverging_training_stops_and_says_so(tmp_path, data):
    recipe = small_recipe(tmp_path).with_training(learning_rate=1e30, max_grad_norm=1e30, steps=8, warmup_steps=0)
    with pytest.raises(UserError, match=r"training diverged: the (loss|grad_norm) is (nan|inf) at step"):
        train_model(recipe, "llama", data, tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_trained_model_can_be_loaded_and_evaluates_to_its_result(tmp_path, data):
    recipe = small_recipe(tmp_path)
    result = train_model(recipe, "dynamic", data, tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert model.config.use_cache and model.num_parameters() == result.parameters
    validation = TokenDataset(data, "validation", 32)
    with torch.no_grad():
        losses = [
            model(**{key: value[None] for key, value in validation[i].items()}).loss for i in range(len(validation))
        ]
    assert result.eval_loss == pytest.approx(torch.stack(losses).mean().item(), abs=1e-4)
    assert result.eval_perplexity == pytest.approx(math.exp(result.eval_loss))
    train_losses = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "loss" in line]
    assert result.final_train_loss == pytest.approx(sum(train_losses) / 4)
    assert result.train_tokens == 4 * 2 * 32

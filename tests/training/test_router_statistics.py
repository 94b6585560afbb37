import json
import math

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from limelm import LimeConfig, LimeForCausalLM
from limelm.analysis.retrieval import RetrievalWeights, retrieval_weights
from limelm.analysis.retrieval_statistics import layer_statistics, pruning_totals
from limelm.records import build
from limelm.training.jsonl import append_line
from limelm.training.result import Routing
from limelm.training.router_statistics import RouterStatistics, routing_summary
from tests.models.variants import tiny_model, token_ids

BY_HAND = RetrievalWeights(
    "m",
    {
        1: np.array([[0.5, 0.5], [1.0, 0.0]]),
        3: np.array([[0.25, 0.0, 0.25, 0.5], [0.0, 0.0, 0.0, 1.0]]),  # does not read representation 1
    },
    {1: (0, 1), 3: (0, 2, 3)},
    top_p=0.9,
)


def test_statistics_by_hand():
    first, second = layer_statistics(BY_HAND)
    assert first == {
        "layer": 1,
        "entropy": pytest.approx(math.log(2) / 2),
        "normalized_entropy": pytest.approx(0.5),
        "self_weight": 0.25,
        "pruned": 1,
        "weights": 4,
    }
    entropy = 1.5 * math.log(2) / 2  # 2 x 1/4 ln 4 + 1/2 ln 2, and 0
    assert second == {
        "layer": 3,
        "entropy": pytest.approx(entropy),
        "normalized_entropy": pytest.approx(entropy / math.log(3)),
        "self_weight": 0.75,
        "pruned": 2,
        "weights": 6,
    }
    assert pruning_totals([first, second], heads=2, layers=4) == {
        "pruned": 3,
        "weights": 10,
        "padded_weights": 24,
        "pruned_share": 0.3,
        "padded_pruned_share": 0.125,
    }


def test_zeros_that_nothing_pruned_are_not_counted():
    records = layer_statistics(retrieval_weights(tiny_model("kv_identity"), "m"))
    identity = LimeForCausalLM(LimeConfig(**tiny_model("kv_identity").config.to_dict()))
    records += layer_statistics(retrieval_weights(identity, "m"))
    assert [record["pruned"] for record in records] == [0] * 6
    assert [record["self_weight"] for record in records[3:]] == [1] * 3
    assert [record["entropy"] for record in records[3:]] == [0] * 3
    alone = {"first": 0, "last": 1}
    records = layer_statistics(retrieval_weights(tiny_model("static", routing_sources=alone), "m"))
    assert [(record["normalized_entropy"], record["weights"]) for record in records] == [(0, 4)] * 3


@pytest.mark.parametrize(
    ("layers", "weights", "padded", "share"),
    [(32, 4_216, 7_936, 0.088), (64, 16_632, 32_256, 0.103), (128, 66_040, 130_048, 0.111)],
)
def test_totals_are_those_of_table_5(layers, weights, padded, share):
    config = LimeConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=8,
        routing="static",
        routing_top_p=0.9,
    )
    model = LimeForCausalLM(config).train()
    summary = routing_summary(model, token_ids())
    assert (summary["weights"], summary["padded_weights"]) == (weights, padded)
    assert (summary["heads"], summary["num_layers"], len(summary["layers"])) == (8, layers, layers - 1)
    assert summary["pruned_share"] == pytest.approx(share, abs=0.004)  # of an untrained model
    pruned = 0
    for layer in model.model.layers[1:]:
        for row in layer.self_attn.router.weight.detach().double().softmax(-1).tolist():
            mass, kept = 0.0, 0
            for value in sorted(row, reverse=True):
                if mass >= 0.9:
                    break
                mass, kept = mass + value, kept + 1
            pruned += len(row) - kept
    assert abs(summary["pruned"] - pruned) <= 1  # float32 and float64 weights may differ at the very edge
    assert summary["padded_pruned_share"] == summary["pruned"] / padded


@pytest.mark.parametrize("variant", ["static_top_p_gqa", "dynamic", "kv_gqa"])
def test_the_summary_has_the_curves_of_figure_9(variant):
    model = tiny_model(variant)
    summary = json.loads(json.dumps(routing_summary(model, token_ids())))
    layers = retrieval_weights(model, "m", [token_ids()]).layers
    heads = model.config.num_key_value_heads
    padded = np.zeros((4, heads, 4))
    for layer, matrix in layers.items():
        padded[layer, :, : layer + 1] = matrix
    own = [padded[r, :, r].mean() for r in (1, 2, 3)]
    assert summary["self_retrieval"] == {"layer": [1, 2, 3], "weight": pytest.approx(own)}
    later = [padded[max(m, 1) :, :, m].mean() for m in range(4)]
    assert summary["mean_retrieval"] == {"source": [0, 1, 2, 3], "weight": pytest.approx(later)}
    assert summary["top_p"] == (0.7 if variant == "static_top_p_gqa" else None)
    assert (summary["pruned"] > 0) == (variant == "static_top_p_gqa")
    assert [record["layer"] for record in summary["layers"]] == [1, 2, 3]
    assert summary["weights"] == heads * (2 + 3 + 4)


@pytest.mark.parametrize("variant", ["dense_former", "mudd_former", "attention_residuals"])
def test_other_connections_have_the_same_summary(variant):
    """One that `result.json` takes; a MUDDFormer has four rows in a place, and one in the last."""
    model = tiny_model(variant)
    summary = json.loads(json.dumps(routing_summary(model, token_ids())))
    build(Routing, summary, "routing")
    layers = retrieval_weights(model, "m", [token_ids()]).layers
    assert [row["layer"] for row in summary["layers"]] == list(layers)
    assert summary["self_retrieval"]["weight"] == pytest.approx([rows[:, -1].mean() for rows in layers.values()])
    assert summary["top_p"] is None and summary["pruned"] == 0
    entropies = [(rows * -np.log(np.where(rows > 0, rows, 1))).sum(axis=1).mean() for rows in layers.values()]
    assert [row["entropy"] for row in summary["layers"]] == pytest.approx(entropies)


@pytest.mark.parametrize("variant", ["none", "hc_dynamic"])
def test_models_without_routing_have_no_summary(variant):
    assert routing_summary(tiny_model(variant), token_ids()) is None


class Sequences(Dataset):
    def __init__(self, length: int, seed: int):
        self.ids = token_ids(length, 9, seed)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def train(variant, folder, *callbacks, resume=None, **options):
    """Six steps with dropout, so that the random numbers matter; returns the Trainer."""
    torch.manual_seed(3)
    arguments = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "no"} | options
    trainer = Trainer(
        model=tiny_model(variant, attention_dropout=0.2),
        args=TrainingArguments(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=2,
            learning_rate=0.05,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
            **arguments,
        ),
        train_dataset=Sequences(10, 1),
        eval_dataset=Sequences(4, 2),
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("variant", ["static_top_p", "dynamic", "kv_gqa"])
def test_training_is_the_same_to_the_bit_with_and_without(variant, tmp_path):
    statistics = RouterStatistics(tmp_path / "routers.jsonl", token_ids(seed=5))
    trainers = [train(variant, tmp_path), train(variant, tmp_path, statistics)]
    plain, watched = (trainer.model.state_dict() for trainer in trainers)
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    losses = [[line["loss"] for line in trainer.state.log_history if "loss" in line] for trainer in trainers]
    assert losses[0] == losses[1] and len(set(losses[0])) == 6

    lines = read_lines(statistics.path)
    assert [line["step"] for line in lines] == [2, 4, 6]
    summary = routing_summary(trainers[1].model, token_ids(seed=5))
    final = {key: summary[key] for key in ("layers", *pruning_totals(summary["layers"], 4, 4))}
    assert lines[-1] == {"step": 6, **final}
    assert lines[0]["layers"] != lines[-1]["layers"]

    record = lines[-1]["layers"][2]
    metrics = statistics.latest_metrics
    assert metrics["router/entropy/layer_03"] == record["entropy"]
    assert metrics["router/self_weight/layer_03"] == record["self_weight"]
    assert metrics.get("router/pruned_share/layer_03") == (
        record["pruned"] / record["weights"] if variant == "static_top_p" else None
    )
    assert len(metrics) == (9 if variant == "static_top_p" else 6)


class Kill(TrainerCallback):
    """Ends the training as a signal would."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt


def test_a_resumed_training_has_every_line_once(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 3, "eval_steps": 1}
    whole = RouterStatistics(tmp_path / "whole.jsonl", token_ids())
    train("static_top_p", tmp_path, whole, **options)

    path = tmp_path / "routers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        train("static_top_p", tmp_path / "cut", RouterStatistics(path, token_ids()), Kill(), **options)
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3, 4]
    with path.open("a") as stream:
        stream.write('{"step": 5, "layers": [{"la')
    checkpoint = str(tmp_path / "cut" / "out" / "checkpoint-3")
    again = RouterStatistics(path, token_ids())
    trainer = train("static_top_p", tmp_path / "cut", again, resume=checkpoint, eval_on_start=True, **options)
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3, 4, 5, 6]
    assert path.read_text() == whole.path.read_text()
    again.measure(trainer.model, trainer.state)
    trainer.evaluate()
    assert path.read_text() == whole.path.read_text()


def test_reporters_can_have_the_numbers_before_the_callback(tmp_path):
    """As a Trainer's `log` does, which runs before `on_evaluate`."""
    statistics = RouterStatistics(tmp_path / "routers.jsonl", token_ids())

    class Reporting(Trainer):
        def log(self, logs, start_time=None):
            if "eval_loss" in logs:
                logs |= statistics.measure(self.model, self.state)
            super().log(logs, start_time)

    trainer = Reporting(
        model=tiny_model("dynamic"),
        args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True),
        eval_dataset=Sequences(4, 2),
        callbacks=[statistics],
    )
    trainer.evaluate()
    [line] = read_lines(statistics.path)
    assert line["step"] == 0
    assert trainer.state.log_history[-1]["router/entropy/layer_01"] == line["layers"][0]["entropy"]


def test_other_ranks_and_other_models_write_nothing(tmp_path):
    statistics = RouterStatistics(tmp_path / "routers.jsonl", token_ids())
    train("none", tmp_path, statistics)
    assert statistics.latest_metrics == {} and not statistics.path.exists()
    totals = {"pruned": 0, "weights": 4, "padded_weights": 4, "pruned_share": 0.0, "padded_pruned_share": 0.0}
    line = {"step": 9, "layers": [], **totals}
    append_line(statistics.path, line)
    trainer = train("kv", tmp_path, max_steps=1)
    trainer.state.is_world_process_zero = False
    statistics.on_train_begin(trainer.args, trainer.state, trainer.control)
    assert statistics.measure(trainer.model, trainer.state)["router/entropy/layer_01"] > 0
    assert read_lines(statistics.path) == [line]


def test_deep_models_layers_sort_by_name(tmp_path):
    model = LimeForCausalLM(
        LimeConfig(
            vocab_size=97,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=102,
            num_attention_heads=2,
            routing="static",
        )
    )
    statistics = RouterStatistics(tmp_path / "routers.jsonl", token_ids())
    state = train("none", tmp_path, max_steps=1).state
    names = list(statistics.measure(model, state))[::2]
    assert names[0] == "router/entropy/layer_001" and names == sorted(names) and len(names) == 101

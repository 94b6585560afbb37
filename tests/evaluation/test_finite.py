"""A model whose numbers are broken gets no score, whatever kind of task it is asked."""

import math

import pytest
import torch
from lm_eval.api.task import ConfigurableTask

from limelm.errors import UserError
from limelm.evaluation.exact_match import write_continuations
from limelm.evaluation.finite import FiniteLogits
from limelm.evaluation.generated import WORDS
from limelm.evaluation.harness import TaskSettings, language_model, run_task, run_tasks
from limelm.evaluation.loading import LoadedModel
from limelm.evaluation.own_tasks import hub_like
from limelm.evaluation.perplexity import score_path
from limelm.evaluation.suites import SuiteTask
from limelm.evaluation.tasks import LoadedTask
from limelm.loading import load_checkpoint
from tests.evaluation.benchmarks import write_checkpoint


def a_weight_that_is_no_number(model):
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = math.nan


def an_infinite_weight(model):
    model.model.norm.weight.data[0] = math.inf


def one_token_of_the_head(model):
    model.get_output_embeddings().weight.data[5] = math.nan


def finite_weights_that_overflow(model):
    model.model.layers[0].mlp.down_proj.weight.data.mul_(1e38)
    model.model.layers[0].mlp.up_proj.weight.data.mul_(1e10)


BREAK = [a_weight_that_is_no_number, an_infinite_weight, one_token_of_the_head, finite_weights_that_overflow]
MEAN = {"aggregation": "mean", "higher_is_better": True}


def task(kind):
    rows = [{"text": " ".join(WORDS[i : i + 5]), "choices": ["apple", "bird"], "gold": i % 2} for i in range(3)]
    definition = {
        "task": kind,
        "custom_dataset": hub_like({"test": rows}),
        "output_type": kind,
        "test_split": "test",
        "doc_to_text": "text",
        "doc_to_target": "gold" if kind == "multiple_choice" else "{{choices[gold]}}",
        "metric_list": [{"metric": "exact_match" if kind == "generate_until" else "acc", **MEAN}],
    }
    if kind == "multiple_choice":
        definition["doc_to_choice"] = "choices"
    if kind == "generate_until":
        definition["generation_kwargs"] = {"max_gen_toks": 4, "until": ["\n"]}
    return LoadedTask(ConfigurableTask(config=definition), SuiteTask(kind, 0))


@pytest.fixture
def checkpoint(tmp_path):
    return load_checkpoint(write_checkpoint(tmp_path / "model", "static"))


@pytest.mark.parametrize("kind", ["multiple_choice", "loglikelihood", "generate_until"])
@pytest.mark.parametrize("break_", [None, *BREAK], ids=lambda function: getattr(function, "__name__", "whole"))
def test_tasks(checkpoint, kind, break_, tmp_path):
    model, tokenizer = checkpoint
    settings, asked = TaskSettings(batch_size=2), task(kind)
    if break_ is None:
        assert len(run_task(language_model(model, tokenizer, 2), asked, settings)["items"]) == 3
        return
    break_(model)
    loaded = LoadedModel("folder", "broken", model, tokenizer, {})
    with pytest.raises(UserError, match=r"^broken: .*(not a finite number|logits are not finite)"):
        run_tasks(loaded, [asked], settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("break_", BREAK)
def test_exact_match_and_text(checkpoint, break_, tmp_path):
    model, tokenizer = checkpoint
    assert len(write_continuations(model, tokenizer, ["apple bird"], 12)) == 1
    break_(model)
    with pytest.raises(UserError, match=r"^seed 3: its logits are not finite"):
        write_continuations(model, tokenizer, ["apple bird"], 12, "seed 3")
    (tmp_path / "text.txt").write_text(" ".join(WORDS[:30]))
    with pytest.raises(UserError, match="not a finite number"):
        score_path(model, tokenizer, tmp_path / "text.txt", 16, 8)


def test_a_token_that_is_ruled_out_is_no_fault():
    logits = torch.tensor([[0.0, -math.inf, 1.0]])
    assert FiniteLogits("model")(torch.zeros(1, 1), logits) is logits


@pytest.mark.parametrize("row", [[0.0, math.nan, 1.0], [0.0, math.inf, 1.0], [-math.inf] * 3, [math.nan] * 3])
def test_logits_of_which_no_token_can_be_chosen(row):
    with pytest.raises(UserError, match=r"^model: its logits are not finite"):
        FiniteLogits("model")(torch.zeros(2, 1), torch.tensor([[0.0, 1.0, 2.0], row]))

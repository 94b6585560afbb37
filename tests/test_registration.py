"""What other libraries look up by a model's name or type finds our models, as it finds Llama."""

import importlib
import logging
import re
import subprocess
import sys
import zipfile
from types import ModuleType

import pytest
import torch
from peft import LNTuningConfig, LoraConfig, get_peft_model
from peft.utils import constants as peft_tables
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, Trainer, TrainingArguments
from transformers.modelcard import TrainingSummary
from transformers.models.auto import modeling_auto

from limelm import registration
from tests.models.variants import MAIN_VARIANTS, TINY, all_variants, main_variants, tiny_model, token_ids

SMOOTHING = 0.3


def smoothed_loss(model: nn.Module, ids: Tensor, labels: Tensor) -> float:
    """The loss on the *next* token, from float64 logits, by a loop: label smoothing as Szegedy et al. define it."""
    logits = model.double()(ids).logits
    losses = []
    for row in range(ids.shape[0]):
        for t in range(ids.shape[1] - 1):
            if (label := int(labels[row, t + 1])) != -100:
                target = torch.full((logits.shape[-1],), SMOOTHING / logits.shape[-1], dtype=torch.float64)
                target[label] += 1 - SMOOTHING
                losses.append(-(target * logits[row, t].log_softmax(-1)).sum())
    return torch.stack(losses).mean().item()


def check_smoothing(model: nn.Module, folder) -> None:
    ids = token_ids()
    labels = ids.clone()
    labels[0, 3:5] = -100
    arguments = TrainingArguments(folder, report_to=[], use_cpu=True, label_smoothing_factor=SMOOTHING)
    with torch.no_grad():
        loss = Trainer(model, arguments).compute_loss(model, {"input_ids": ids, "labels": labels})
        assert loss.item() == pytest.approx(smoothed_loss(model, ids, labels), rel=1e-5)


@all_variants
def test_label_smoothing_is_of_the_next_token(variant, tmp_path):
    check_smoothing(tiny_model(variant), tmp_path)


@main_variants
def test_label_smoothing_under_peft(variant, tmp_path):
    model = get_peft_model(tiny_model(variant), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
    check_smoothing(model.eval(), tmp_path)


@main_variants
def test_the_tables_by_name(variant):
    model = tiny_model(variant)
    model_type = model.config.model_type
    assert modeling_auto.MODEL_MAPPING_NAMES[model_type] == type(model.model).__name__
    assert modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type] == type(model).__name__


def test_the_tables_can_still_be_walked():
    """A name without a module in transformers must not be looked for there."""
    for mapping in (modeling_auto.MODEL_MAPPING, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING):
        ours = [config.model_type for config in mapping if config.__module__.startswith("limelm")]
        assert sorted(ours) == sorted(registration.MODELS)


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny model's folder with a tokenizer, by variant."""

    def make(variant: str):
        tiny_model(variant).save_pretrained(tmp_path)
        words = Tokenizer(WordLevel({f"w{i}": i for i in range(TINY["vocab_size"])}, unk_token="w0"))
        PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w2").save_pretrained(tmp_path)
        return tmp_path

    return make


SMALLEST = pytest.mark.parametrize("variant", ["kv_gqa", "hc_dynamic"])


@SMALLEST
def test_the_harness_knows_a_causal_language_model(variant, checkpoint, caplog):
    lm_eval = pytest.importorskip("lm_eval.models.huggingface")
    with caplog.at_level(logging.WARNING):
        model = lm_eval.HFLM(pretrained=str(checkpoint(variant)), device="cpu", batch_size=1)
    assert model.backend == "causal"
    assert "marked as CausalLM" not in caplog.text


@SMALLEST
def test_a_pipeline_takes_the_model(variant, checkpoint, caplog):
    from transformers import pipeline
    from transformers.utils.logging import get_logger

    logger = get_logger("transformers")
    logger.addHandler(caplog.handler)
    try:
        pipe = pipeline("text-generation", str(checkpoint(variant)), device="cpu")
        assert pipe("w3 w4", max_new_tokens=2)[0]["generated_text"]
    finally:
        logger.removeHandler(caplog.handler)
    assert "not supported" not in caplog.text


@SMALLEST
def test_a_model_card_says_text_generation(variant, tmp_path):
    model = tiny_model(variant)
    trainer = Trainer(model, TrainingArguments(tmp_path, report_to=[], use_cpu=True))
    assert TrainingSummary.from_trainer(trainer, model_name="tiny").tasks == "text-generation"


@main_variants
@pytest.mark.parametrize("kind", [LoraConfig, LNTuningConfig])
def test_every_default_target_of_peft_is_trained(variant, kind):
    """A target that the layers do not call would be accepted and never learn anything."""
    options = {"init_lora_weights": False} if kind is LoraConfig else {}
    model = get_peft_model(tiny_model(variant), kind(task_type="CAUSAL_LM", **options)).train()
    ids = token_ids()
    model(ids, labels=ids).loss.backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    still = [name for name in trained if not model.get_parameter(name).grad.abs().max() > 0]
    assert trained and not still


def test_every_table_of_peft_with_llama_has_our_types_or_says_why_not():
    """What is left out: where a table has only modules that these layers read instead of calling."""
    tables = {name: table for name, table in vars(peft_tables).items() if name.startswith("TRANSFORMERS_MODELS_TO_")}
    with_llama = {name: table for name, table in tables.items() if "llama" in table}
    assert len(with_llama) > 5
    for name, table in with_llama.items():
        assert {model_type for model_type in registration.MODELS if model_type != "lime"} <= table.keys(), name
        assert ("lime" in table) == (set(table["llama"]) - {"k_proj", "v_proj", "input_layernorm"} != set()), name


@pytest.mark.parametrize("order", ["import limelm, peft", "import peft, limelm"])
def test_peft_knows_the_targets_whichever_is_imported_first(order):
    code = f"""
        import sys, importlib.abc
        {order}
        limelm.LimeConfig
        from peft.tuners.lora import LoraModel
        print(LoraModel.target_module_mapping["lime"], LoraModel.target_module_mapping["hyper_connection"])
        print([finder for finder in sys.meta_path if type(finder).__module__.startswith("limelm")])
    """
    code = re.sub(r"^ +", "", code, flags=re.MULTILINE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['q_proj'] ['q_proj', 'v_proj']", "[]"]


def test_modules_of_one_loader_are_told_apart(tmp_path, monkeypatch):
    """All modules of a zip file have the same loader."""
    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as file:
        for name in ("zipped_first", "zipped_second", "zipped_third"):
            file.writestr(f"{name}.py", "")
    monkeypatch.syspath_prepend(tmp_path / "zipped.zip")
    told: list[ModuleType] = []
    hook = registration._AfterImport({"zipped_second": told.append})
    monkeypatch.setattr(sys, "meta_path", [hook, *sys.meta_path])
    first, second, third = (importlib.import_module(f"zipped_{name}") for name in ("first", "second", "third"))
    assert told == [second]
    assert first.__loader__ is second.__loader__ is second.__spec__.loader is third.__loader__
    assert hook not in sys.meta_path


def test_importing_limelm_does_not_import_peft():
    code = "import sys, limelm; limelm.LimeForCausalLM; print('peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("variant", MAIN_VARIANTS)
def test_heads_that_are_not_offered_are_refused(variant, tmp_path):
    tiny_model(variant).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


# What a LoRA can be put into (docs/attach.md)

WITHOUT_ROUTED = ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("variant", "modules"), [("static", 22), ("dynamic", 22), ("kv", 28), ("hc_static", 28), ("dense_former", 28)]
)
def test_all_linear_is_what_layers_call(variant, modules):
    model = get_peft_model(tiny_model(variant), LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"))
    assert sum(hasattr(module, "lora_A") for module in model.modules()) == modules


@pytest.mark.parametrize("variant", ["static_gqa", "static_top_p", "dynamic"])
def test_the_targets_that_remain_merge_exactly(variant):
    model, ids = tiny_model(variant), token_ids()
    with pytest.raises(ValueError, match="HeadwiseLinear"):
        get_peft_model(tiny_model(variant), LoraConfig(target_modules=["q_proj", "v_proj"]))
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=WITHOUT_ROUTED, init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    with torch.no_grad():
        expected = adapted(ids).logits
        assert torch.allclose(adapted.merge_and_unload()(ids).logits, expected, atol=1e-4)


@pytest.mark.parametrize("variant", ["static_gqa", "dynamic"])
def test_keys_and_values_are_trained_whole_where_they_are_called(variant):
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["k_proj", "v_proj"])
    model, ids = get_peft_model(tiny_model(variant, routing_backend="reference"), config).train(), token_ids()
    model(ids, labels=ids).loss.backward()
    trained = [p for name, p in model.named_parameters() if p.requires_grad and "_proj.modules_to_save" in name]
    assert len(trained) == 2 * 4
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in trained)

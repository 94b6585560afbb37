"""Every field of a configuration has a range, and a name that is nearly a field's is not taken in silence."""

import json
import math
import warnings
from dataclasses import fields

import pytest
from transformers import AutoConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedConfig

from limelm import (
    AttentionResidualsConfig,
    DeepCrossAttentionConfig,
    DeltaAttentionResidualsConfig,
    DenseFormerConfig,
    HyperConnectionConfig,
    LimeConfig,
    LimeForCausalLM,
    MUDDFormerConfig,
)
from limelm.models.field_checks import numbers_of
from limelm.registration import MODELS
from tests.models.variants import TINY, all_variants, config_class, tiny_config, tiny_model

ALL = [config_class(model_type) for model_type in MODELS]
NOT_FINITE = (math.nan, math.inf, -math.inf)
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SIZES += ("num_key_value_heads", "head_dim", "max_position_embeddings", "pretraining_tp")
TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
NO_SIZE = (0, -1, 2**62, "8", 8.5, True)
#: Out of range, or of another type, by field.
BAD = {
    **dict.fromkeys(SIZES, NO_SIZE),
    **dict.fromkeys(TOKEN_IDS, (-2, 2**62, "eos", 1.5)),
    "initializer_range": (-0.1, 1.5, "0.02", *NOT_FINITE),
    "rms_norm_eps": (0.0, -1e-6, 1.5, "1e-6", None, *NOT_FINITE),
    "attention_dropout": (-0.1, 1.0, 2, "0.1", *NOT_FINITE),
    "hidden_act": ("silo", "", None, 3),
    "use_cache": (3, "yes"),
    "tie_word_embeddings": ("no", None),
    "attention_bias": (2, "false"),
    "mlp_bias": (2, "false"),
    "dtype": ("float7", "Tensor", 3),
    "num_labels": (-1, 10**12, "2"),
    "id2label": (3, ["a"]),
    "rope_parameters": (3, [], "default"),
}
BAD_ROPE = [
    {"rope_type": "spiral"},
    {"rope_type": ["linear"]},
    {"rope_type": "linear"},
    *[{"rope_type": "default", "rope_theta": theta} for theta in (0.0, -1, "1e4", *NOT_FINITE)],
    *[{"rope_type": "linear", "factor": factor} for factor in (0.0, -2.0, "two", *NOT_FINITE)],
    {"rope_type": "yarn", "factor": 2.0, "beta_fast": math.nan},
    {"rope_type": "longrope", "factor": 2.0, "short_factor": [math.inf] * 4, "long_factor": [1.0] * 4},
]
OWN = {
    LimeConfig: {"routing_top_p": (0, 1.5, "half", *NOT_FINITE), "routing_temperature": (0, 1e-40, *NOT_FINITE)},
    HyperConnectionConfig: {"expansion_rate": NO_SIZE, "dynamic": (2, "yes", None), "connection": (3, "mch", None)},
    DenseFormerConfig: {"period": NO_SIZE, "dilation": NO_SIZE},
    AttentionResidualsConfig: {
        "block_size": NO_SIZE,
        "num_heads": NO_SIZE,
        "softmax_temperature": (0, -1.0, 1e-40, "1", *NOT_FINITE),
        "scale_by_sources": (2, "yes", None),
    },
    DeltaAttentionResidualsConfig: {"block_size": NO_SIZE, "gated": (2, "yes", None)},
    MUDDFormerConfig: {"pre_post_norm": (2, "yes", None)},
    DeepCrossAttentionConfig: {"num_recent": NO_SIZE, "sum_rest": (2, "yes", None)},
}
CASES = [
    *[(cls, name, value) for cls in ALL for name, values in (BAD | OWN.get(cls, {})).items() for value in values],
    *[(LimeConfig, "rope_parameters", rope) for rope in BAD_ROPE],
]


def warned(make) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return [str(entry.message) for entry in caught if entry.category is UserWarning]


@pytest.mark.parametrize(("cls", "name", "value"), CASES, ids=str)
def test_a_bad_value_is_one_line_that_names_field_and_value(cls, name, value):
    value = dict(value) if isinstance(value, dict) else value
    with pytest.raises(ValueError) as error:
        cls(**(TINY | {name: value}))
    message = str(error.value)
    assert "\n" not in message
    assert name in message
    shown = [str(entry) for entry in value.values()] if isinstance(value, dict) else [str(value)]
    assert any(entry in message for entry in shown)


@pytest.mark.parametrize("cls", ALL)
def test_a_bad_value_in_a_file_is_the_same_error(cls, tmp_path):
    cls(**TINY).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    for name, value in (("rms_norm_eps", math.inf), ("intermediate_size", 0), ("hidden_size", "wide")):
        path.write_text(json.dumps(saved | {name: value}))
        with pytest.raises(ValueError, match=f"^{name}={value!r} must be"):
            cls.from_pretrained(tmp_path)


@pytest.mark.parametrize("cls", ALL)
def test_every_number_has_a_range(cls):
    numeric = {"int", "float"}
    ours = [field for field in fields(cls) if field.name not in {field.name for field in fields(PreTrainedConfig)}]
    numbers = [field.name for field in ours if numeric & set(str(field.type).replace("'", " ").split())]
    numbers += [field.name for field in ours if field.type in (int, float)]
    assert {"hidden_size", "rms_norm_eps", "head_dim"} <= set(numbers)
    assert set(numbers) <= set(numbers_of(cls))


def test_odd_heads_are_refused():
    with pytest.raises(ValueError, match="head_dim=3 "):
        LimeConfig(**(TINY | {"head_dim": 3}))


GOOD = [
    {"num_key_value_heads": None, "head_dim": None},
    {"pad_token_id": -1, "eos_token_id": [1, 2], "bos_token_id": None},
    {"rope_theta": 5e5},
    {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e4},
    {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    {"torch_dtype": "bfloat16"},
    {"num_labels": 3},
    {"attention_dropout": 0},
]


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("good", GOOD, ids=str)
def test_what_llama_takes_is_taken_in_silence(cls, good):
    good = json.loads(json.dumps(good))
    assert not warned(lambda: cls(**(TINY | good)))


misspelled = [
    *[(LimeConfig, name, "routing") for name in ("rooting", "routng", "Routing", "rout")],
    (LimeConfig, "routing_topp", "routing_top_p"),
    (LimeConfig, "router_backend", "routing_backend"),
    (LimeConfig, "sources", "routing_sources"),
    (LimeConfig, "expansion_rate", "HyperConnectionConfig"),
    (LimeConfig, "expansion", "HyperConnectionConfig"),
    (HyperConnectionConfig, "dynamc", "dynamic"),
    (HyperConnectionConfig, "expand_rate", "expansion_rate"),
    (HyperConnectionConfig, "routing", "LimeConfig"),
    (HyperConnectionConfig, "routing_init", "LimeConfig"),
    (HyperConnectionConfig, "conection", "connection"),
    *[
        (cls, name, meant)
        for cls in ALL
        for name, meant in (
            ("hiden_size", "hidden_size"),
            ("intermediate_dim", "intermediate_size"),
            ("norm_eps", "rms_norm_eps"),
            ("num_hidden_layer", "num_hidden_layers"),
        )
    ],
]


@pytest.mark.parametrize(("cls", "name", "meant"), misspelled)
def test_a_name_near_a_field_warns_once(cls, name, meant, tmp_path):
    (said,) = warned(lambda: cls(**TINY, **{name: 1}))
    assert cls.__name__ in said and repr(name) in said and meant in said
    cls(**TINY).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: 1}))
    for load in (cls.from_pretrained, AutoConfig.from_pretrained):
        assert warned(lambda load=load: load(tmp_path)) == [said]


def test_a_name_given_while_loading_is_looked_at_too(tmp_path):
    tiny_model("static").save_pretrained(tmp_path)
    (said,) = warned(lambda: LimeConfig.from_pretrained(tmp_path, rooting="kv"))
    assert "'rooting'" in said
    with pytest.raises(TypeError, match="rooting"):
        LimeForCausalLM.from_pretrained(tmp_path, rooting="kv")


def test_a_model_loaded_from_a_misspelled_config_warns_once(tmp_path):
    tiny_model("static").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rooting": "kv"}))
    assert len(warned(lambda: LimeForCausalLM.from_pretrained(tmp_path))) == 1


# What Hugging Face, its older versions and other tools leave in the config.json of Llamas.
FOUND_IN_CHECKPOINTS = """
    _attn_implementation_autoset _name_or_path add_cross_attention attn_implementation auto_map base_model_name_or_path
    bias classifier_dropout cross_attention_hidden_size embedding_multiplier finetuning_task fsdp gradient_checkpointing
    hidden_dropout hidden_dropout_prob is_decoder is_llama_config layer_types logits_scaling mask_token_id
    max_sequence_length max_window_layers model_max_length neftune_noise_alpha original_max_position_embeddings
    pad_token peft_type prefix pruned_heads quantization_config qkv_bias resid_pdrop rope_interleaved sep_token_id
    sliding_window task_specific_params tf_legacy_loss tie_encoder_decoder tie_last_hidden_states tokenizer_class
    torchscript transformers_version trl_version unk_token_id unsloth_fixed unsloth_version use_bfloat16
    use_sliding_window attention_probs_dropout_prob use_flash_attention residual_multiplier
""".split()  # noqa: SIM905


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("name", [*FOUND_IN_CHECKPOINTS, *sorted(vars(GenerationConfig()).keys() - {"use_cache"})])
def test_other_peoples_names_are_silent(cls, name):
    config = cls(**TINY).to_dict() | {name: None}
    assert not warned(lambda: cls.from_dict(config))


@all_variants
def test_own_checkpoints_are_silent(variant, tmp_path):
    tiny_config(variant).save_pretrained(tmp_path)
    assert not warned(lambda: AutoConfig.from_pretrained(tmp_path))


def test_a_llama_checkpoint_is_silent(tmp_path):
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path)
    assert not warned(lambda: LimeForCausalLM.from_pretrained(tmp_path, routing="kv"))

"""What a config refuses, and how its options travel through checkpoints."""

import json

import pytest
from transformers import AutoConfig, BertConfig, GPT2Config, LlamaConfig, LlamaForCausalLM

from limelm import (
    AttentionResidualsConfig,
    DenseFormerConfig,
    HyperConnectionConfig,
    LimeConfig,
    LimeForCausalLM,
    LimeModel,
    registration,
)
from tests.models.entries import ENTRIES
from tests.models.variants import (
    KINDS,
    TINY,
    all_variants,
    causal_lm_class,
    config_class,
    smallest_variants,
    tiny_config,
    tiny_model,
)

ROUTINGS = ("none", "static", "dynamic", "kv", "value_residual", "depth_attention")

BAD_FIELDS = [
    (LimeConfig, {"routing": "statik"}, ["routing", "'statik'", *ROUTINGS]),
    (LimeConfig, {"routing": ""}, ["routing", "''", *ROUTINGS]),
    *[
        (LimeConfig, {"routing_top_p": top_p}, ["routing_top_p", str(top_p), "(0, 1]"])
        for top_p in (0, 0.0, 1.5, -1, float("nan"), float("inf"))
    ],
    *[
        (LimeConfig, {"routing": routing, "routing_top_p": 0.9}, ["routing_top_p", "0.9", repr(routing)])
        for routing in ROUTINGS
        if routing != "static"
    ],
    (LimeConfig, {"routing": "kv", "routing_init": "zero"}, ["routing_init", "'zero'", "paper", "identity"]),
    *[
        (LimeConfig, {"routing_backend": backend}, [f"routing_backend={backend!r}", "auto, reference, chunked, triton"])
        for backend in ("fast", None, 3, [])
    ],
    *[
        (LimeConfig, {"routing_sources": bounds}, [f"routing_sources={bounds!r}", '{"first": m, "last": n}'])
        for bounds in ("first", "", 0, 2.0, [2, 1], {"first": 1})
    ],
    *[
        (LimeConfig, {"routing": routing, "routing_init": "identity"}, ["routing_init", "'identity'", repr(routing)])
        for routing in ("none", "static", "dynamic", "depth_attention")
    ],
    (HyperConnectionConfig, {"expansion_rate": 0}, ["expansion_rate", "0"]),
    (HyperConnectionConfig, {"expansion_rate": -2}, ["expansion_rate", "-2"]),
    (HyperConnectionConfig, {"connection": "mch"}, ["connection", "'mch'", "hc, mhc"]),
    (HyperConnectionConfig, {"connection": "mhc", "dynamic": False}, ["dynamic=False", "connection='hc'", "'mhc'"]),
    (DenseFormerConfig, {"period": 0}, ["period", "0"]),
    (AttentionResidualsConfig, {"num_heads": 3}, ["num_heads=3", "hidden_size=32"]),
    *[
        (config_class(model_type), fields, words)
        for model_type in registration.MODELS
        for fields, words in (
            ({"hidden_size": 30}, ["hidden_size", "30", "num_attention_heads", "4"]),
            ({"num_key_value_heads": 3}, ["num_key_value_heads", "3", "num_attention_heads", "4"]),
            ({"num_key_value_heads": 0}, ["num_key_value_heads", "0"]),
            ({"num_attention_heads": 0}, ["num_attention_heads", "0"]),
        )
    ],
]


def _id(value) -> str:
    return value.model_type if isinstance(value, type) else str(value) if isinstance(value, dict) else ""


@pytest.mark.parametrize(("cls", "fields", "words"), BAD_FIELDS, ids=_id)
def test_bad_field_is_a_clear_value_error(cls, fields, words):
    cls(**TINY)
    with pytest.raises(ValueError) as error:
        cls(**(TINY | fields))
    message = str(error.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{message!r} does not name {missing}"


@pytest.mark.parametrize("top_p", [1e-6, 0.5, 1, 1.0])
def test_good_top_p(top_p):
    assert LimeConfig(**TINY, routing="static", routing_top_p=top_p).routing_top_p == top_p


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"routing": "statik"}, "statik"), ({"routing_top_p": 3.0}, "3.0"), ({"routing_init": "identity"}, "identity")],
    ids=str,
)
def test_bad_override_while_loading_is_a_value_error(fields, word, tmp_path):
    """What is given beside a checkpoint is checked like what is in it."""
    tiny_model("static").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=word):
        LimeForCausalLM.from_pretrained(tmp_path, **fields)
    with pytest.raises(ValueError, match=word):
        LimeConfig.from_pretrained(tmp_path, **fields)


def test_bad_field_in_a_checkpoint_is_a_value_error(tmp_path):
    tiny_model("static").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"routing_top_p": 2.5}))
    with pytest.raises(ValueError, match=r"routing_top_p=2\.5"):
        LimeForCausalLM.from_pretrained(tmp_path)


READABLE = {
    model_type: (model_type,) if model_type == "hyper_connection" else (model_type, "llama")
    for model_type in registration.MODELS
}
FOREIGN = {
    "gpt2": GPT2Config(n_layer=1, n_embd=8, n_head=1),
    "bert": BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1),
}


@pytest.mark.parametrize(
    ("model_class", "model_type"),
    [
        (model_class, model_type)
        for model_class in (LimeModel, *(causal_lm_class(config_class(name)()) for name in registration.MODELS))
        for model_type in (*FOREIGN, "llama", *registration.MODELS)
        if model_type not in READABLE[model_class.config_class.model_type]
    ],
)
def test_a_checkpoint_of_another_kind_is_refused_by_name(model_class, model_type, tmp_path):
    if model_type in FOREIGN:
        FOREIGN[model_type].save_pretrained(tmp_path)
    elif model_type == "llama":
        LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path)
    else:
        tiny_model(smallest_variants()[model_type]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"'{model_type}'") as error:
        model_class.from_pretrained(tmp_path)
    assert all(name in str(error.value) for name in READABLE[model_class.config_class.model_type])
    assert ("connection 'mhc'" in str(error.value)) == (
        (model_class.__name__, model_type) == ("HyperConnectionForCausalLM", "llama")
    )


@all_variants
def test_config_survives_the_disk(variant, tmp_path):
    config = tiny_config(variant, rope_parameters={"rope_type": "linear", "rope_theta": 77.0, "factor": 2.0})
    config.save_pretrained(tmp_path)
    for loaded in (type(config).from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is type(config)
        assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()


@all_variants
def test_config_names_its_classes_for_every_auto_class(variant, tmp_path):
    tiny_model(variant).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    name = registration.MODELS[saved["model_type"]]
    assert saved["auto_map"] == {
        "AutoConfig": f"modeling_limelm.{name}Config",
        "AutoModel": f"modeling_limelm.{name}Model",
        "AutoModelForCausalLM": f"modeling_limelm.{name}ForCausalLM",
    }


def test_a_llama_checkpoint_becomes_a_lime_model(tmp_path):
    """Its config must not go on calling itself a Llama."""
    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(tmp_path / "llama")
    model = LimeForCausalLM.from_pretrained(tmp_path / "llama", routing="kv")
    assert (model.config.model_type, model.config.routing) == ("lime", "kv")
    model.save_pretrained(tmp_path / "lime")
    saved = json.loads((tmp_path / "lime" / "config.json").read_text())
    assert (saved["model_type"], saved["routing"]) == ("lime", "kv")
    assert saved["architectures"] == ["LimeForCausalLM"]


def test_llama_fields_have_llamas_defaults():
    """The options of these models are all that a default config adds to Llama's."""
    llama = LlamaConfig().to_dict()
    for model_type in registration.MODELS:
        added = {n: value for n, value in config_class(model_type)().to_dict().items() if llama.get(n, ...) != value}
        assert added.pop("model_type") == model_type
        assert set(added.pop("auto_map")) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
        assert added == ENTRIES[model_type].options


def test_variants_cover_every_model_and_routing():
    assert {model_type for model_type, _ in KINDS.values()} == registration.MODELS.keys()
    assert {options["routing"] for model_type, options in KINDS.values() if model_type == "lime"} == {*ROUTINGS}

"""The public contract of checkpoints: how many parameters, which names, which shapes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limelm import HyperConnectionConfig, HyperConnectionForCausalLM, LimeConfig, LimeForCausalLM
from tests.models.variants import all_variants, causal_lm_class, entry_of, tiny_config, tiny_model

LARGE = {
    "vocab_size": 50_257,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "tie_word_embeddings": True,
}
DEEP = {
    "vocab_size": 50_257,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "tie_word_embeddings": True,
}
HF_LLAMA, LIME, HC = (
    (LlamaConfig, LlamaForCausalLM),
    (LimeConfig, LimeForCausalLM),
    (HyperConnectionConfig, HyperConnectionForCausalLM),
)
COUNTS = [
    (HF_LLAMA, LARGE, 1_176_735_744),
    (LIME, LARGE | {"routing": "none"}, 1_176_735_744),
    (LIME, LARGE | {"routing": "static"}, 1_176_770_784),
    (LIME, LARGE | {"routing": "static", "routing_top_p": 0.9}, 1_176_770_784),
    (LIME, LARGE | {"routing": "dynamic"}, 1_185_613_824),
    (LIME, LARGE | {"routing": "kv"}, 1_176_873_984),
    (LIME, LARGE | {"routing": "value_residual"}, 1_176_735_744 + 2 * 15),
    (LIME, LARGE | {"routing": "depth_attention"}, 1_176_735_744),
    (HC, LARGE, 1_177_064_256),
    (HC, LARGE | {"connection": "mhc"}, 1_176_735_744 + 2 * 16 * (96 * 2048 + 27) + 4 * 4 * 2048 + 5),
    (HF_LLAMA, LARGE | {"num_key_value_heads": 8}, 1_076_072_448),
    (LIME, LARGE | {"num_key_value_heads": 8, "routing": "none"}, 1_076_072_448),
    (LIME, LARGE | {"num_key_value_heads": 8, "routing": "kv"}, 1_076_081_088),
]
for _layers, _llama, _static in ((32, 46_436_864, 12_152), (64, 80_007_680, 32_760), (128, 147_149_312, 98_552)):
    _deep = DEEP | {"num_hidden_layers": _layers}
    COUNTS.append((LIME, _deep | {"routing": "none"}, _llama))
    COUNTS.append((LIME, _deep | {"routing": "static"}, _llama + _static))


def _name(value) -> str:
    if isinstance(value, dict):
        return "-".join(
            str(value[key]) for key in ("routing", "num_key_value_heads", "num_hidden_layers") if key in value
        )
    return value[0].model_type if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("classes", "fields", "expected"), COUNTS, ids=_name)
def test_parameter_count(classes, fields, expected):
    config_class, model_class = classes
    with torch.device("meta"):
        model = model_class(config_class(**fields))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def expected_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    """The contract, written out: HF Llama's entries and what each model adds or leaves away."""
    config = tiny_config(variant)
    shared = LlamaConfig(**{name: getattr(config, name) for name in LlamaConfig().to_dict() if hasattr(config, name)})
    shapes = {name: tuple(value.shape) for name, value in LlamaForCausalLM(shared).state_dict().items()}
    shapes |= entry_of(variant).shapes(config)
    return {name: shape for name, shape in shapes.items() if shape is not None}


@all_variants
def test_state_dict_names_and_shapes(variant):
    state_dict = tiny_model(variant).state_dict()
    assert {name: tuple(value.shape) for name, value in state_dict.items()} == expected_shapes(variant)


@all_variants
@pytest.mark.parametrize("tied", [True, False])
def test_head_is_tied_as_configured(variant, tied):
    model = tiny_model(variant, tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


@all_variants
def test_no_parameter_is_a_scalar(variant):
    """Sharding (FSDP2) refuses tensors without a dimension."""
    assert all(parameter.ndim >= 1 for parameter in tiny_model(variant).parameters())


@all_variants
def test_a_model_built_on_the_meta_device_runs_after_materialization(variant):
    config = tiny_config(variant)
    with torch.device("meta"):
        model = causal_lm_class(config)(config)
    model.to_empty(device="cpu")
    model.load_state_dict(tiny_model(variant).state_dict())
    model.model.rotary_emb = tiny_model(variant).model.rotary_emb  # its buffers are not part of a state dict
    ids = torch.arange(8)[None]
    assert torch.equal(model.eval()(ids).logits, tiny_model(variant)(ids).logits)

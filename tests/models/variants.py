"""Every kind of model, tiny, in one list: the suites here are parametrized over it."""

import zlib

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel

import limelm
from limelm.registration import CLASSES

TINY = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": None,  # generation runs to the asked length
}

LIME_VARIANTS = {
    "none": {"routing": "none"},
    "none_gqa": {"routing": "none", "num_key_value_heads": 2},
    "static": {"routing": "static"},
    "static_gqa": {"routing": "static", "num_key_value_heads": 2},
    "static_bias": {"routing": "static", "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "static_top_p": {"routing": "static", "routing_top_p": 0.7},
    "static_top_p_gqa": {"routing": "static", "routing_top_p": 0.7, "num_key_value_heads": 2},
    "dynamic": {"routing": "dynamic"},
    "dynamic_gqa": {"routing": "dynamic", "num_key_value_heads": 2},
    "kv": {"routing": "kv"},
    "kv_gqa": {"routing": "kv", "num_key_value_heads": 2},
    "kv_identity": {"routing": "kv", "routing_init": "identity"},
    "static_apart_gqa": {
        "routing": "static",
        "routing_share_kv": False,
        "routing_share_heads": True,
        "routing_temperature": 0.5,
        "num_key_value_heads": 2,
    },
    "value_residual_gqa": {"routing": "value_residual", "num_key_value_heads": 2},
    "depth_attention_gqa": {"routing": "depth_attention", "num_key_value_heads": 2},
}
HYPER_CONNECTION_VARIANTS = {
    "hc_dynamic": {"dynamic": True},
    "hc_dynamic_gqa": {"dynamic": True, "num_key_value_heads": 2},
    "hc_static": {"dynamic": False, "expansion_rate": 3},
    "mhc_gqa": {"connection": "mhc", "num_key_value_heads": 2},
}
#: Other connections over depth: the model type, and what its configuration has beside the sizes.
OTHERS = {
    "residual_scalars": ("residual_scalars", {"num_key_value_heads": 2}),
    "dense_former": ("dense_former", {"dilation": 2, "num_key_value_heads": 2}),
    "attention_residuals": ("attention_residuals", {"block_size": 3, "num_heads": 2, "num_key_value_heads": 2}),
    "delta_attention_residuals": ("delta_attention_residuals", {"num_key_value_heads": 2}),
    "mudd_former": ("mudd_former", {"num_key_value_heads": 2}),
    "mudd_former_norms": ("mudd_former", {"pre_post_norm": True}),
    "deep_cross_attention": ("deep_cross_attention", {}),
    "deep_cross_attention_recent": ("deep_cross_attention", {"num_recent": 1, "num_key_value_heads": 2}),
}
#: Of every variant the model type and the options.
KINDS: dict[str, tuple[str, dict]] = {
    **{variant: ("lime", options) for variant, options in LIME_VARIANTS.items()},
    **{variant: ("hyper_connection", options) for variant, options in HYPER_CONNECTION_VARIANTS.items()},
    **OTHERS,
}
VARIANTS = list(KINDS)
#: One of each kind of code path, for suites where a run is slow.
MAIN_VARIANTS = ["none", "static_gqa", "static_top_p", "dynamic", "kv_gqa", "hc_dynamic", "hc_static"]
MAIN_VARIANTS += ["dense_former", "attention_residuals"]

all_variants = pytest.mark.parametrize("variant", VARIANTS)
main_variants = pytest.mark.parametrize("variant", MAIN_VARIANTS)


def tiny_config(variant: str, **changes) -> LlamaConfig:
    model_type, options = KINDS[variant]
    return config_class(model_type)(**(TINY | options | changes))


def config_class(model_type: str) -> type[LlamaConfig]:
    return getattr(limelm, CLASSES[model_type][0])


def causal_lm_class(config: LlamaConfig) -> type[PreTrainedModel]:
    return getattr(limelm, CLASSES[config.model_type][2])


def smallest_variants() -> dict[str, str]:
    """One variant of every model type, by type."""
    return {model_type: variant for variant, (model_type, _) in reversed(KINDS.items())}


def tiny_model(variant: str, **changes) -> PreTrainedModel:
    """A model in evaluation mode, every parameter random, so that no initial value (a one, a zero) hides a fault."""
    config = tiny_config(variant, **changes)
    return randomize(causal_lm_class(config)(config)).eval()


@torch.no_grad()
def randomize(model: nn.Module) -> nn.Module:
    """Fill every parameter with random values that depend on its name and shape only."""
    training = model.training
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name and "residual_norm" not in name:
            parameter.copy_(1 + 0.3 * noise)
        elif "router.weight" in name:
            parameter.copy_(0.7 * noise)
        elif name.endswith("connection.output.weight"):
            parameter.copy_(0.05 * noise)
        elif "connection" in name and not name.endswith(("gate", "hidden.weight")):  # whose initial values are drawn
            parameter.add_(0.2 * noise)  # around the initial value, which keeps the streams apart
        elif parameter.ndim == 1:
            parameter.copy_(0.2 * noise)
        else:
            parameter.copy_(noise / parameter.shape[1] ** 0.5)
    return model.train(training)  # what was derived from the weights follows them


def token_ids(batch: int = 2, tokens: int = 9, seed: int = 1) -> Tensor:
    return torch.randint(0, TINY["vocab_size"], (batch, tokens), generator=torch.Generator().manual_seed(seed))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Clones of all gradients by the name of the parameter, frozen ones left out, which are then cleared."""
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad()
    return found


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    """Equal names, and values within `tolerance` of each tensor's largest entry.

    Of what is multiplied before a norm, as coefficients of connections are, gradients nearly cancel: there a hundredth
    of the largest gradient of all is the least that counts.
    """
    assert actual.keys() == expected.keys()
    least = 0.01 * max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        error = (actual[name].double() - gradient.double()).abs().max()
        largest = max(gradient.abs().max().item(), least if "connection" in name else 0)
        assert error <= tolerance * largest, f"gradient of {name}: off by {error:.2e}"

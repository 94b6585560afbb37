"""Every kind of model, tiny, in one list: the suites here are parametrized over it."""

import zlib

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel

import limelm
from limelm.registration import CLASSES
from tests.models.entries import ENTRIES
from tests.models.entries.entry import Entry

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

LIME_VARIANTS = ENTRIES["lime"].variants
#: Of every variant the model type and the options.
KINDS: dict[str, tuple[str, dict]] = {
    variant: (model_type, options)
    for model_type, entry in ENTRIES.items()
    for variant, options in entry.variants.items()
}
#: The variants of models with other connections over depth than LIMe and Hyper-Connections, on `connected.py`.
OTHERS = [variant for variant, (model_type, _) in KINDS.items() if model_type not in ("lime", "hyper_connection")]
VARIANTS = list(KINDS)
#: One of each kind of code path, for suites where a run is slow.
MAIN_VARIANTS = ["none", "static_gqa", "static_top_p", "dynamic", "kv_gqa", "hc_dynamic", "hc_static"]
MAIN_VARIANTS += ["dense_former", "attention_residuals"]

all_variants = pytest.mark.parametrize("variant", VARIANTS)
main_variants = pytest.mark.parametrize("variant", MAIN_VARIANTS)


def tiny_config(variant: str, **changes) -> LlamaConfig:
    model_type, options = KINDS[variant]
    return config_class(model_type)(**(TINY | options | changes))


def entry_of(variant: str) -> Entry:
    return ENTRIES[KINDS[variant][0]]


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

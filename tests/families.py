"""Small random models of many families, as unlike each other as they come."""

import copy

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    PersimmonConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCAB = 61
IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
NO_DROPOUT = {"attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}
MULTI_HEAD = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    **IDS,
}
GROUPED = {**MULTI_HEAD, "num_key_value_heads": 2}
#: Families that routers can be attached to.
ATTACHABLE = {
    "llama": LlamaConfig(**GROUPED, attention_bias=True),
    "mistral": MistralConfig(**GROUPED, sliding_window=4),
    "qwen2": Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": Qwen3Config(**GROUPED, head_dim=12),
    "gemma2": Gemma2Config(**GROUPED, head_dim=12, sliding_window=4),
    "gemma3": Gemma3TextConfig(**GROUPED, head_dim=12, sliding_window=4),
    "olmo2": Olmo2Config(**GROUPED),
    "phi3": Phi3Config(**GROUPED),
    "persimmon": PersimmonConfig(**MULTI_HEAD),
    "gpt_neox": GPTNeoXConfig(**MULTI_HEAD),
    "gpt2": GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=64, **NO_DROPOUT, **IDS),
}
#: And families whose layers and values are found by what they are called, but that take no routers.
CONFIGS = {
    **ATTACHABLE,
    "opt": OPTConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        **IDS,
    ),
    "gpt_neo": GPTNeoConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        attention_types=[[["global"], 3]],
        max_position_embeddings=64,
        **IDS,
    ),
    "bloom": BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=3, n_head=4, **IDS),
}


def family_model(name: str, seed: int = 0, **changes) -> PreTrainedModel:
    """A family's model with other values of its configuration's fields, where it has them."""
    torch.manual_seed(seed)
    config = copy.deepcopy(CONFIGS[name])
    for field, value in changes.items():
        if hasattr(config, field):
            setattr(config, field, value)
    return AutoModelForCausalLM.from_config(config).eval()


def router_parameters(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if "router" in name}


def train_routers(model: PreTrainedModel, seed: int = 1) -> PreTrainedModel:
    """Weights as after a training: nowhere zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in router_parameters(model).values():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens(batch: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randint(1, VOCAB, (batch, length), generator=torch.Generator().manual_seed(0))

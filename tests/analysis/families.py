"""Small random models of other families, whose layers and values are found by what they are called."""

from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PersimmonConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "phi3": Phi3Config(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=0.5),
    "gpt2": GPT2Config(vocab_size=61, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0),
    "gpt_neox": GPTNeoXConfig(**{name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}),
    "opt": OPTConfig(
        vocab_size=61,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "gpt_neo": GPTNeoConfig(
        vocab_size=61,
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        attention_types=[[["global"], 3]],
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "persimmon": PersimmonConfig(**{name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}),
    "bloom": BloomConfig(vocab_size=61, hidden_size=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0),
}


def family_model(name: str) -> PreTrainedModel:
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()

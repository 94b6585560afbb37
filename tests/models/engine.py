"""A serving engine in small, as a test: what it puts in the place of a model's modules shares no class with them."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from limelm.models.llama import Attention
from tests.models.variants import token_ids

LENGTHS = (5, 1, 9)


class EngineAttention(nn.Module):
    """One layer's: knows from outside where the sequences in a flattened batch begin, as engines do."""

    def __init__(self, num_heads: int, num_kv_heads: int):
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.lengths: tuple[int, ...] = ()
        self.calls = 0

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention within each sequence; `[tokens, heads * d]` in and out."""
        self.calls += 1
        query = query.unflatten(-1, (self.num_heads, -1))
        key, value = (x.unflatten(-1, (self.num_kv_heads, -1)) for x in (key, value))
        group = self.num_heads // self.num_kv_heads
        outputs = []
        for Q, K, V in zip(*(x.split(self.lengths) for x in (query, key, value)), strict=True):
            scores = torch.einsum("thd,shd->hts", Q, K.repeat_interleave(group, 1)) * Q.shape[-1] ** -0.5
            future = torch.ones(len(Q), len(Q)).triu(1).bool()
            weights = scores.masked_fill(future, -torch.inf).softmax(-1)
            outputs.append(torch.einsum("hts,shd->thd", weights, V.repeat_interleave(group, 1)).flatten(1))
        return torch.cat(outputs)


def engine_attention(module, query, key, value, attention_mask, scaling, attention_instances=None, **kwargs):
    """What engines register; recent vLLM leaves its instance at the module, all others pass them by layer."""
    assert attention_mask is None  # nobody has built one
    assert scaling == query.shape[-1] ** -0.5
    instance = module.attn if attention_instances is None else attention_instances[module.layer_idx]
    tokens = query.shape[-2]
    return instance(*(states.transpose(1, 2).reshape(tokens, -1) for states in (query, key, value))), None


ALL_ATTENTION_FUNCTIONS.register("engine", engine_attention)


class EngineModule(nn.Module):
    def __init__(self, replaced: nn.Module):
        super().__init__()
        for name, parameter in replaced.named_parameters():
            self.register_parameter(name, nn.Parameter(torch.empty(parameter.shape)))
        self.epsilon = getattr(replaced, "eps", None)


class EngineLinear(EngineModule):
    def forward(self, inputs):
        return inputs @ self.weight.T + getattr(self, "bias", 0)


class EngineNorm(EngineModule):
    def forward(self, x, residual=None):
        assert residual is None
        return x / (x.pow(2).mean(-1, keepdim=True) + self.epsilon).sqrt() * self.weight


class EngineEmbedding(EngineModule):
    def forward(self, ids):
        return self.weight[ids]


def replace(module: nn.Module, norms: bool) -> None:
    """Every `nn.Linear`; the embedding; and, by their class's name, RMSNorms."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, EngineLinear(child))
        elif isinstance(child, nn.Embedding):
            setattr(module, name, EngineEmbedding(child))
        elif norms and type(child).__name__.endswith("RMSNorm"):
            setattr(module, name, EngineNorm(child))
        else:
            replace(child, norms)


def serve(folder: Path, monkeypatch, norms: bool) -> nn.Module:
    """The decoder as an engine makes it: on meta but for its buffers, modules replaced, weights loaded by name."""
    config = AutoConfig.from_pretrained(folder)
    config._attn_implementation = "engine"
    register = nn.Module.register_parameter

    def register_on_meta(module, name, parameter):
        register(module, name, parameter if parameter is None else nn.Parameter(parameter.to("meta")))

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "register_parameter", register_on_meta)
        model = AutoModel.from_config(config, dtype=torch.float32)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
    replace(model, norms)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                setattr(module, name, nn.Parameter(torch.empty_like(parameter, device="cpu")))
    parameters = dict(model.named_parameters())
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.startswith("lm_head."):
            parameters.pop(name.removeprefix("model.")).data.copy_(weight)
    assert not parameters, "not in the checkpoint"
    return model.eval()


def attention_modules(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, Attention)]


def attention_instances(config, lengths=LENGTHS) -> dict[int, EngineAttention]:
    instances = {}
    for layer in range(config.num_hidden_layers):
        instances[layer] = EngineAttention(config.num_attention_heads, config.num_key_value_heads)
        instances[layer].lengths = lengths
    return instances


def flattened() -> tuple[list[Tensor], dict]:
    """Sequences `[1, T]`, and all of them in one row with positions that start again."""
    sequences = [token_ids(1, length, seed) for seed, length in enumerate(LENGTHS)]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    return sequences, {"input_ids": torch.cat(sequences, 1), "position_ids": positions, "use_cache": False}

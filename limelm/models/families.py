"""Find where decoders of other families make their keys and values, by the names of their modules.

Keys and values are *raw* here: what the projection gives, before any norm of theirs and before position embeddings.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from limelm.errors import UserError
from limelm.models.input_norms import MixedInput
from limelm.routing.linear import is_quantized

# What lies where in the output of a fused projection its name and size do not tell: CodeGen's `qkv_proj` and
# GPTBigCode's `c_attn` are as wide as these, and in another order.
QUERIES_KEYS_VALUES = {"gpt2": "c_attn", "phi3": "qkv_proj"}  # all queries, then all keys, then all values
HEAD_BY_HEAD = {"bloom": "query_key_value", "gpt_neox": "query_key_value", "persimmon": "query_key_value"}

#: What attention modules are called.
ATTENTIONS = ("self_attn", "attention", "attn", "self_attention")

#: Keys and values `[..., G, d]` by "key" and "value", as they stand in a projection's output.
Heads = dict[str, Tensor]


@dataclass(frozen=True)
class Projection:
    """A module that makes keys, values or both.

    Attributes:
        name: in its attention module.
        split: takes keys and values `[..., G, d]` out of its output.
        join: puts others in their place, and gives a new output; of the old one it may need what is neither.
        makes: "key" or "value", where it makes nothing else; None for a fused projection.
    """

    name: str
    split: Callable[[Tensor], Heads]
    join: Callable[[Tensor, Heads], Tensor]
    makes: str | None = None


@dataclass(frozen=True)
class AttentionLayer:
    """One layer and its attention module.

    Attributes:
        layer: the whole layer, which is given X_i.
        heads: G, its key/value heads.
        head_dim: d.
        projections: what makes its keys and values.
    """

    layer: nn.Module
    module: nn.Module
    heads: int
    head_dim: int
    projections: tuple[Projection, ...]


def project_heads(projection: Projection, module: nn.Module, which: str, inputs: MixedInput) -> Tensor:
    """Project keys or values, each head from an input of its own.

    Args:
        module: the projection itself. Where its weights are not all there is to it, as in one that LoRA has wrapped, or
            that is quantized or offloaded, it is called with every head's input, which costs G times as much.
        which: "key" or "value".
        inputs: `[..., G, D]`.

    Returns:
        `[..., G, d]`.
    """
    if not is_matrix(module):
        apart = inputs.scaled().movedim(-2, 0)  # [G, ..., D]
        outputs = module(apart.flatten(0, -3)).unflatten(0, apart.shape[:-2])  # bitsandbytes takes three dimensions
        outputs = projection.split(outputs)[which]  # [G, ..., G, d]
        return outputs.diagonal(dim1=0, dim2=-2).transpose(-1, -2)
    weight: Tensor = module.weight.T if isinstance(module, nn.Linear) else module.weight  # type: ignore[assignment]
    W = projection.split(weight)[which].transpose(0, 1)  # [G, D, d]
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    biases = [] if bias is None else [projection.split(bias)[which]]
    mixed = inputs.mixed
    # Of many tokens the gain times W is less work than the gain times Z; but it is kept for the backward, which without
    # a gradient of W needs neither.
    is_kept_for_nothing = torch.is_grad_enabled() and mixed.requires_grad and not W.requires_grad
    if inputs.gain is None or is_kept_for_nothing or mixed.shape[:-2].numel() <= W.shape[2]:
        mixed = inputs.scaled()
    else:
        if inputs.bias is not None:
            biases.append(projection.split(inputs.bias.to(weight.dtype) @ weight)[which])
        W = W * inputs.gain.to(W.dtype).unsqueeze(-1)
    by_head = mixed.flatten(0, -3).transpose(0, 1)  # [G, N, D]
    outputs = torch.bmm(by_head, W.to(mixed.dtype)).transpose(0, 1).view(*mixed.shape[:-1], -1)
    for each in biases:
        outputs = outputs + each.to(outputs.dtype)
    return outputs


def find_decoder(model: PreTrainedModel) -> nn.Module:
    """Find the module that runs the layers.

    Raises:
        UserError: where no list of modules has as many entries as the config names layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    for module in decoder.modules():
        if _list_of(count, module) is not None:
            return module
    raise UserError(f"{type(model).__name__}: no list of {count} decoder layers found in {type(decoder).__name__}")


def find_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Find the decoder layers.

    Raises:
        UserError: where they are not found.
    """
    layers = _list_of(model.config.get_text_config().num_hidden_layers, find_decoder(model))
    assert layers is not None
    return layers


def find_attention_layers(model: PreTrainedModel) -> list[AttentionLayer]:
    """Find the attention modules to which routers can be attached, in the order of the layers.

    Raises:
        UserError: where they, or their keys and values, are not found, or where they differ in shape.
    """
    config = model.config.get_text_config()
    found = [attention_layer(layer, config) for layer in find_layers(model)]
    shapes = {(layer.heads, layer.head_dim) for layer in found}
    if len(shapes) > 1:
        raise UserError(
            f"{type(model).__name__}: its layers have key/value heads of different number or size "
            f"{sorted(shapes)}; routing between layers needs the same in all"
        )
    return found


def attention_layer(layer: nn.Module, config: PreTrainedConfig) -> AttentionLayer:
    """Find the attention module of one decoder layer.

    Args:
        config: of the model.

    Raises:
        UserError: where it, or its keys and values, are not found.
    """
    config = config.get_text_config()
    modules = list(_attentions(layer))
    if not modules:
        raise UserError(f"{type(layer).__name__}: no attention found; looked for {', '.join(ATTENTIONS)}")
    queries = getattr(config, "num_attention_heads", None)
    if queries is None:
        raise UserError(f"model_type {config.model_type!r}: its configuration names no num_attention_heads")
    for module in modules:
        heads = getattr(config, "num_key_value_heads", None) or queries
        head_dim = getattr(module, "head_dim", None) or config.hidden_size // queries
        if all(isinstance(getattr(module, name, None), nn.Module) for name in ("k_proj", "v_proj")):
            projections = tuple(
                Projection(name, partial(_split_alone, which, head_dim), partial(_join_alone, which), which)
                for name, which in (("k_proj", "key"), ("v_proj", "value"))
            )
            _check_width(module, heads, head_dim)
            return AttentionLayer(layer, module, heads, head_dim, projections)
        if name := _fused(module, QUERIES_KEYS_VALUES, config):
            sizes = (queries * head_dim, heads * head_dim, heads * head_dim)
            split, join = partial(_split_blocks, sizes, head_dim), partial(_join_blocks, sizes)
            return AttentionLayer(layer, module, heads, head_dim, (Projection(name, split, join),))
        if name := _fused(module, HEAD_BY_HEAD, config):
            split, join = partial(_split_interleaved, head_dim), partial(_join_interleaved, head_dim)
            return AttentionLayer(layer, module, queries, head_dim, (Projection(name, split, join),))
    known = (f"{name} ({family})" for family, name in (QUERIES_KEYS_VALUES | HEAD_BY_HEAD).items())
    raise UserError(
        f"{type(modules[0]).__name__} of model_type {config.model_type!r}: no keys and values found; looked for k_proj "
        f"and v_proj, {', '.join(known)}"
    )


def is_matrix(module: nn.Module) -> bool:
    """Whether a projection is a plain matrix with an optional bias, and no more."""
    return (
        type(module) in (nn.Linear, Conv1D) and "forward" not in module.__dict__ and not is_quantized(module.weight)  # type: ignore[arg-type]
    )


def _check_width(module: nn.Module, heads: int, head_dim: int) -> None:
    for name in ("k_proj", "v_proj"):
        width = getattr(getattr(module, name), "out_features", None)
        if width not in (None, heads * head_dim):
            raise UserError(
                f"{type(module).__name__}: {name} makes {width} features, not {heads} key/value heads of {head_dim}; "
                "routing needs the same heads in keys and values of all layers"
            )


def _list_of(count: int, parent: nn.Module) -> nn.ModuleList | None:
    lists = (child for child in parent.children() if isinstance(child, nn.ModuleList))
    return next((child for child in lists if len(child) == count), None)


def _attentions(layer: nn.Module) -> Iterator[nn.Module]:
    """Yield a layer's attention, and one that it wraps (GPT-Neo)."""
    module = layer
    while children := [child for name in ATTENTIONS if isinstance(child := getattr(module, name, None), nn.Module)]:
        module = children[0]
        yield module


def _fused(module: nn.Module, layouts: dict[str, str], config: PreTrainedConfig) -> str | None:
    """The name of the fused projection, as in one of the tables; None if there is none."""
    name = layouts.get(config.model_type)
    return name if name is not None and hasattr(module, name) else None


def _split_alone(which: str, head_dim: int, output: Tensor) -> Heads:
    return {which: output.view(*output.shape[:-1], output.shape[-1] // head_dim, head_dim)}


def _join_alone(which: str, output: Tensor, heads: Heads) -> Tensor:
    return heads[which].flatten(-2)


def _split_blocks(sizes: tuple[int, ...], head_dim: int, output: Tensor) -> Heads:
    """Split a fused projection's output that holds all queries, then all keys, then all values."""
    _, key, value = output.split(sizes, dim=-1)
    return {"key": key.unflatten(-1, (-1, head_dim)), "value": value.unflatten(-1, (-1, head_dim))}


def _join_blocks(sizes: tuple[int, ...], output: Tensor, heads: Heads) -> Tensor:
    return torch.cat([output[..., : sizes[0]], heads["key"].flatten(-2), heads["value"].flatten(-2)], dim=-1)


def _split_interleaved(head_dim: int, output: Tensor) -> Heads:
    """Split a fused projection's output that holds for each head its query, key and value."""
    _, key, value = output.unflatten(-1, (-1, 3 * head_dim)).chunk(3, dim=-1)
    return {"key": key, "value": value}


def _join_interleaved(head_dim: int, output: Tensor, heads: Heads) -> Tensor:
    query = output.unflatten(-1, (-1, 3 * head_dim))[..., :head_dim]
    return torch.cat([query, heads["key"], heads["value"]], dim=-1).flatten(-2)

"""Where decoders of other families make their keys and values, found by what their modules are called.

Keys and values are *raw* here: what the projection gives, before any norm of theirs and before position embeddings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from limelm.errors import UserError

LAYERS = ("layers", "h")
ATTENTIONS = ("self_attn", "attention", "attn")

#: Keys and values `[..., G, d]` by "key" and "value", as they stand in a projection's output.
Heads = dict[str, Tensor]


@dataclass(frozen=True)
class Projection:
    """A module that makes keys, values or both.

    Attributes:
        name: in its attention module.
        split: takes keys and values `[..., G, d]` out of its output.
        join: puts others in their place, and gives a new output.
    """

    name: str
    split: Callable[[Tensor], Heads]
    join: Callable[[Tensor, Heads], Tensor]


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


def project_heads(projection: Projection, module: nn.Module, which: str, inputs: Tensor) -> Tensor:
    """Keys or values of each head from an input of its own.

    Args:
        module: the projection itself. Where its weights are not all there is to it, as in one that LoRA has wrapped, it
            is called with every head's input, which costs G times as much.
        which: "key" or "value".
        inputs: `[..., G, D]`.

    Returns:
        `[..., G, d]`.
    """
    if type(module) not in (nn.Linear, Conv1D) or "forward" in module.__dict__:
        outputs = projection.split(module(inputs.movedim(-2, 0)))[which]  # [G, ..., G, d]
        return outputs.diagonal(dim1=0, dim2=-2).transpose(-1, -2)
    weight: Tensor = module.weight.T if isinstance(module, nn.Linear) else module.weight  # type: ignore[assignment]
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    outputs = torch.einsum("...gi,igd->...gd", inputs, projection.split(weight)[which].to(inputs.dtype))
    return outputs if bias is None else outputs + projection.split(bias)[which].to(inputs.dtype)


def find_decoder(model: PreTrainedModel) -> nn.Module:
    """The module that runs the layers.

    Raises:
        UserError: where there is none.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if _child(decoder, LAYERS, nn.ModuleList) is None:
        raise UserError(
            f"{type(model).__name__}: no list of layers found in {type(decoder).__name__}; looked for "
            f"{', '.join(LAYERS)}"
        )
    return decoder


def find_attention_layers(model: PreTrainedModel) -> list[AttentionLayer]:
    """The attention modules of a decoder, the first layer's first.

    Raises:
        UserError: where they, or their keys and values, are not found; or where they differ in shape.
    """
    layers = _child(find_decoder(model), LAYERS, nn.ModuleList)
    config = model.config.get_text_config()
    found = [_attention_layer(layer, config) for layer in layers]
    shapes = {(layer.heads, layer.head_dim) for layer in found}
    if len(shapes) > 1:
        raise UserError(
            f"{type(model).__name__}: its layers have key/value heads of different number or size "
            f"{sorted(shapes)}; routing between layers needs the same in all"
        )
    return found


def _child(parent: nn.Module, names: tuple[str, ...], kind: type[nn.Module] = nn.Module) -> Any:
    """The first of these attributes that is such a module; None where there is none."""
    return next((child for name in names if isinstance(child := getattr(parent, name, None), kind)), None)


def _attention_layer(layer: nn.Module, config) -> AttentionLayer:
    module = _child(layer, ATTENTIONS)
    if module is None:
        raise UserError(f"{type(layer).__name__}: no attention found; looked for {', '.join(ATTENTIONS)}")
    queries = config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or queries
    head_dim = getattr(module, "head_dim", None) or config.hidden_size // queries
    if all(isinstance(getattr(module, name, None), nn.Module) for name in ("k_proj", "v_proj")):
        projections: tuple[Projection, ...] = tuple(
            Projection(name, partial(_split_alone, which, head_dim), partial(_join_alone, which))
            for name, which in (("k_proj", "key"), ("v_proj", "value"))
        )
    elif any(hasattr(module, name) for name in ("qkv_proj", "c_attn")):
        name = "qkv_proj" if hasattr(module, "qkv_proj") else "c_attn"
        sizes = (queries * head_dim, heads * head_dim, heads * head_dim)
        projections = (Projection(name, partial(_split_blocks, sizes, head_dim), partial(_join_blocks, sizes)),)
    elif hasattr(module, "query_key_value"):
        heads = queries
        projections = (
            Projection("query_key_value", partial(_split_interleaved, head_dim), partial(_join_interleaved, head_dim)),
        )
    else:
        raise UserError(
            f"{type(module).__name__}: no keys and values found; looked for k_proj and v_proj, qkv_proj, c_attn, "
            "query_key_value"
        )
    return AttentionLayer(layer, module, heads, head_dim, projections)


def _split_alone(which: str, head_dim: int, output: Tensor) -> Heads:
    return {which: output.unflatten(-1, (-1, head_dim))}


def _join_alone(which: str, output: Tensor, heads: Heads) -> Tensor:
    return heads[which].flatten(-2)


def _split_blocks(sizes: tuple[int, ...], head_dim: int, output: Tensor) -> Heads:
    """Queries, then keys, then values."""
    _, key, value = output.split(sizes, dim=-1)
    return {"key": key.unflatten(-1, (-1, head_dim)), "value": value.unflatten(-1, (-1, head_dim))}


def _join_blocks(sizes: tuple[int, ...], output: Tensor, heads: Heads) -> Tensor:
    return torch.cat([output[..., : sizes[0]], heads["key"].flatten(-2), heads["value"].flatten(-2)], dim=-1)


def _split_interleaved(head_dim: int, output: Tensor) -> Heads:
    """For each head its query, its key and its value."""
    _, key, value = output.unflatten(-1, (-1, 3 * head_dim)).chunk(3, dim=-1)
    return {"key": key, "value": value}


def _join_interleaved(head_dim: int, output: Tensor, heads: Heads) -> Tensor:
    query = output.unflatten(-1, (-1, 3 * head_dim))[..., :head_dim]
    return torch.cat([query, heads["key"], heads["value"]], dim=-1).flatten(-2)

"""`attach` and `detach`: routers in a decoder by hooks alone, so that none of the model's code or names change.

The decoder is given a new history at each forward and hands it to its layers as a keyword, so that it belongs to that
forward: a layer that is run again for its backward, in whatever thread, finds the same. Each attention module takes the
keyword, and its projections find it where the thread keeps it until the attention returns.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm.adapters.families import Projection, find_attention_layers, find_decoder
from limelm.adapters.routers import AttachedRouter, ForwardHistory, Reading
from limelm.errors import UserError
from limelm.routing import check_routing_sources
from limelm.routing.bounds import sources_of_layer

HISTORY = "routing_history"
ROUTER = "router"
ROUTINGS = ("kv",)
_HANDLES = "_routing_handles"
_reading = Reading()


def attach(
    model: PreTrainedModel,
    routing: str = "kv",
    share_kv: bool = True,
    routing_sources: dict[str, int] | None = None,
) -> PreTrainedModel:
    """Put a router into every attention module of a decoder, in place.

    The model computes what it did until the routers are trained. Their parameters, float32, are called
    `...ATTENTION.router.weight`.

    Args:
        model: any Hugging Face decoder with `k_proj` and `v_proj`, or a fused `qkv_proj`, `c_attn` or
            `query_key_value`.
        routing: "kv" (project first, then mix the keys and values of all layers' heads).
        share_kv: one router for keys and values of a layer, as in the native models; else one for each.
        routing_sources: None (a layer reads all earlier ones), or `{"first": m, "last": n}`.

    Returns:
        The model.

    Raises:
        UserError: for an unknown routing, a model that has routers, or a family in which keys and values are not found.
        ValueError: for `routing_sources` that are not understood.
    """
    if routing not in ROUTINGS:
        raise UserError(f"routing={routing!r} is unknown; allowed: {', '.join(ROUTINGS)}")
    check_routing_sources(routing_sources)
    if any(name.split(".")[-1] == ROUTER for name, _ in model.named_modules()):
        raise UserError(f"{type(model).__name__}: has routers already; detach them first")
    layers, decoder = find_attention_layers(model), find_decoder(model)
    handles = [decoder.register_forward_pre_hook(_begin_forward, with_kwargs=True)]
    for index, layer in enumerate(layers):
        router = AttachedRouter(index, sources_of_layer(index, routing_sources), layer.heads, share_kv)
        router.to(next(layer.module.parameters()).device)
        layer.module.add_module(ROUTER, router)
        handles.append(layer.module.register_forward_pre_hook(_begin_attention, with_kwargs=True))
        handles.append(layer.module.register_forward_hook(_end_attention, always_call=True))
        for projection in layer.projections:
            hook = partial(_route, projection)
            handles.append(getattr(layer.module, projection.name).register_forward_hook(hook))
    setattr(decoder, _HANDLES, handles)
    return model


def detach(model: PreTrainedModel) -> PreTrainedModel:
    """Take the routers out again, in place: the model is what it was, to the bit.

    Raises:
        UserError: for a model without routers.
    """
    decoder = find_decoder(model)
    handles = decoder.__dict__.pop(_HANDLES, None)
    if handles is None:
        raise UserError(f"{type(model).__name__}: has no attached routers")
    for handle in handles:
        handle.remove()
    for layer in find_attention_layers(model):
        delattr(layer.module, ROUTER)
    return model


def _begin_forward(decoder: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return arguments, {**keywords, HISTORY: ForwardHistory()}


def _begin_attention(attention: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    keywords = dict(keywords)
    history = keywords.pop(HISTORY, None)
    if history is None:
        raise RuntimeError("routers read what earlier layers left: run the whole decoder, not a layer of it alone")
    _reading.router, _reading.history = attention.router, history  # type: ignore[assignment]
    return arguments, keywords


def _end_attention(attention: nn.Module, arguments: tuple, output: Any) -> None:
    _reading.router = _reading.history = None


def _route(projection: Projection, module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
    router, history = _reading.router, _reading.history
    if router is None or history is None:
        return output  # called by itself, not by its attention
    routed = {which: router(which, heads, history) for which, heads in projection.split(output).items()}
    return projection.join(output, routed)

"""`attach` and `detach`: routers in a decoder by hooks alone, so that none of the model's code or names change.

The decoder is given a new history at each forward and hands it to its layers as a keyword, so that it belongs to that
forward: a layer that is run again for its backward, in whatever thread, finds the same. Each attention module takes the
keyword, and its projections find it where the thread keeps it until the attention returns.
"""

import threading
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm.adapters.families import Projection, find_attention_layers, find_decoder, project_heads
from limelm.adapters.norms import check_input_norm, input_norm
from limelm.adapters.routers import ROUTERS, AttachedRouter, AttachedSpec, ForwardHistory
from limelm.errors import UserError
from limelm.routing import check_routing_sources
from limelm.routing.bounds import sources_of_layer

HISTORY = "routing_history"
ROUTER = "router"
_HANDLES = "_routing_handles"


class _Reading(threading.local):
    """What the attention that is running in this thread has, for its projections."""

    router: AttachedRouter | None = None
    history: ForwardHistory | None = None


_reading = _Reading()


def attach(
    model: PreTrainedModel,
    routing: str = "kv",
    share_kv: bool = True,
    routing_sources: dict[str, int] | None = None,
) -> PreTrainedModel:
    """Put a router into every attention module of a decoder, in place.

    The model computes what it did until the routers are trained: "kv" starts as the identity, "static" and "dynamic"
    behind a closed gate. Their parameters, float32, are called `...ATTENTION.router.*`.

    Args:
        model: any Hugging Face decoder with `k_proj` and `v_proj`, or a fused `qkv_proj`, `c_attn` or
            `query_key_value`.
        routing: "kv" (project first, then mix the keys and values of all layers' heads), or "static" or "dynamic" (mix
            the representations of all layers, then project).
        share_kv: one router for keys and values of a layer, as in the native models; else one for each.
        routing_sources: None (a layer reads all earlier ones), or `{"first": m, "last": n}`.

    Returns:
        The model.

    Raises:
        UserError: for an unknown routing, a model that has routers, or a family in which keys and values, or the norm
            before attention, are not found.
        ValueError: for `routing_sources` that are not understood.
    """
    if routing not in ROUTERS:
        raise UserError(f"routing={routing!r} is unknown; allowed: {', '.join(ROUTERS)}")
    check_routing_sources(routing_sources)
    if any(name.split(".")[-1] == ROUTER for name, _ in model.named_modules()):
        raise UserError(f"{type(model).__name__}: has routers already; detach them first")
    layers, decoder = find_attention_layers(model), find_decoder(model)
    hidden_size = model.config.get_text_config().hidden_size
    if ROUTERS[routing].mixes_representations:
        for layer in layers:
            check_input_norm(layer.layer, hidden_size)
    handles = [decoder.register_forward_pre_hook(_begin_forward, with_kwargs=True)]
    for index, layer in enumerate(layers):
        sources = sources_of_layer(index, routing_sources)
        router = ROUTERS[routing](AttachedSpec(index, sources, hidden_size, layer.heads, share_kv))
        layer.module.add_module(ROUTER, router.to(next(layer.module.parameters()).device))
        if router.mixes_representations:
            keep = partial(_keep_representation, index)
            handles.append(layer.layer.register_forward_pre_hook(keep, with_kwargs=True))
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


def _keep_representation(index: int, layer: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
    X = arguments[0] if arguments else keywords["hidden_states"]
    history = _history(keywords)
    norm = history.norms[index] = input_norm(layer)
    history.units[index] = norm.unit(X)


def _begin_attention(attention: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    _reading.router, _reading.history = attention.router, _history(keywords)  # type: ignore[assignment]
    return arguments, {name: value for name, value in keywords.items() if name != HISTORY}


def _history(keywords: dict[str, Any]) -> ForwardHistory:
    history = keywords.get(HISTORY)
    if history is None:
        raise RuntimeError("routers read what earlier layers left: run the whole decoder, not a layer of it alone")
    return history


def _end_attention(attention: nn.Module, arguments: tuple, output: Any) -> None:
    _reading.router = _reading.history = None


def _route(projection: Projection, module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
    router, history = _reading.router, _reading.history
    if router is None or history is None:
        return output  # called by itself, not by its attention
    routed = {
        which: router(which, heads, history, partial(project_heads, projection, module, which))
        for which, heads in projection.split(output).items()
    }
    return projection.join(output, routed)

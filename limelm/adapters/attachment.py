"""`attach` and `detach`: routers in a decoder by hooks alone, so that none of the model's code or names change.

The decoder is given a new history at each forward and hands it to its layers as a keyword, so that it belongs to that
forward: a layer that is run again for its backward, in whatever thread, finds the same. Each attention module takes the
keyword, and its projections find it where the thread keeps it until the attention returns.
"""

import threading
import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from limelm.adapters.base import ROUTER, Digests, digest_parameters, plain_model
from limelm.adapters.config import AdapterConfig
from limelm.adapters.families import AttentionLayer, Projection, find_attention_layers, find_decoder, project_heads
from limelm.adapters.history import ForwardHistory
from limelm.adapters.norms import check_input_norm, input_norm
from limelm.adapters.routers import ROUTERS, AttachedRouter, AttachedSpec
from limelm.errors import UserError
from limelm.routing import Router
from limelm.routing.bounds import sources_of_layer

HISTORY = "routing_history"
_ATTACHMENT = "_routing_attachment"


class _Reading(threading.local):
    """What the attention that is running in this thread has, for its projections."""

    router: AttachedRouter | None = None
    history: ForwardHistory | None = None


_reading = _Reading()


@dataclass
class _RoutedProjection:
    """The hook on the module that makes a layer's keys or values, whichever that is now: PEFT puts others there."""

    attention: nn.Module
    projection: Projection
    module: nn.Module | None = None
    handle: RemovableHandle | None = None

    def follow(self) -> None:
        """Hook the module that is there."""
        module = getattr(self.attention, self.projection.name)
        if module is not self.module:
            self.remove()
            self.module = module
            self.handle = module.register_forward_hook(partial(_route, self.projection))

    def remove(self) -> None:
        if self.handle is not None:
            self.handle.remove()


@dataclass
class Attachment:
    """What `attach` has put into a decoder, and what it found there.

    Attributes:
        config: what it was told.
        digests: of the model's parameters as they were.
        layers: the decoder's.
    """

    config: AdapterConfig
    digests: Digests
    layers: int
    handles: list[RemovableHandle] = field(default_factory=list)
    projections: list[_RoutedProjection] = field(default_factory=list)


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
        model: any Hugging Face decoder with `k_proj` and `v_proj`, or a fused projection of a family that is known.
        routing: "kv" (project first, then mix the keys and values of all layers' heads), or "static" or "dynamic" (mix
            the representations of all layers, then project); or "scale", which routes nothing and scales each head's
            keys and values, for comparison.
        share_kv: one router for keys and values of a layer, as in the native models; else one for each.
        routing_sources: None (a layer reads all earlier ones), or `{"first": m, "last": n}`.

    Returns:
        The model.

    Raises:
        UserError: for an unknown routing, a model that has routers, or a family in which keys and values, or the norm
            before attention, are not found.
        ValueError: for `routing_sources` that are not understood.
    """
    config = AdapterConfig(routing, share_kv, routing_sources)
    if not isinstance(plain_model(model), PreTrainedModel):
        raise UserError(f"{type(model).__name__}: not a Hugging Face model")
    if any(isinstance(module, Router) for module in model.modules()):
        raise UserError(f"{type(model).__name__}: a native LIMe model, which routes already")
    if attachment_of(model) is not None:
        raise UserError(f"{type(model).__name__}: has routers already; detach them first")
    layers, decoder = find_attention_layers(model), find_decoder(model)
    text_config = model.config.get_text_config()
    if ROUTERS[routing].mixes_representations:
        for layer in layers:
            check_input_norm(layer.layer, text_config)
    attachment = Attachment(config, digest_parameters(model), len(layers))
    attachment.handles.append(decoder.register_forward_pre_hook(_begin_forward, with_kwargs=True))
    for index, layer in enumerate(layers):
        sources = sources_of_layer(index, routing_sources)
        router = ROUTERS[routing](AttachedSpec(index, sources, text_config.hidden_size, layer.heads, share_kv))
        _attach_layer(layer, router, attachment)
    decoder.__dict__[_ATTACHMENT] = attachment
    return model


def _attach_layer(layer: AttentionLayer, router: AttachedRouter, attachment: Attachment) -> None:
    layer.module.add_module(ROUTER, router.to(next(layer.module.parameters()).device))
    if router.mixes_representations:
        keep = partial(_keep_representation, router.spec.layer_idx)
        attachment.handles.append(layer.layer.register_forward_pre_hook(keep, with_kwargs=True))
    attachment.handles.append(layer.module.register_forward_pre_hook(_begin_attention, with_kwargs=True))
    attachment.handles.append(layer.module.register_forward_hook(_end_attention, always_call=True))
    for projection in layer.projections:
        attachment.projections.append(_RoutedProjection(layer.module, projection))
        attachment.projections[-1].follow()


def attachment_of(model: nn.Module) -> Attachment | None:
    """What is attached to a model; None where nothing is."""
    return next((found for module in model.modules() if (found := module.__dict__.get(_ATTACHMENT))), None)


def detach(model: PreTrainedModel) -> PreTrainedModel:
    """Take the routers out again, in place: the model is what it was, to the bit.

    Its own weights stay as they are. Where they have changed since, by training or by an adapter, a warning says so.

    Raises:
        UserError: for a model without routers.
    """
    attachment = required_attachment(model)
    changed = changed_parameters(model, attachment)
    for projection in attachment.projections:
        projection.remove()
    for handle in attachment.handles:
        handle.remove()
    for layer in find_attention_layers(model):
        delattr(layer.module, ROUTER)
    del find_decoder(model).__dict__[_ATTACHMENT]
    if changed:
        warnings.warn(
            f"{len(changed)} weights of the model itself have changed since attach ({changed[0]}, ...) and stay so",
            stacklevel=2,
        )
    return model


def required_attachment(model: nn.Module) -> Attachment:
    """What is attached to a model.

    Raises:
        UserError: where nothing is.
    """
    attachment = attachment_of(model)
    if attachment is None:
        raise UserError(f"{type(model).__name__}: has no attached routers")
    return attachment


def changed_parameters(model: nn.Module, attachment: Attachment) -> list[str]:
    """The model's own parameters that are not what they were when the routers were attached."""
    now = digest_parameters(model)
    return [name for name, digest in attachment.digests.items() if name not in now or not digest.is_same(now[name])]


def _begin_forward(decoder: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    attachment: Attachment = decoder.__dict__[_ATTACHMENT]
    if not torch.compiler.is_compiling():
        for projection in attachment.projections:
            projection.follow()
    return arguments, {**keywords, HISTORY: ForwardHistory(attachment.layers)}


def _keep_representation(index: int, layer: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
    X = arguments[0] if arguments else keywords["hidden_states"]
    history = _history(keywords)
    norm = history.norms[index] = input_norm(layer)
    history.units.keep(index, norm.unit(X))


def _begin_attention(attention: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    history = _history(keywords)
    if history.has_gradients and not torch.is_grad_enabled():
        raise RuntimeError(
            "reentrant gradient checkpointing cuts the gradients to earlier layers off; use "
            "model.gradient_checkpointing_enable({'use_reentrant': False})"
        )
    _reading.router, _reading.history = attention.router, history  # type: ignore[assignment]
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
    _reading.router = _reading.history = None  # for the router may call the projection itself
    routed = {
        which: router(which, heads, history, partial(project_heads, projection, module, which))
        for which, heads in projection.split(output).items()
    }
    _reading.router, _reading.history = router, history
    return projection.join(output, routed)

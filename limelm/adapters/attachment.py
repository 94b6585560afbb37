"""`attach` and `detach`: routers and connections in a decoder by hooks alone; none of its code or names change."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from limelm.adapters.connections import AttachedConnection
from limelm.adapters.history import ForwardHistory
from limelm.adapters.hooks import (
    RoutedProjection,
    hook_attention,
    hook_connection,
    hook_decoder,
    hook_layer,
    let_compilers_see_hooks,
    remove_hooks,
)
from limelm.adapters.kinds import AdapterConfig
from limelm.adapters.parameters import (
    Fingerprints,
    fingerprint_parameters,
    plain_model,
    vocabulary_rows,
)
from limelm.adapters.probe import hands_keywords_on
from limelm.adapters.routers import AttachedRepresentationRouter, AttachedRouter
from limelm.adapters.saving import (
    LOADER,
    forget_saved_routing,
    keep_routers_when_saved,
    save_as_before,
    saved_vocabulary,
)
from limelm.errors import UserError
from limelm.models.families import AttentionLayer, find_attention_layers, find_decoder, find_layers
from limelm.models.input_norms import check_input_norm
from limelm.models.offload import device_of
from limelm.routing import ROUTER, DepthModule, RouterSpec, routers_in
from limelm.routing.top_p import can_decide

_ATTACHMENT = "_routing_attachment"


@dataclass
class Attachment:
    """The handle of attached routers: what `attach` has put into a decoder, and what it found there.

    Attributes:
        config: what it was told.
        found: fingerprints of the model's parameters as they were.
        base: fingerprints of the base's parameters; others than `found` where tokens had been added to it before.
        vocabulary: how many tokens the base has.
        stack: the name of the decoder's list of layers.
        layers: the decoder's.
    """

    config: AdapterConfig
    found: Fingerprints
    base: Fingerprints
    vocabulary: int
    stack: str
    layers: list[AttentionLayer]
    projections: list[RoutedProjection] = field(default_factory=list)


def attach(
    model: PreTrainedModel,
    routing: str = "kv",
    share_kv: bool = True,
    routing_sources: dict[str, int] | None = None,
) -> PreTrainedModel:
    """Put a router into every attention module of a decoder, or a connection behind every layer, in place.

    The model computes what it did until they are trained, to the bit but for "mhc" (1e-6): "static" and "dynamic" start
    behind a closed gate, the others as the identity. Their parameters, float32, are called `...ATTENTION.router.*`.

    Args:
        model: any Hugging Face decoder with `k_proj` and `v_proj`, or a fused projection of a family that is known.
        routing: "kv" (project first, then mix the keys and values of all layers' heads), or "static" or "dynamic" (mix
            the representations of all layers, then project); "value-residual"; a connection around whole layers:
            "residual-scalars", "dense" (DenseFormer), "attnres", "delta-attnres" (Attention Residuals) or "mhc"; or
            "scale", which routes nothing and scales each head's keys and values, for comparison.
        share_kv: one router for keys and values of a layer, as in the native models; else one for each.
        routing_sources: None (a layer reads all earlier ones), `{"first": m, "last": n}` or `{"every": s, "last": n}`.

    Returns:
        The model.

    Raises:
        UserError: for an unknown routing or an option that it does not have, a model that has routers, or a family in
            which keys and values, or the norm before attention, are not found, or whose layers do not hand keywords on.
        ValueError: for `routing_sources` that are not understood.
    """
    return attach_to_base(model, AdapterConfig(routing, share_kv, routing_sources), None)


def attach_to_base(model: PreTrainedModel, config: AdapterConfig, vocabulary: int | None) -> PreTrainedModel:
    """`attach` to a model to which tokens may have been added.

    Args:
        vocabulary: how many tokens its base has; None takes that of the checkpoint which the model was loaded from,
            where it is there, or else the model's own.
    """
    if not isinstance(plain_model(model), PreTrainedModel):
        raise UserError(f"{type(model).__name__}: not a Hugging Face model")
    if attachment_of(model) is not None:
        raise UserError(f"{type(model).__name__}: has routers already; detach them first")
    if any(routers_in(model)):
        raise UserError(f"{type(model).__name__}: a native LIMe model; its routing is a field of its configuration")
    if issubclass(config.kind, AttachedConnection) and any(isinstance(part, DepthModule) for part in model.modules()):
        raise UserError(f"{type(model).__name__}: has connections of its own between its layers")
    layers, decoder = find_attention_layers(model), find_decoder(model)
    text_config = model.config.get_text_config()
    if issubclass(config.kind, AttachedRepresentationRouter):
        for layer in layers:
            check_input_norm(layer.layer, text_config)
    if not hands_keywords_on(decoder, layers[0].module):
        raise UserError(
            f"{type(plain_model(model)).__name__}: its layers do not hand keywords on to attention, by which routers "
            "are given what earlier layers left"
        )
    attachment = _describe(model, config, vocabulary, layers)
    let_compilers_see_hooks()
    hook_decoder(decoder, _begin_forward)
    for index, layer in enumerate(layers):
        spec = RouterSpec(
            layer_idx=index,
            hidden_size=text_config.hidden_size,
            num_heads=layer.heads,
            head_dim=layer.head_dim,
            sources=config.routing_sources,
            share_kv=config.share_kv,
            is_last=layer is layers[-1],
        )
        _attach_to_layer(layer, config.kind(spec), attachment)
    decoder.__dict__[_ATTACHMENT] = attachment
    keep_routers_when_saved(plain_model(model), config)
    if forget_saved_routing(plain_model(model)):
        warnings.warn(
            f"{model.config.name_or_path}: saved with routers, which from_pretrained has left out and {LOADER} reads",
            stacklevel=3,
        )
    return model


def _describe(
    model: PreTrainedModel, config: AdapterConfig, vocabulary: int | None, layers: list[AttentionLayer]
) -> Attachment:
    found, rows = fingerprint_parameters(model), vocabulary_rows(model)
    if vocabulary is None:
        vocabulary = saved_vocabulary(plain_model(model).config)
    vocabulary = min(vocabulary or rows, rows)
    base = found if vocabulary == rows else fingerprint_parameters(model, vocabulary)
    decoder, stack = find_decoder(model), find_layers(model)
    name = next(name for name, child in decoder.named_children() if child is stack)
    return Attachment(config, found, base, vocabulary, name, layers)


def _attach_to_layer(
    layer: AttentionLayer, router: AttachedRouter | AttachedConnection, attachment: Attachment
) -> None:
    layer.module.add_module(ROUTER, router.to(device_of(layer.module)))
    hook_attention(layer.module)
    if isinstance(router, AttachedConnection):
        hook_connection(layer.layer, layer.module)
        return
    if router.mixes_representations:
        hook_layer(layer.layer, router.spec.layer_idx)
    for projection in layer.projections:
        attachment.projections.append(RoutedProjection(router, layer.module, projection))
        attachment.projections[-1].follow()


def attachment_of(model: nn.Module) -> Attachment | None:
    """The handle of a model's attached routers; None where nothing is attached."""
    return next((found for module in model.modules() if (found := module.__dict__.get(_ATTACHMENT))), None)


def detach(model: PreTrainedModel) -> PreTrainedModel:
    """Take the routers out again, in place: the model is what it was, to the bit.

    Its own weights stay as they are. Where they have changed since, by training or by an adapter, a warning says so.

    Raises:
        UserError: for a model without routers.
    """
    attachment = required_attachment(model)
    changed = changed_parameters(model, attachment.found)
    remove_hooks(model)
    save_as_before(model)
    for layer in attachment.layers:
        delattr(layer.module, ROUTER)
    for module in model.modules():  # the decoder, which is not found any more where layers were cut off since
        module.__dict__.pop(_ATTACHMENT, None)
    if changed:
        warnings.warn(
            f"{len(changed)} weights of the model itself have changed since attach ({changed[0]}, ...) and stay so",
            stacklevel=2,
        )
    return model


def required_attachment(model: nn.Module) -> Attachment:
    """The handle of a model's attached routers.

    Raises:
        UserError: where nothing is.
    """
    attachment = attachment_of(model)
    if attachment is None:
        raise UserError(f"{type(model).__name__}: has no attached routers")
    return attachment


def changed_parameters(model: nn.Module, before: Fingerprints) -> list[str]:
    """The model's own parameters that are not what they were."""
    now = fingerprint_parameters(model)
    return [name for name, fingerprint in before.items() if name not in now or not fingerprint.is_same(now[name])]


def _begin_forward(decoder: nn.Module) -> ForwardHistory:
    attachment: Attachment = decoder.__dict__[_ATTACHMENT]
    if not torch.compiler.is_compiling():
        _check_in_place(decoder, attachment)
        for projection in attachment.projections:
            projection.follow()
    return ForwardHistory(len(attachment.layers), _open_gates(attachment))


def _open_gates(attachment: Attachment) -> list[bool] | None:
    """Ask for each layer whether its gate is open for any head.

    The values are asked each time: what changes weights need not leave a trace.

    Returns:
        None where that is not known, or there are no gates.
    """
    if not issubclass(attachment.config.kind, AttachedRepresentationRouter):
        return None
    if torch.compiler.is_compiling():
        return [False] + [True] * (len(attachment.layers) - 1)  # whose result is not the model's own to the bit anyway
    routers: list[Any] = [next(routers_in(layer.module.router)) for layer in attachment.layers[1:]]  # type: ignore
    gates = [router.gate for router in routers]
    if not gates or not can_decide(gates[0]) or len({(type(gate), gate.is_meta) for gate in gates}) > 1:
        return None
    with torch.no_grad():
        is_open = torch.stack([gate.to(gates[0].device) for gate in gates]).flatten(1).any(dim=1)
    return [False, *is_open.tolist()]


def _check_in_place(decoder: nn.Module, attachment: Attachment) -> None:
    """Refuse a decoder whose layers were moved, or attention modules replaced; its last layers may be cut off."""
    for now, layer in zip(getattr(decoder, attachment.stack), attachment.layers, strict=False):
        if not _is_within(layer.layer, now) or not _is_within(layer.module, layer.layer):
            raise RuntimeError(
                "layers or their attention modules were moved or replaced since routers were attached; detach before, "
                "and attach afterwards"
            )


def _is_within(module: nn.Module, parent: nn.Module) -> bool:
    """Whether a module is another one, or in it."""
    return module is parent or module in parent._modules.values() or module in set(parent.modules())

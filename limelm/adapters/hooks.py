"""The hooks through which routers act in a decoder, and the state that they share during a forward.

The decoder is given a new history at each forward and hands it to its layers as a keyword, so that it belongs to that
forward: a layer that is run again for its backward, in whatever thread, finds the same. Each attention module takes the
keyword, and its projections find it where the thread keeps it until the attention returns.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch._dynamo
from torch import Tensor, nn

from limelm.adapters.history import ForwardHistory
from limelm.adapters.routers import AttachedRepresentationRouter, AttachedRouter, Request
from limelm.models.families import Projection, is_matrix
from limelm.models.input_norms import input_norm

HISTORY = "routing_history"


class _Running(threading.local):
    """The state of the attention that is running in this thread, for its projections to find.

    Attributes:
        turn: its router and its forward's history.
        spared: what the projection that is running was given, where it makes nothing of it.
    """

    turn: tuple[AttachedRouter, ForwardHistory] | None = None
    spared: Tensor | None = None


_running = _Running()


class RoutedProjection:
    """The hooks on the module that makes a layer's keys or values; they follow when another module takes that place.

    PEFT and quantization put other modules there. Some carry the hooks of the old one over, so that what counts is
    which hooks the module has, not which were put there.
    """

    def __init__(self, router: AttachedRouter, attention: nn.Module, projection: Projection):
        self.attention, self.projection = attention, projection
        self.module: nn.Module | None = None
        self.route = partial(_route, projection)
        is_gated = isinstance(router, AttachedRepresentationRouter)
        spares = is_gated and router.has_choice and projection.makes is not None
        self.spare = partial(_spare, router.spec.layer_idx) if spares else None

    def follow(self) -> None:
        """Hook the module that is now in place, once, and none of its submodules."""
        module: nn.Module = getattr(self.attention, self.projection.name)
        if module is self.module and self._is_hooked_once(module):
            return
        for each in (self.module, module):
            if each is not None:
                remove_hooks(each)
        self.module = module
        module.register_forward_hook(self.route)
        if self.spare is not None:
            module.register_forward_pre_hook(self.spare)

    def _is_hooked_once(self, module: nn.Module) -> bool:
        hooks, pre_hooks = list(module._forward_hooks.values()), list(module._forward_pre_hooks.values())
        return sum(map(is_ours, hooks)) == 1 and sum(map(is_ours, pre_hooks)) == int(self.spare is not None)


def let_compilers_see_hooks() -> None:
    """Have `torch.compile` tell models with hooks from those without: it takes them for one, unless it is told."""
    if torch._dynamo.config.skip_nnmodule_hook_guards:
        torch._dynamo.config.skip_nnmodule_hook_guards = False
        torch._dynamo.reset()  # what is compiled already does not ask


def hook_decoder(decoder: nn.Module, begin: Callable[[nn.Module], ForwardHistory]) -> None:
    """Give each forward of a decoder a history.

    Args:
        begin: makes it.
    """
    decoder.register_forward_pre_hook(partial(_begin_forward, begin), with_kwargs=True)


def hook_layer(layer: nn.Module, index: int) -> None:
    """Keep the representation that a layer is given."""
    layer.register_forward_pre_hook(partial(_keep_representation, index), with_kwargs=True)


def hook_connection(layer: nn.Module, attention: nn.Module) -> None:
    """Let the connection that lies in a layer's attention change what the layer hands on."""
    layer.register_forward_hook(partial(_connect, attention), with_kwargs=True)


def hook_attention(attention: nn.Module) -> None:
    """Let an attention's projections find its router and the forward's history."""
    attention.register_forward_pre_hook(_begin_attention, with_kwargs=True)
    attention.register_forward_hook(_end_attention, always_call=True)


def remove_hooks(module: nn.Module) -> None:
    """Remove all hooks of this file from a module and its submodules, copied ones too."""
    for each in module.modules():
        hooks = (each._forward_hooks, each._forward_pre_hooks)
        marks = (
            each._forward_hooks_with_kwargs,
            each._forward_hooks_always_called,
            each._forward_pre_hooks_with_kwargs,
        )
        for key in [key for table in hooks for key, hook in table.items() if is_ours(hook)]:
            for table in (*hooks, *marks):
                table.pop(key, None)


def is_ours(hook: Any) -> bool:
    """Whether a hook belongs to this file."""
    return (hook.func if isinstance(hook, partial) else hook) in _OURS


def _begin_forward(
    begin: Callable[[nn.Module], ForwardHistory], decoder: nn.Module, arguments: tuple, keywords: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    return arguments, {**keywords, HISTORY: begin(decoder)}


def _keep_representation(index: int, layer: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
    X, history = _given(arguments, keywords), _history(keywords)
    norm = history.norms[index] = input_norm(layer)
    history.normalized.keep_normalized(index, X, norm)


def _connect(attention: nn.Module, layer: nn.Module, arguments: tuple, keywords: dict[str, Any], output: Any) -> Any:
    """Change the hidden states that a layer returns, alone or first of a tuple."""
    X, others = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
    history = _history(keywords)
    changed = attention.router(_given(arguments, keywords), X, history.left)  # type: ignore[operator]
    return changed if others is None else (changed, *others)


def _begin_attention(attention: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    history = _history(keywords)
    del keywords[HISTORY]
    if history.has_gradients and not torch.is_grad_enabled():
        raise RuntimeError(
            "reentrant gradient checkpointing cuts the gradients to earlier layers off; use "
            "model.gradient_checkpointing_enable({'use_reentrant': False})"
        )
    _running.turn = attention.router, history  # type: ignore[assignment]
    return arguments, keywords


def _given(arguments: tuple, keywords: dict[str, Any]) -> Tensor:
    """The hidden states that a layer is given."""
    return arguments[0] if arguments else keywords["hidden_states"]


def _history(keywords: dict[str, Any]) -> ForwardHistory:
    history = keywords.get(HISTORY)
    if history is None:
        raise RuntimeError("routers read what earlier layers left: run the whole decoder, not a layer of it alone")
    return history


def _end_attention(attention: nn.Module, arguments: tuple, output: Any) -> None:
    _running.turn = _running.spared = None


def _spare(index: int, module: nn.Module, arguments: tuple) -> tuple | None:
    """Give a projection none of its tokens where nobody will read what it makes of them: no router, no hook."""
    if (
        _running.turn is None
        or not _running.turn[1].replaces(index)
        or not is_matrix(module)
        or len(module._forward_pre_hooks) + len(module._forward_hooks) > 2  # two are ours
        or module._backward_hooks
        or module._backward_pre_hooks
    ):
        return None
    (_running.spared,) = arguments
    return (arguments[0][:0],)


def _route(projection: Projection, module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
    turn, inputs = _running.turn, _running.spared
    if turn is None:
        return output  # called by itself, not by its attention
    _running.turn = _running.spared = None  # for the router may call the projection itself
    heads: Mapping[str, Tensor | None]
    if inputs is None:
        (inputs,), heads = arguments, projection.split(output)
    else:
        heads = {str(projection.makes): None}
    router, history = turn
    routed = {which: router(Request(which, inputs, own, history, projection, module)) for which, own in heads.items()}
    _running.turn = turn
    return projection.join(output, routed)


_OURS = (_begin_forward, _keep_representation, _connect, _begin_attention, _end_attention, _spare, _route)

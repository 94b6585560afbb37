"""The hooks through which routers act in a decoder, and the state that they share during a forward.

The decoder is given a new history at each forward and hands it to its layers as a keyword, so that it belongs to that
forward: a layer that is run again for its backward, in whatever thread, finds the same. Each attention module takes the
keyword, and its projections find it where the thread keeps it until the attention returns.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limelm.adapters.history import ForwardHistory
from limelm.adapters.routers import AttachedRouter
from limelm.models.families import Projection, project_heads
from limelm.models.input_norms import input_norm

HISTORY = "routing_history"


class _Running(threading.local):
    """The router and history of the attention that is running in this thread, for its projections to find."""

    router: AttachedRouter | None = None
    history: ForwardHistory | None = None


_running = _Running()


@dataclass
class RoutedProjection:
    """The hook on the module that makes a layer's keys or values; it follows when another module takes that place.

    PEFT and quantization put other modules there. Some carry the hooks of the old one over, so that what counts is
    which hooks the module has, not which were put there.
    """

    attention: nn.Module
    projection: Projection
    module: nn.Module | None = None

    def follow(self) -> None:
        """Hook the module that is now in place, once, and none of its submodules."""
        module: nn.Module = getattr(self.attention, self.projection.name)
        if module is self.module and sum(map(is_ours, module._forward_hooks.values())) == 1:
            return
        for each in (self.module, module):
            if each is not None:
                remove_hooks(each)
        self.module = module
        module.register_forward_hook(partial(_route, self.projection))


def hook_decoder(decoder: nn.Module, begin: Callable[[nn.Module], ForwardHistory]) -> None:
    """Give each forward of a decoder a history.

    Args:
        begin: makes it.
    """
    decoder.register_forward_pre_hook(partial(_begin_forward, begin), with_kwargs=True)


def hook_layer(layer: nn.Module, index: int) -> None:
    """Keep the representation that a layer is given."""
    layer.register_forward_pre_hook(partial(_keep_representation, index), with_kwargs=True)


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
    X = arguments[0] if arguments else keywords["hidden_states"]
    history = _history(keywords)
    norm = history.norms[index] = input_norm(layer)
    history.normalized.keep(index, norm.normalize(X))


def _begin_attention(attention: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    history = _history(keywords)
    if history.has_gradients and not torch.is_grad_enabled():
        raise RuntimeError(
            "reentrant gradient checkpointing cuts the gradients to earlier layers off; use "
            "model.gradient_checkpointing_enable({'use_reentrant': False})"
        )
    _running.router, _running.history = attention.router, history  # type: ignore[assignment]
    return arguments, {name: value for name, value in keywords.items() if name != HISTORY}


def _history(keywords: dict[str, Any]) -> ForwardHistory:
    history = keywords.get(HISTORY)
    if history is None:
        raise RuntimeError("routers read what earlier layers left: run the whole decoder, not a layer of it alone")
    return history


def _end_attention(attention: nn.Module, arguments: tuple, output: Any) -> None:
    _running.router = _running.history = None


def _route(projection: Projection, module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
    router, history = _running.router, _running.history
    if router is None or history is None:
        return output  # called by itself, not by its attention
    _running.router = _running.history = None  # for the router may call the projection itself
    routed = {
        which: router(which, heads, history, partial(project_heads, projection, module, which))
        for which, heads in projection.split(output).items()
    }
    _running.router, _running.history = router, history
    return projection.join(output, routed)


_OURS = (_begin_forward, _keep_representation, _begin_attention, _end_attention, _route)

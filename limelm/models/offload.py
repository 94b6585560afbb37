"""Weights that accelerate keeps elsewhere and brings when their module is called (`cpu_offload`, `device_map`)."""

from typing import Any

import torch
from torch import Tensor, nn


def own_weights(module: nn.Module, *names: str) -> tuple[Tensor | None, ...]:
    """Parameters of a module, read without calling it; None for one that it does not have."""
    hook = _hook(module)
    if hook is not None:
        hook.pre_forward(module)
    found = tuple(getattr(module, name, None) for name in names)
    if hook is not None:
        hook.post_forward(module, None)
    return found


def kept_elsewhere(module: nn.Module, name: str) -> Tensor | None:
    """The value of a module's own parameter that is not in it; None where it has none, or is there."""
    hook = _hook(module)
    return None if hook is None or name not in hook.weights_map else hook.weights_map[name]


def device_of(module: nn.Module) -> torch.device:
    """Where a module, or one below it, computes."""
    for each in module.modules():
        hook = _hook(each)
        if hook is not None:
            return torch.device(hook.execution_device)
    return next(module.parameters()).device


def _hook(module: nn.Module) -> Any:
    """Accelerate's hook, where it keeps the module's weights elsewhere; of several in a row the one that does."""
    hook: Any = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        if getattr(each, "offload", False) and each.weights_map is not None:
            return each
    return None

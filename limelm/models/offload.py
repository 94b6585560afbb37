"""Access to weights that accelerate has offloaded (`cpu_offload`, `device_map`)."""

from typing import Any

import torch
from torch import Tensor, nn


def own_weights(module: nn.Module, *names: str) -> tuple[Tensor | None, ...]:
    """A module's own parameters, also if offloaded, without calling the module; None for one that it does not have."""
    hook = _hook(module)
    if hook is not None:
        hook.pre_forward(module)
    found = tuple(getattr(module, name, None) for name in names)
    if hook is not None:
        hook.post_forward(module, None)
    return found


def kept_elsewhere(module: nn.Module, name: str) -> Tensor | None:
    """The value of a module's own parameter if it is offloaded; None if it is in place or does not exist."""
    hook = _hook(module)
    return None if hook is None or name not in hook.weights_map else hook.weights_map[name]


def device_of(module: nn.Module) -> torch.device:
    """The device on which a module, or one below it, computes."""
    for each in module.modules():
        hook = _hook(each)
        if hook is not None:
            return torch.device(hook.execution_device)
    return next(module.parameters()).device


def _hook(module: nn.Module) -> Any:
    """The hook of accelerate that offloads a module's weights, if there is one."""
    hook: Any = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        if getattr(each, "offload", False) and each.weights_map is not None:
            return each
    return None

"""Access to weights that accelerate has offloaded (`cpu_offload`, `device_map`)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limelm.routing import parameter_of


def own_weights(module: nn.Module, *names: str) -> tuple[Tensor | None, ...]:
    """A module's own parameters, also if offloaded, without calling the module; None for one that it does not have."""
    return tuple(parameter_of(module, name) if hasattr(module, name) else None for name in names)


def offloaded_parameters(model: nn.Module) -> dict[int, Callable[[], Tensor]]:
    """Functions that fetch the values of offloaded parameters, by the ids of the meta tensors in their places."""
    return {
        id(parameter): partial(hook.weights_map.__getitem__, name)
        for module in model.modules()
        if (hook := _hook(module)) is not None
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.is_meta and name in hook.weights_map
    }


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

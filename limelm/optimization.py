"""Parameter groups for an optimizer, and activation checkpointing, for any training loop."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from limelm.adapters.parameters import lora_parameters
from limelm.errors import UserError
from limelm.records import NotNegative, PositiveFloat, build
from limelm.routing.module import (
    CONNECTION_MATRICES,
    CONNECTIONS,
    ROUTING_PROJECTIONS,
    ROUTING_WEIGHTS,
    DepthModule,
    Rule,
)

MATRICES = Rule("matrices", is_fast=False, decays=True)
VECTORS = Rule("norms_and_biases", is_fast=False, decays=False)
LORA = Rule("lora", is_fast=True, decays=False)
#: In the order of the groups.
RULES = (ROUTING_WEIGHTS, ROUTING_PROJECTIONS, LORA, MATRICES, CONNECTION_MATRICES, VECTORS, CONNECTIONS)
#: Packages in whose modules every parameter is known: matrices decay, vectors do not; and, in modules of anybody's, how
#: the names of such parameters end.
KNOWN_PACKAGES = ("torch", "transformers", "peft")
KNOWN_ENDINGS = ("weight", "bias")


def parameter_groups(
    model: nn.Module,
    learning_rate: float = 1e-3,
    router_learning_rate: float = 1e-2,
    weight_decay: float = 0.1,
    decay: Mapping[str, bool] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for `torch.optim.AdamW`: routers learn faster; routing weights, norms and biases do not decay.

    The paper's Table 3 and the groups of its code, for any model: those of this package, models of other families with
    attached routers or a LoRA, and one's own `nn.Module`, in which matrices decay and vectors do not.

    Args:
        model: its parameters that require gradients are grouped.
        learning_rate: of everything but routers and LoRA.
        router_learning_rate: of routers, native and attached, and of LoRA.
        weight_decay: of matrices: the model's own, projections of dynamic routers, and those of Hyper-Connections.
        decay: whether parameters under names of one's own decay, as in `{"position_table": False}`; a name is the whole
            of a parameter's or its last part.

    Returns:
        Groups of `name`, `params`, `lr` and `weight_decay`; empty ones are left out.

    Raises:
        ValueError: for a rate that is not above 0, a decay below 0, or what is no finite number: AdamW would take them;
            for a parameter of a module of one's own that is no weight or bias and stands not in `decay`; and for a name
            in `decay` that no parameter has.
    """
    rates = {"learning_rate": learning_rate, "router_learning_rate": router_learning_rate, "weight_decay": weight_decay}
    for name, value in rates.items():
        try:
            build(NotNegative if name == "weight_decay" else PositiveFloat, value, "parameter_groups", name)
        except UserError as error:
            raise ValueError(str(error)) from None
    groups: dict[Rule, list[nn.Parameter]] = {rule: [] for rule in RULES}
    for parameter, rule in _rules(model, decay or {}):
        groups.setdefault(rule, []).append(parameter)
    return [
        {
            "name": rule.group,
            "params": parameters,
            "lr": router_learning_rate if rule.is_fast else learning_rate,
            "weight_decay": weight_decay if rule.decays else 0.0,
        }
        for rule, parameters in groups.items()
        if parameters
    ]


def _rules(model: nn.Module, decay: Mapping[str, bool]) -> list[tuple[nn.Parameter, Rule]]:
    """The parameters that are trained, each with its rule."""
    special = connection_rules(model) | {id(parameter): LORA for parameter in lora_parameters(model)}
    known = {
        id(parameter)
        for module in model.modules()
        if type(module).__module__.split(".")[0] in KNOWN_PACKAGES
        for parameter in module.parameters(recurse=False)
    }
    found, unused = [], set(decay)
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        named = next((key for key in (name, last) if key in decay), None)
        unused.discard(named or "")
        if not parameter.requires_grad:
            continue
        if named is not None:
            rule = MATRICES if decay[named] else VECTORS
        elif id(parameter) in special:
            rule = special[id(parameter)]
        elif id(parameter) in known or last.endswith(KNOWN_ENDINGS):
            rule = MATRICES if parameter.ndim > 1 else VECTORS
        else:
            raise ValueError(
                f"{name}: a parameter that is not known here by its name; say whether it decays, as in "
                f"decay={{{last!r}: False}}"
            )
        found.append((parameter, rule))
    if unused:
        raise ValueError(f"decay={sorted(unused)[0]!r}: no parameter has this name")
    return found


def connection_rules(model: nn.Module) -> dict[int, Rule]:
    """The rule of each parameter of a model's connections over depth, by the parameter's id.

    Where one is made of others, what the outer one says holds.
    """
    return {
        id(module.get_parameter(name)): rule
        for module in reversed(list(model.modules()))
        if isinstance(module, DepthModule)
        for name, rule in module.parameter_rules().items()
    }


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep only the layers' inputs for the backward."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})

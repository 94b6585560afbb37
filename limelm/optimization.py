"""The optimizer's parameter groups: each parameter in one, by what it belongs to."""

from torch import nn

from limelm.adapters.parameters import lora_parameters, router_parameters
from limelm.errors import UserError
from limelm.models.hyper_connection.modeling_hyper_connection import HyperConnection
from limelm.records import NotNegative, PositiveFloat, build
from limelm.routing.routers import Router

ROUTER, PROJECTION, LORA = "router", "router_projection", "lora"
MATRICES, CONNECTION_MATRICES = "matrices", "connection_matrices"
VECTORS, CONNECTIONS = "norms_and_biases", "connections"


def parameter_groups(
    model: nn.Module, learning_rate: float = 1e-3, router_learning_rate: float = 1e-2, weight_decay: float = 0.1
) -> list[dict]:
    """Parameter groups for `torch.optim.AdamW`: routers learn faster; routing weights, norms and biases do not decay.

    The paper's Table 3 and the groups of its code, for any model: those of this package, models of other families with
    attached routers or a LoRA, and one's own `nn.Module`, in which matrices decay and vectors do not.

    Args:
        model: its parameters that require gradients are grouped.
        learning_rate: of everything but routers and LoRA.
        router_learning_rate: of routers, native and attached, and of LoRA.
        weight_decay: of matrices: the model's own, projections of dynamic routers, and those of Hyper-Connections.

    Returns:
        Groups of `name`, `params`, `lr` and `weight_decay`; empty ones are left out.

    Raises:
        ValueError: for a rate that is not above 0, a decay below 0, or what is no finite number: AdamW would take them.
    """
    rates = {"learning_rate": learning_rate, "router_learning_rate": router_learning_rate, "weight_decay": weight_decay}
    for name, value in rates.items():
        try:
            build(NotNegative if name == "weight_decay" else PositiveFloat, value, "parameter_groups", name)
        except UserError as error:
            raise ValueError(str(error)) from None
    settings = {
        ROUTER: (router_learning_rate, 0.0),
        PROJECTION: (router_learning_rate, weight_decay),
        LORA: (router_learning_rate, 0.0),
        MATRICES: (learning_rate, weight_decay),
        CONNECTION_MATRICES: (learning_rate, weight_decay),
        VECTORS: (learning_rate, 0.0),
        CONNECTIONS: (learning_rate, 0.0),
    }
    special = _special_parameters(model)
    members: dict[str, list[nn.Parameter]] = {name: [] for name in settings}
    for parameter in model.parameters():
        if parameter.requires_grad:
            ordinary = MATRICES if parameter.ndim > 1 else VECTORS
            members[special.get(id(parameter), ordinary)].append(parameter)
    return [
        {"name": name, "params": members[name], "lr": rate, "weight_decay": decay}
        for name, (rate, decay) in settings.items()
        if members[name]
    ]


def _special_parameters(model: nn.Module) -> dict[int, str]:
    """The group of each parameter that is not of an ordinary layer, by its id."""
    special = {id(parameter): ROUTER for parameter in router_parameters(model).values()}  # attached, by their names
    for module in model.modules():
        if isinstance(module, Router):
            special |= {id(parameter): PROJECTION for parameter in module.parameters()}
            special |= {id(parameter): ROUTER for parameter in module.parameters(recurse=False)}
        elif isinstance(module, HyperConnection):
            for name, parameter in module.named_parameters(recurse=False):
                special[id(parameter)] = CONNECTION_MATRICES if name.startswith("dynamic_") else CONNECTIONS
    return special | {id(parameter): LORA for parameter in lora_parameters(model)}

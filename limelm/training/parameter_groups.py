"""The optimiser's parameter groups: by name, and provably all of the parameters, once each."""

import re
from dataclasses import dataclass

from torch import nn

from limelm.adapters.base import lora_parameters
from limelm.adapters.files import router_parameters
from limelm.training.adapted import AdaptedModel
from limelm.training.recipe import TrainingRecipe


@dataclass(frozen=True)
class Rule:
    """Parameters whose names match `pattern` (the paper's Table 3 and its code's groups)."""

    group: str
    pattern: str
    is_router: bool
    decays: bool


RULES = (
    Rule("router", r"\.router\.weight$", is_router=True, decays=False),
    Rule("router_projection", r"\.router\.proj\.weight$", is_router=True, decays=True),
    Rule("matrices", r"(embed_tokens|lm_head|[a-z]_proj|gate_proj|down_proj|up_proj)\.weight$", False, True),
    Rule("connection_matrices", r"_connection\.dynamic_(alpha|beta)$", False, True),
    Rule("norms_and_biases", r"(norm\.weight|\.bias)$", False, False),
    Rule("connections", r"_connection\.(static_alpha|static_beta|alpha_scale|beta_scale)$", False, False),
)


def parameter_groups(model: nn.Module, recipe: TrainingRecipe) -> list[dict]:
    """The groups for `torch.optim.AdamW`, each with its `name`; empty ones are left out.

    Raises:
        ValueError: for a trainable parameter that no rule or more than one rule matches, by its name.
    """
    groups: dict[str, dict] = {
        rule.group: {
            "name": rule.group,
            "params": [],
            "lr": recipe.router_learning_rate if rule.is_router else recipe.learning_rate,
            "weight_decay": recipe.weight_decay if rule.decays else 0.0,
        }
        for rule in RULES
    }
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matching = [rule.group for rule in RULES if re.search(rule.pattern, name)]
        if len(matching) != 1:
            raise ValueError(f"parameter {name} belongs to {len(matching)} groups {matching}, not to exactly one")
        groups[matching[0]]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def adapted_groups(model: nn.Module, recipe: TrainingRecipe, spec: AdaptedModel) -> list[dict]:
    """The groups of a pretrained model: what was put into it, and its own matrices and vectors, of whatever family."""
    own_rate = spec.adapter_learning_rate or recipe.router_learning_rate
    groups: dict[str, dict] = {
        "router": {"lr": own_rate, "weight_decay": 0.0},
        "lora": {"lr": own_rate, "weight_decay": 0.0},
        "matrices": {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay},
        "norms_and_biases": {"lr": recipe.learning_rate, "weight_decay": 0.0},
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    routers = {id(parameter) for parameter in router_parameters(model).values()}
    lora = {id(parameter) for parameter in lora_parameters(model)}
    for parameter in model.parameters():
        if parameter.requires_grad:
            own = "matrices" if parameter.ndim > 1 else "norms_and_biases"
            group = "router" if id(parameter) in routers else "lora" if id(parameter) in lora else own
            members[group].append(parameter)
    return [{"name": name, "params": members[name], **group} for name, group in groups.items() if members[name]]

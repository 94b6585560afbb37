"""How far training has moved the parameters of connections over depth from where they began.

A connection that stays where it began has shown nothing, whatever its loss: its model is the plain one with other luck.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limelm.optimization import connection_rules
from limelm.records import NotNegative, Positive, Records


@dataclass(frozen=True)
class Movement:
    """The movement of one kind of parameters, over all layers that have it.

    Attributes:
        parameters: their name, with `*` for a layer's number.
        group: of the optimizer, from `DepthModule.parameter_rules`.
        numbers: how many numbers they are.
        start: the norm of all of them before training.
        distance: the norm of what training has added.
    """

    parameters: str
    group: str
    numbers: Positive
    start: NotNegative
    distance: NotNegative


def mixing_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters of a model's connections over depth, by name; empty for a model without any."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter, _ in _mixing(model)}


def movement(model: nn.Module, start: Mapping[str, Tensor]) -> Records:
    """Measure how far the parameters of a model's connections are from `start`, a record of `Movement` per kind.

    Args:
        start: from `mixing_parameters` before training.
    """
    kinds: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
    for name, parameter, group in _mixing(model):
        kind = re.sub(r"(?<=\.)\d+(?=\.)", "*", name.removeprefix("model."))
        pair = (start[name].double(), parameter.detach().cpu().double())
        kinds.setdefault((kind, group), []).append(pair)
    return [
        {
            "parameters": kind,
            "group": group,
            "numbers": sum(before.numel() for before, _ in pairs),
            "start": _norm([before for before, _ in pairs]),
            "distance": _norm([after - before for before, after in pairs]),
        }
        for (kind, group), pairs in kinds.items()
    ]


def _mixing(model: nn.Module) -> list[tuple[str, nn.Parameter, str]]:
    """Name, parameter and optimizer's group of what mixes over depth."""
    rules = connection_rules(model)
    named = model.named_parameters()
    return [(name, parameter, rules[id(parameter)].group) for name, parameter in named if id(parameter) in rules]


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors]).sum().sqrt())

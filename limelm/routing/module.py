"""Modules that say how their parameters begin and how an optimizer treats them."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn


@dataclass(frozen=True)
class Rule:
    """How an optimizer treats some parameters.

    Attributes:
        group: the name of their parameter group.
        is_fast: they learn at the routers' rate, not at the rest's.
        decays: they take part in weight decay.
    """

    group: str
    is_fast: bool
    decays: bool


#: The paper's Table 3 and the groups of its code.
ROUTING_WEIGHTS = Rule("router", is_fast=True, decays=False)
ROUTING_PROJECTIONS = Rule("router_projection", is_fast=True, decays=True)
#: Section 4.1 of the Hyper-Connections paper: what is static does not decay.
CONNECTIONS = Rule("connections", is_fast=False, decays=False)
CONNECTION_MATRICES = Rule("connection_matrices", is_fast=False, decays=True)


class DepthModule(nn.Module):
    """A part of a depth connection: routers, the projections they read, Hyper-Connections."""

    #: Whether its own parameters are trained; set before they are made.
    trainable = True
    #: The rule of all its parameters; a class whose parameters have several says them in `parameter_rules`.
    rule: ClassVar[Rule | None] = None

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Take a parameter in, frozen where this module is: loading puts new ones here, which need gradients."""
        if param is not None and not self.trainable:
            param.requires_grad_(False)
        super().register_parameter(name, param)

    def init_weights(self, std: float = 0.02) -> None:
        """Initialize this module's own parameters, not those of its children.

        Args:
            std: of matrices that are drawn from a normal distribution, `initializer_range` in configurations.
        """

    def parameter_rules(self) -> dict[str, Rule]:
        """The rules of parameters, by their names in this module; those that are not named have an ordinary layer's."""
        return {name: self.rule for name, _ in self.named_parameters()} if self.rule else {}

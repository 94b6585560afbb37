"""A pretrained model, beside which itself is measured with routers attached."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from limelm.adapters import attach, detach
from limelm.adapters.kinds import ATTACHED, AdapterConfig
from limelm.adapters.parameters import router_parameters
from limelm.benchmark.cases import BOUNDED
from limelm.benchmark.shape import Inputs
from limelm.benchmark.workloads import context_of
from limelm.errors import UserError
from limelm.loading import context_length

#: What cases of one routing differ in, by the end of their names.
WAYS: dict[str, dict[str, Any]] = {"": {}, "-separate": {"share_kv": False}, "-bounded": {"routing_sources": BOUNDED}}
#: How routers are attached, and what is compared unless cases are named.
ATTACHED_CASES = {
    f"{name}{suffix}": AdapterConfig(name, **options)
    for suffix, options in WAYS.items()
    for name, kind in ATTACHED.items()
    if options.keys() <= kind.options
}
DEFAULT_ATTACHED_CASES = ["kv", "static", "dynamic"]
HARDLY_TRAINED = 1e-6  # away from where they begin


@dataclass(frozen=True, eq=False)
class AttachedCase:
    """Routers in a pretrained model, or that model alone.

    Attributes:
        base: it stays as it is, on its device: what is measured are copies.
        config: None for the base alone.
    """

    name: str
    base: PreTrainedModel
    inputs: Inputs
    config: AdapterConfig | None

    @property
    def baseline(self) -> "AttachedCase":
        """The base alone."""
        return AttachedCase("base", self.base, self.inputs, None)

    @property
    def parameters(self) -> int:
        """The base's."""
        return self.base.num_parameters()

    def model(self, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
        """A copy of the base, with routers that have hardly been trained: they change next to nothing.

        Gates that are closed would spare a layer the routing that is to be measured.
        """
        model = copy.deepcopy(self.base).to(device=device, dtype=dtype)
        if self.config is None:
            return model
        with torch.no_grad():
            for parameter in router_parameters(attach(model, **asdict(self.config))).values():
                parameter.add_(HARDLY_TRAINED)
        return model

    def bandwidth(self, device: torch.device, dtype: torch.dtype) -> dict[str, float | None]:
        """No bandwidth: attached routing is not one operation."""
        return {}


def attached_cases(
    base: PreTrainedModel, names: Sequence[str], tasks: Sequence[str], inputs: Inputs
) -> list[AttachedCase]:
    """Cases of `ATTACHED_CASES` for a base that can do these tasks.

    Raises:
        UserError: for more tokens than the base reads at once, or a base to which the routers cannot be attached.
    """
    bound = context_length(base.config)
    for task in tasks:
        tokens = context_of(task, inputs)
        if bound is not None and tokens > bound:
            raise UserError(f"--workloads: {task!r}: {tokens} tokens are more than the {bound} that the model reads")
    for name in names:  # now, and not when the cases before have been measured
        detach(attach(base, **asdict(ATTACHED_CASES[name])))
    return [AttachedCase(name, base, inputs, ATTACHED_CASES[name]) for name in names]

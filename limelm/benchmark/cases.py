"""The models that are made for a comparison, by name, each beside LLaMA."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import limelm.models  # noqa: F401, registers the model types
from limelm.benchmark.bandwidth import copy_bandwidth, routing_bandwidth
from limelm.benchmark.shape import SHAPES, Inputs, Shape
from limelm.registration import MODELS
from limelm.routing import ROUTERS, LayerRouter


class Case(Protocol):
    """A model to measure, and the one beside which it is measured."""

    @property
    def name(self) -> str:
        """The name of the case in records."""

    @property
    def inputs(self) -> Inputs:
        """The batch that it is given."""

    @property
    def baseline(self) -> "Case":
        """The case that it is compared with; a baseline's is itself."""

    @property
    def parameters(self) -> int:
        """The number of its parameters at the least, without making it."""

    def model(self, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
        """A model of its own each time: measuring trains it."""

    def bandwidth(self, device: torch.device, dtype: torch.dtype) -> dict[str, float | None]:
        """The routing operation's part of a memory record, in bytes per second."""


@dataclass(frozen=True)
class NativeCase:
    """A model with random weights: its type, its options, and the sizes of all that it is compared with."""

    name: str
    model_type: str = "lime"
    options: dict[str, Any] = field(default_factory=dict)
    is_grouped: bool = False
    inputs: Shape = SHAPES["small"]

    def at(self, shape: Shape) -> "NativeCase":
        """Return the same case at another shape."""
        return dataclasses.replace(self, inputs=shape)

    @property
    def baseline(self) -> "NativeCase":
        """LLaMA with as many key/value heads."""
        return CASES["llama-grouped" if self.is_grouped else "llama"].at(self.inputs)

    @property
    def parameters(self) -> int:
        """The number of LLaMA's parameters: what routing adds is little beside it."""
        return self.inputs.llama_parameters(self.is_grouped)

    def model(self, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
        """A new model with random weights."""
        config = AutoConfig.for_model(self.model_type, **self.inputs.config_fields(self.is_grouped), **self.options)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)

    def bandwidth(self, device: torch.device, dtype: torch.dtype) -> dict[str, float | None]:
        """Bandwidth of the middle layer's routing operation (None if it has none) and of a plain copy."""
        heads = self.inputs.key_value_heads(self.is_grouped)
        routing = (
            routing_bandwidth(self.options, heads, self.inputs, device, dtype) if "routing" in self.options else None
        )
        return {"routing_bytes_per_second": routing, "copy_bytes_per_second": copy_bandwidth(device)}


#: `routing_sources` of the cases NAME-bounded.
BOUNDED = {"first": 2, "last": 1}


def routed_cases(routing: str, router: type[LayerRouter]) -> list[NativeCase]:
    """The cases of one routing: with as many key/value heads as queries and grouped, bounded, and by other backends."""
    options = {"routing": routing}
    cases = [NativeCase(routing, options=options), NativeCase(f"{routing}-grouped", options=options, is_grouped=True)]
    if "routing_sources" in router.options:
        cases.append(NativeCase(f"{routing}-bounded", options=options | {"routing_sources": BOUNDED}))
    for backend in ("reference", "triton") if router.has_fast_path else ():
        cases.append(NativeCase(f"{routing}-{backend}", options=options | {"routing_backend": backend}))
    return cases


#: Model types whose cases bear their name; they are compared where they are asked for.
CONNECTED = [model_type for model_type in MODELS if model_type not in ("lime", "hyper_connection")]
CASES = {
    case.name: case
    for case in [
        NativeCase("llama", "llama"),
        NativeCase("llama-grouped", "llama", is_grouped=True),
        NativeCase("none", options={"routing": "none"}),
        *(case for name, router in ROUTERS.items() if router.routes for case in routed_cases(name, router)),
        NativeCase("top-p", options={"routing": "static", "routing_top_p": 0.9}),
        NativeCase("hc", "hyper_connection"),
        *(NativeCase(model_type, model_type) for model_type in CONNECTED),
        NativeCase("mhc", "hyper_connection", {"connection": "mhc"}),
    ]
}
#: What can be compared with LLaMA, and what is unless cases are named: not the models of later papers.
COMPARED_CASES = [name for name in CASES if CASES[name].model_type != "llama"]
LATER = ("value_residual", "depth_attention", "mhc", *CONNECTED)
DEFAULT_CASES = [
    name for name in COMPARED_CASES if not name.startswith(LATER) and not name.endswith(("-triton", "-bounded"))
]

"""What a forward of any causal language model computes on its way: the residual stream, the values, the routing.

Hidden states are indexed by representation: X_0 is what the first layer reads (the embedded tokens), X_m the residual
stream after layer m - 1, up to X_L, before the final norm. For Hyper-Connections it is the sum of the streams. Values
are what attention mixes: the output of the value projection, after routing where the model routes.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from limelm.errors import UserError
from limelm.models.hyper_connection.modeling_hyper_connection import HyperConnectionDecoderLayer
from limelm.models.retrieval import own_representation, routing_weights_of_call
from limelm.routing import DynamicRouter, HeadwiseLinear, Router

HIDDEN, VALUES, OWN_VALUES = "hidden states", "values", "values before routing"


@dataclass
class Activations:
    """Of one batch, in float32.

    Attributes:
        input_ids: `[B, T]`.
        hidden: X_0 ... X_L, each `[B, T, D]`.
        values: of each layer `[B, T, G d]`, after routing; empty where they cannot be had.
        own_values: the values before routing: the layer's value projection applied to its own input alone; empty for a
            model that does not route.
        routing: of each dynamically routing layer A `[B, T, G, i + 1]`.
    """

    input_ids: Tensor
    hidden: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    own_values: list[Tensor] = field(default_factory=list)
    routing: dict[int, Tensor] = field(default_factory=dict)

    def states(self) -> dict[str, list[Tensor]]:
        """The lists that are not empty, by name."""
        named = {HIDDEN: self.hidden, VALUES: self.values, OWN_VALUES: self.own_values}
        return {name: layers for name, layers in named.items() if layers}


class ActivationReader:
    """Runs a model on token ids and returns its activations.

    Attributes:
        layers: the decoder layers.
        values_missing: why the values cannot be had; None where they can.

    Raises:
        UserError: where the decoder layers are not to be found.
    """

    def __init__(self, model: PreTrainedModel, label: str):
        self.model, self.label = model, label
        self.layers = decoder_layers(model, label)
        self.routers = [next((m for m in layer.modules() if isinstance(m, Router)), None) for layer in self.layers]
        self.values_missing: str | None = None
        self._value_parts: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = []
        if not all(self.routers):
            try:
                self._value_parts = [value_projection(layer, model.config) for layer in self.layers]
            except LookupError as error:
                self.values_missing = str(error)

    @torch.no_grad()
    def __call__(self, input_ids: Tensor) -> Activations:
        """Run the decoder on `[B, T]`, without its head.

        Raises:
            UserError: where an activation is NaN or infinite.
        """
        seen = Activations(input_ids)
        with ExitStack() as hooks:
            for layer in self.layers:
                if layer is self.layers[0]:
                    hooks.callback(layer.register_forward_pre_hook(_keep_input(seen), with_kwargs=True).remove)
                hooks.callback(layer.register_forward_hook(_keep_output(seen)).remove)
            for router in filter(None, self.routers):
                hooks.callback(router.register_forward_hook(_keep_routed(seen)).remove)
            for projection, part in self._value_parts:
                hooks.callback(projection.register_forward_hook(_keep_values(seen, part)).remove)
            self.model.base_model(input_ids=input_ids.to(self.model.device), use_cache=False)
        if not any(router is not None and router.reads for router in self.routers):
            seen.own_values.clear()  # the model does not route: they are the values
        self._check_finite(seen)
        return seen

    def _check_finite(self, seen: Activations) -> None:
        for name, layers in seen.states().items():
            for index, states in enumerate(layers):
                if not states.isfinite().all():
                    where = "representation" if name == HIDDEN else "layer"
                    raise UserError(
                        f"{self.label}: NaN or infinity in the {name} of {where} {index}; nothing to analyse"
                    )


def decoder_layers(model: PreTrainedModel, label: str) -> nn.ModuleList:
    """The stack of decoder layers.

    Raises:
        UserError: where no list of modules has as many entries as the config names layers.
    """
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UserError(f"{label}: {type(model).__name__} has no list of {count} decoder layers that could be read")


def value_projection(layer: nn.Module, config: PreTrainedConfig) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module that makes a layer's values, and how to take them out of its output: `[B, T, any]` to `[B, T, G d]`.

    Raises:
        LookupError: where none of the known forms is there; it says what was looked for.
    """
    config = config.get_text_config()
    heads = config.num_attention_heads
    modules = {name.rpartition(".")[2]: module for name, module in reversed(list(layer.named_modules()))}
    if "v_proj" in modules:  # Llama, Qwen, Mistral, Gemma, OLMo, OPT, ...
        return modules["v_proj"], lambda output: output
    if "qkv_proj" in modules:  # Phi-3: queries, keys, values
        groups = getattr(config, "num_key_value_heads", None) or heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return modules["qkv_proj"], lambda output: output[..., -groups * head_dim :]
    if "c_attn" in modules and config.model_type == "gpt2":  # queries, keys, values
        return modules["c_attn"], lambda output: output.chunk(3, dim=-1)[2]
    if "query_key_value" in modules and config.model_type in ("gpt_neox", "bloom"):  # the three of each head together
        return modules["query_key_value"], lambda output: output.unflatten(-1, (heads, 3, -1))[..., 2, :].flatten(-2)
    raise LookupError(
        f"no value projection known for model_type {config.model_type!r}: looked for v_proj, qkv_proj, GPT-2's c_attn "
        "and GPT-NeoX's query_key_value"
    )


def _keep_input(seen: Activations):
    def hook(layer, args, kwargs):
        seen.hidden.append(_residual(layer, args[0] if args else kwargs["hidden_states"]))

    return hook


def _keep_output(seen: Activations):
    def hook(layer, args, output):
        seen.hidden.append(_residual(layer, output[0] if isinstance(output, tuple) else output))

    return hook


def _residual(layer: nn.Module, states: Tensor) -> Tensor:
    return (states.sum(dim=-2) if isinstance(layer, HyperConnectionDecoderLayer) else states).float()


def _keep_values(seen: Activations, part: Callable[[Tensor], Tensor]):
    def hook(projection, args, output):
        seen.values.append(part(output).float())

    return hook


def _keep_routed(seen: Activations):
    def hook(router, args, output):
        attention_input, gain, _, v_proj = args[:4]
        seen.values.append(output[1].reshape(*attention_input.shape[:2], -1).float())
        own_input = attention_input
        if isinstance(v_proj, HeadwiseLinear):  # it projects mixes of representations that have the routing's gain
            own_input = gain * own_representation(args)
        seen.own_values.append(nn.functional.linear(own_input, v_proj.weight, v_proj.bias).float())
        if isinstance(router, DynamicRouter) and router.reads:
            seen.routing[router.spec.layer_idx] = routing_weights_of_call(router, args)

    return hook

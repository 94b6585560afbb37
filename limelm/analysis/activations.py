"""Activations of any causal language model in a forward pass: the residual stream, the values, the routing.

Hidden states are indexed by representation: X_0 is what the first layer reads (the embedded tokens), X_m the residual
stream after layer m - 1, up to X_L, before the final norm. For Hyper-Connections it is the sum of the streams; where
there is no residual stream, what the attention of layer m reads, and X_L what the final norm reads. Values are what
attention mixes: the output of the value projection, after routing where the model routes.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm.analysis.retrieval import readers_of, routers_of, weights_of_call
from limelm.errors import UserError
from limelm.models.decoder import HiddenState
from limelm.models.families import attention_layer, find_layers
from limelm.routing import DepthReader, routers_in

HIDDEN, VALUES, OWN_VALUES = "hidden states", "values", "values before routing"


@dataclass
class Activations:
    """The activations of one batch, in float32.

    Attributes:
        input_ids: `[B, T]`.
        hidden: X_0 ... X_L, each `[B, T, D]`.
        values: of each layer `[B, T, G d]`, after routing; empty where they cannot be had.
        own_values: the values before routing: the layer's value projection applied to its own input alone; empty for a
            model that does not route.
        weights: of each reader whose weights depend on tokens what `weights_of_call` makes of them.
    """

    input_ids: Tensor
    hidden: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    own_values: list[Tensor] = field(default_factory=list)
    weights: dict[DepthReader, Tensor] = field(default_factory=dict)

    @property
    def routing(self) -> dict[int, Tensor]:
        """Weights `[B, T, G, i + 1]` of each place where they depend on tokens; for others see `RetrievalWeights`."""
        places: dict[int, list[Tensor]] = {}
        for reader, weights in self.weights.items():
            places.setdefault(reader.place, []).append(weights)
        return {place: torch.cat(rows, dim=-2) for place, rows in places.items()}

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
        try:
            self.layers = find_layers(model)
        except UserError as error:
            raise UserError(f"{label}: {error}") from error
        self.routers = [next(routers_in(layer), None) for layer in self.layers]
        #: Where a model hands its hidden states over, if its layers do not.
        self._handed_over = [module for module in model.modules() if isinstance(module, HiddenState)]
        self.values_missing: str | None = None
        self._value_parts: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = []
        if not all(self.routers):
            try:
                self._value_parts = [_value_projection(layer, model) for layer in self.layers]
            except UserError as error:
                self.values_missing = str(error)

    @torch.no_grad()
    def __call__(self, input_ids: Tensor) -> Activations:
        """Run the decoder on `[B, T]`, without its head.

        Raises:
            UserError: where an activation is NaN or infinite.
        """
        seen = Activations(input_ids)
        with ExitStack() as hooks:
            if not self._handed_over:
                first = self.layers[0]
                hooks.callback(first.register_forward_pre_hook(_keep_input(seen), with_kwargs=True).remove)
            for module in self._handed_over or self.layers:
                hooks.callback(module.register_forward_hook(_keep_output(seen)).remove)
            for router in filter(None, self.routers):
                hooks.callback(router.register_forward_hook(_keep_routed(seen)).remove)
            for reader in readers_of(self.model):
                if reader.depends_on_tokens:
                    hooks.callback(reader.register_forward_hook(_keep_weights(seen)).remove)
            for projection, part in self._value_parts:
                hooks.callback(projection.register_forward_hook(_keep_values(seen, part)).remove)
            options = {"output_hidden_states": True} if self._handed_over else {}
            self.model.base_model(input_ids=input_ids.to(self.model.device), use_cache=False, **options)
        if not routers_of(self.model):
            seen.own_values.clear()  # the model does not route: they are the values
        self._check_finite(seen)
        return seen

    def _check_finite(self, seen: Activations) -> None:
        for name, layers in seen.states().items():
            for index, states in enumerate(layers):
                if not states.isfinite().all():
                    where = "representation" if name == HIDDEN else "layer"
                    raise UserError(
                        f"{self.label}: NaN or infinity in the {name} of {where} {index}; nothing to analyze"
                    )


def _value_projection(layer: nn.Module, model: PreTrainedModel) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module that makes a layer's values, and how to take them out of its output: `[B, T, any]` to `[B, T, G d]`.

    Raises:
        UserError: where it is not found; it says what was looked for.
    """
    attention = attention_layer(layer, model.config)
    projection = attention.projections[-1]  # keys come first, or with them
    return getattr(attention.module, projection.name), lambda output: projection.split(output)["value"].flatten(-2)


def _keep_input(seen: Activations):
    def hook(layer, args, kwargs):
        states = args[0] if args else kwargs["hidden_states"]
        seen.hidden.append(states.float())

    return hook


def _keep_output(seen: Activations):
    def hook(module, args, output):
        states = output[0] if isinstance(output, tuple) else output
        seen.hidden.append(states.float())

    return hook


def _keep_values(seen: Activations, part: Callable[[Tensor], Tensor]):
    def hook(projection, args, output):
        seen.values.append(part(output).float())

    return hook


def _keep_routed(seen: Activations):
    """A hook on the router, not on its projections, which others may have put hooks or modules of theirs on."""

    def hook(router, args, output):
        values = router.values_of_call(args, output)
        if values is None:
            return
        routed, own = values
        seen.values.append(routed.float())
        seen.own_values.append(own.float())

    return hook


def _keep_weights(seen: Activations):
    def hook(reader, args, output):
        seen.weights[reader] = weights_of_call(reader, args)  # of keys and of values, where both call, the same

    return hook

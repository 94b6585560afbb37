"""Gradient norms by layer: how strongly the loss on the next token pulls at the weights of each layer."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from limelm.models.families import find_layers
from limelm.optimization import connection_rules
from limelm.records import Records


def gradient_norms(model: PreTrainedModel, input_ids: Tensor) -> list[float]:
    """The norm of the gradient of the mean loss on the next token with respect to each decoder layer's weights.

    Routers and other connections over depth are left out, so that models with and without them compare. Each weight's
    gradient is let go as soon as its norm is known.

    Args:
        model: any causal language model, in the mode (training or not) that it is in.
        input_ids: `[B, T]`.

    Returns:
        For each layer the square root of the sum of the squares of its gradient, in nats per unit of a weight.

    Raises:
        LookupError: where weights have no gradients, because they are quantized or offloaded, or where one is not
            finite.
        limelm.errors.UserError: where the decoder layers are not to be found.
    """
    layers = [list(_own_parameters(layer)) for layer in find_layers(model)]
    weights = [weight for own in layers for weight in own]
    if getattr(model, "is_quantized", False) or any(weight.is_meta for weight in weights):
        raise LookupError("its weights are quantized or offloaded, so they have no gradients")
    squares = dict.fromkeys(weights, 0.0)
    with _instead_of_gradients(model, squares):
        ids = input_ids.to(model.device)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    norms = [math.sqrt(sum(squares[weight] for weight in own)) for own in layers]
    broken = next((index for index, norm in enumerate(norms) if not math.isfinite(norm)), None)
    if broken is not None:
        raise LookupError(f"NaN or infinity in the gradient of layer {broken}")
    return norms


def gradient_records(label: str, model: PreTrainedModel, input_ids: Tensor) -> dict[str, Records]:
    """`gradients`: the `gradient_norm` of each `layer`; see `gradient_norms`."""
    norms = gradient_norms(model, input_ids)
    return {"gradients": [{"model": label, "layer": layer, "gradient_norm": norm} for layer, norm in enumerate(norms)]}


def _own_parameters(layer: nn.Module) -> Iterator[nn.Parameter]:
    """A layer's parameters but those that choose or mix what it reads."""
    connections = connection_rules(layer)
    return (weight for weight in layer.parameters() if id(weight) not in connections)


@contextmanager
def _instead_of_gradients(model: nn.Module, squares: dict[nn.Parameter, float]) -> Iterator[None]:
    """Let these weights alone have gradients in a backward pass, and keep only the sums of their squares."""
    before = {weight: (weight.requires_grad, weight.grad) for weight in model.parameters()}
    hooks = []

    def take(weight: Tensor) -> None:
        assert isinstance(weight, nn.Parameter) and weight.grad is not None
        squares[weight] = float(weight.grad.float().square().sum())
        weight.grad = None

    try:
        for weight in before:
            weight.grad = None
            weight.requires_grad_(weight in squares)
        hooks += [weight.register_post_accumulate_grad_hook(take) for weight in squares]
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight, (required, gradient) in before.items():
            weight.requires_grad_(required)
            weight.grad = gradient

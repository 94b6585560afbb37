"""Checks of a model with something attached, whatever that is."""

import torch
from transformers import PreTrainedModel

from limelm.optimization import checkpoint_activations
from tests.families import tokens


def assert_token_by_token_is_all_at_once(model: PreTrainedModel, atol: float, rtol: float) -> None:
    everything = model(tokens()).logits
    cache = None
    for position in range(tokens().shape[1]):
        output = model(tokens()[:, position : position + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        torch.testing.assert_close(output.logits[:, 0], everything[:, position], atol=atol, rtol=rtol)


def assert_recomputation_changes_no_gradient(model: PreTrainedModel) -> None:
    model(tokens(), labels=tokens(), use_cache=False).loss.backward()
    wanted = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    checkpoint_activations(model)
    model(tokens(), labels=tokens(), use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], msg=name)

"""What a model computes follows its weights, whatever changed them: with top-p, also what it reads."""

import copy
import threading

import pytest
import torch
import torch.distributed.checkpoint as dcp
from accelerate.utils import set_module_tensor_to_device
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedModel

from limelm import LimeForCausalLM
from tests.models.variants import main_variants, tiny_model, token_ids

UNTIED = {"tie_word_embeddings": False}  # a parameter can be replaced by itself
TOP_P = {
    "full": ("static_top_p", UNTIED),
    "bounded_gqa": ("static_top_p_gqa", UNTIED | {"routing_sources": {"first": 1, "last": 2}}),
    "reference": ("static_top_p", UNTIED | {"routing_backend": "reference", "routing_top_p": 0.3}),
}
top_p = pytest.mark.parametrize(("variant", "changes"), TOP_P.values(), ids=TOP_P)


def other(variant: str, **changes) -> PreTrainedModel:
    """A model of the same kind with other weights; where a head of the first keeps a source, this one may not."""
    model = tiny_model(variant, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.flip(-1))
    return model


def copied(model, given, folder):
    with torch.no_grad():
        for own, new in zip(model.parameters(), given.parameters(), strict=True):
            own.copy_(new)


def copied_behind_the_version_counter(model, given, folder):
    for own, new in zip(model.parameters(), given.parameters(), strict=True):
        own.data.copy_(new.data)


def written_through_numpy(model, given, folder):
    for own, new in zip(model.parameters(), given.parameters(), strict=True):
        own.detach().numpy()[:] = new.detach().numpy()


def data_replaced(model, given, folder):
    for own, new in zip(model.parameters(), given.parameters(), strict=True):
        own.data = new.data.clone()


def from_a_vector(model, given, folder):
    vector_to_parameters(parameters_to_vector(given.parameters()), model.parameters())


def parameters_replaced(model, given, folder):
    for name, new in given.named_parameters():
        module, _, last = name.rpartition(".")
        setattr(model.get_submodule(module), last, nn.Parameter(new.detach().clone()))


def set_by_accelerate(model, given, folder):
    for name, new in given.named_parameters():
        set_module_tensor_to_device(model, name, "cpu", value=new.detach())


def loaded_by_dcp(model, given, folder):
    dcp.save(given.state_dict(), checkpoint_id=folder / "dcp", no_dist=True)
    dcp.load(model.state_dict(), checkpoint_id=folder / "dcp", no_dist=True)


def loaded(model, given, folder):
    model.load_state_dict(given.state_dict())


def assigned(model, given, folder):
    model.load_state_dict(given.state_dict(), assign=True)


CHANGES = [copied, copied_behind_the_version_counter, written_through_numpy, data_replaced, from_a_vector]
CHANGES += [parameters_replaced, set_by_accelerate, loaded_by_dcp, loaded, assigned]


@top_p
@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_model_in_evaluation_is_the_one_that_it_saves(change, variant, changes, tmp_path):
    model, given = tiny_model(variant, **changes), other(variant, **changes)
    before, expected = model(token_ids()).logits, given(token_ids()).logits
    assert not torch.allclose(before, expected, atol=0.01)
    change(model, given, tmp_path)
    assert torch.equal(model(token_ids()).logits, expected)
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(LimeForCausalLM.from_pretrained(tmp_path / "model")(token_ids()).logits, expected)


@top_p
@torch.no_grad()
def test_an_average_of_weights_in_evaluation(variant, changes):
    averaged = AveragedModel(tiny_model(variant, **changes)).eval()
    averaged(token_ids())
    for model in (tiny_model(variant, **changes), other(variant, **changes)):
        averaged.update_parameters(model)
        averaged.module(token_ids())
    fresh = tiny_model(variant, **changes)
    fresh.load_state_dict(averaged.module.state_dict())
    assert torch.equal(averaged(token_ids()).logits, fresh(token_ids()).logits)


@main_variants
@torch.no_grad()
def test_a_call_with_other_weights_and_the_call_after_it(variant):
    model, given = tiny_model(variant), other(variant)
    own, expected = model(token_ids()).logits, given(token_ids()).logits
    parameters = dict(given.named_parameters())
    assert torch.equal(functional_call(model, parameters, (token_ids(),)).logits, expected)
    assert torch.equal(model(token_ids()).logits, own)


@top_p
@torch.no_grad()
def test_a_copy_follows_its_own_weights(variant, changes):
    model = tiny_model(variant, **changes)
    own = model(token_ids()).logits
    duplicate = copy.deepcopy(model)
    copied(duplicate, other(variant, **changes), None)
    assert torch.equal(duplicate(token_ids()).logits, other(variant, **changes)(token_ids()).logits)
    assert torch.equal(model(token_ids()).logits, own)


@top_p
@torch.no_grad()
def test_another_dtype(variant, changes):
    model = tiny_model(variant, **changes)
    model(token_ids())
    model.to(torch.float64)
    expected = tiny_model(variant, **changes).to(torch.float64)(token_ids()).logits
    assert torch.equal(model(token_ids()).logits, expected)


@top_p
def test_threads_that_call_one_model(variant, changes):
    model = tiny_model(variant, **changes)
    start, results = threading.Barrier(4), []

    def call():
        start.wait()
        with torch.no_grad():
            results.append(model(token_ids()).logits)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.no_grad():
        expected = tiny_model(variant, **changes)(token_ids()).logits
    assert len(results) == 4
    assert all(torch.equal(result, expected) for result in results)


@top_p
@torch.no_grad()
def test_a_compiled_model_follows_its_weights(variant, changes):
    model, given = tiny_model(variant, **changes), other(variant, **changes)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(token_ids()).logits, model(token_ids()).logits, atol=1e-5, rtol=1e-5)
    copied_behind_the_version_counter(model, given, None)
    torch.testing.assert_close(compiled(token_ids()).logits, given(token_ids()).logits, atol=1e-5, rtol=1e-5)


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


@top_p
@torch.no_grad()
def test_an_exported_model_follows_its_weights(variant, changes):
    given = other(variant, **changes)
    exported = torch.export.export(Logits(tiny_model(variant, **changes)), (token_ids(),)).module()
    parameters = dict(exported.named_parameters())
    for name, new in given.named_parameters():
        parameters[f"model.{name}"].copy_(new)
    torch.testing.assert_close(exported(token_ids()), given(token_ids()).logits, atol=1e-5, rtol=1e-5)

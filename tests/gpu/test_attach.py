"""Attached routers on a CUDA device, in bfloat16."""

import pytest
import torch

from limelm import attach, detach
from tests.families import ATTACHABLE, VOCAB, family_model, tokens, train_routers

routings = pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("family", ATTACHABLE)
@routings
def test_unchanged_until_trained_and_back(family, routing):
    model = family_model(family).to("cuda", torch.bfloat16)
    ids = tokens().cuda()
    before = model(ids).logits
    assert torch.equal(attach(model, routing)(ids).logits, before)
    train_routers(model)
    assert not torch.equal(model(ids).logits, before)
    assert torch.equal(detach(model)(ids).logits, before)


@pytest.mark.parametrize("family", ATTACHABLE)
@routings
def test_close_to_the_cpu(family, routing):
    model = train_routers(attach(family_model(family), routing))
    expected = model(tokens()).logits
    torch.testing.assert_close(model.cuda()(tokens().cuda()).logits.cpu(), expected, atol=2e-3, rtol=1e-2)


@routings
def test_cached_generation(routing):
    model = train_routers(attach(family_model("llama"), routing)).cuda()
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": VOCAB}
    ids = tokens().cuda()
    assert torch.equal(model.generate(ids, **options), model.generate(ids, **options, use_cache=False))


@routings
def test_a_training_step_in_bfloat16(routing):
    model = train_routers(attach(family_model("llama"), routing)).train().cuda()
    ids = tokens().cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters() if ".router." in n)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@routings
def test_data_parallel_threads(routing):
    model = train_routers(attach(family_model("llama"), routing)).cuda()
    ids = tokens(4).cuda()
    together = torch.nn.DataParallel(model)(ids, use_cache=False)["logits"]
    torch.testing.assert_close(together, model(ids).logits, atol=1e-3, rtol=1e-3)

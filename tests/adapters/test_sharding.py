"""Attached routers under FSDP2 on two processes (gloo, CPU): gradients equal one process's on the whole batch."""

import datetime

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard

from limelm import attach, set_trainable
from limelm.optimization import checkpoint_activations
from tests.families import family_model, tokens, train_routers

#: Family, routing, what is trained, and whether activations are computed again.
CASES = [
    (family, routing, trains, recompute)
    for family in ("llama", "phi3")
    for routing in ("kv", "static", "dynamic")
    for trains, recompute in (("all", False), ("routers", False), ("all", True))
]
WORLD = 2
BATCH = tokens(4, 7)


def make(family: str, routing: str, trains: str, recompute: bool):
    model = train_routers(attach(family_model(family), routing)).train()
    set_trainable(model, trains)
    if recompute:
        checkpoint_activations(model)
    return model


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {name: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for name, grad in found.items()}


def work(rank: int, rendezvous: str, folder: str) -> None:
    torch.set_num_threads(1)
    options = {"init_method": f"file://{rendezvous}", "rank": rank, "world_size": WORLD}
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60), **options)
    try:
        for number, case in enumerate(CASES):
            model = make(*case)
            for layer in model.model.layers:
                fully_shard(layer)
            fully_shard(model)
            half = BATCH.chunk(WORLD)[rank]
            model(half, labels=half, use_cache=False).loss.backward()
            found = gradients(model)
            with torch.no_grad():
                logits = model.eval()(BATCH).logits
            if rank == 0:
                torch.save({"gradients": found, "logits": logits}, f"{folder}/{number}.pt")
            dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    mp.spawn(work, (str(folder / "rendezvous"), str(folder)), nprocs=WORLD)
    return folder


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, case)) for case in CASES])
def test_sharded_equals_whole(number, sharded):
    found = torch.load(sharded / f"{number}.pt")
    model = make(*CASES[number])
    model(BATCH, labels=BATCH, use_cache=False).loss.backward()
    expected = gradients(model)
    assert found["gradients"].keys() == expected.keys() != set()
    for name, grad in expected.items():
        torch.testing.assert_close(found["gradients"][name], grad, atol=1e-6, rtol=1e-4, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], model.eval()(BATCH).logits, atol=1e-5, rtol=1e-5)

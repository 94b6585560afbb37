"""FSDP2 on two processes (gloo, CPU): gradients equal one process's on both halves of the batch together."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from tests.models.variants import assert_same_gradients, gradients, tiny_model, token_ids

BOUNDED = {"routing_sources": {"first": 1, "last": 2}}
#: Variant, changes to its config, and how it is trained.
CASES = {
    "none": ("none", {}, ""),
    "none_recomputed": ("none", {}, "recompute"),
    "hc": ("hc_dynamic", {}, ""),
    "hc_recomputed": ("hc_dynamic", {}, "recompute"),
    "hc_static": ("hc_static", {}, ""),
    "residual_scalars": ("residual_scalars", {}, "recompute"),
    "dense_former": ("dense_former", {}, ""),
    "attention_residuals": ("attention_residuals", {}, ""),
    "attention_residuals_recomputed": ("attention_residuals", {}, "recompute"),
    "delta_attention_residuals": ("delta_attention_residuals", {}, "bfloat16"),
    "mhc_recomputed": ("mhc_gqa", {}, "recompute"),
    "mhc_bfloat16": ("mhc_gqa", {}, "bfloat16"),
    "mudd_former": ("mudd_former_norms", {}, "recompute"),
    "deep_cross_attention": ("deep_cross_attention_recent", {}, "recompute"),
    "static": ("static_gqa", {}, ""),
    "static_top_p": ("static_top_p", {}, ""),
    "static_bounded": ("static_gqa", BOUNDED, ""),
    "static_recomputed": ("static_gqa", {}, "recompute"),
    "static_bfloat16": ("static_gqa", {}, "bfloat16"),
    "static_reference": ("static_gqa", {"routing_backend": "reference"}, ""),
    "dynamic": ("dynamic", {}, ""),
    "dynamic_recomputed": ("dynamic_gqa", {}, "recompute"),
    "dynamic_accumulated": ("dynamic_gqa", {}, "accumulate"),
    "static_apart": ("static_apart_gqa", {}, ""),
    "static_frozen": ("static_gqa", {"routing_trainable": False}, ""),
    "dynamic_frozen": ("dynamic_gqa", {"routing_trainable": False}, "recompute"),
    "kv": ("kv", {}, ""),
    "kv_gqa": ("kv_gqa", {}, ""),
    "kv_bounded": ("kv_gqa", BOUNDED, ""),
    "kv_recomputed": ("kv_gqa", {}, "recompute"),
    "kv_bfloat16": ("kv_gqa", {}, "bfloat16"),
    "value_residual": ("value_residual_gqa", {}, "recompute"),
    "depth_attention": ("depth_attention_gqa", {}, "recompute"),
}
WORLD = 2
BATCH = token_ids(batch=4, tokens=7)


def make(case: str):
    variant, changes, _ = CASES[case]
    return tiny_model(variant, **changes).train()


def shard(model, how: str):
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    options = {"mp_policy": precision} if how == "bfloat16" else {}
    if how == "recompute":
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    for layer in model.model.layers:
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def backward(model, ids: torch.Tensor, how: str) -> None:
    for micro_batch in ids.split(1) if how == "accumulate" else [ids]:
        loss = model(micro_batch, labels=micro_batch, use_cache=False).loss
        (loss / (len(ids) if how == "accumulate" else 1)).backward()


def work(rank: int, rendezvous: str, folder: str) -> None:
    """One process: shard every model, take its half of the batch, and have rank 0 save the whole gradients."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=WORLD,
    )
    try:
        for case, (_, _, how) in CASES.items():
            error, found = None, {}
            try:
                model = shard(make(case), how)
                assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
                backward(model, BATCH.chunk(WORLD)[rank], how)
                found = {name: gradient.full_tensor() for name, gradient in gradients(model).items()}
                with torch.no_grad():
                    found["logits"] = model.eval()(BATCH).logits
            except Exception as raised:  # the other cases still run, and the test names this one
                error = f"{type(raised).__name__}: {raised}"
            if rank == 0:
                torch.save({"error": error, "gradients": found}, f"{folder}/{case}.pt")
            dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    folder = tmp_path_factory.mktemp("sharding")
    mp.start_processes(work, args=(str(folder / "rendezvous"), str(folder)), nprocs=WORLD, start_method="spawn")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_sharded_gradients_equal_one_process(case, sharded):
    result = torch.load(sharded / f"{case}.pt", weights_only=True)
    assert result["error"] is None
    model = make(case)
    backward(model, BATCH, "")
    expected = gradients(model)
    logits = result["gradients"].pop("logits")
    with torch.no_grad():
        assert (logits - model.eval()(BATCH).logits).abs().max() < (0.3 if CASES[case][2] == "bfloat16" else 1e-5)
    if CASES[case][2] != "bfloat16":
        assert_same_gradients(result["gradients"], expected, tolerance=2e-5)
        return
    pair = result["gradients"], expected
    actual, expected = (torch.cat([found[name].flatten().float() for name in expected]) for found in pair)
    assert (actual - expected).norm() < 0.15 * expected.norm()

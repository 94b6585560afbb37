"""Planned memory beside what a CUDA device's allocator counts."""

import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from limelm.optimization import checkpoint_activations
from limelm.planning.peak_memory import Step
from limelm.planning.simulation import simulate_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SHAPE = {
    "vocab_size": 16_384,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
MODELS = {
    "llama": ("llama", {}),
    "llama-grouped": ("llama", {"num_key_value_heads": 4}),
    "hc": ("hyper_connection", {}),
    "static": ("lime", {"routing": "static"}),
    "dynamic": ("lime", {"routing": "dynamic"}),
    "kv": ("lime", {"routing": "kv"}),
}
STEP = Step(micro_batch_size=8, sequence_length=1024, autocast=True, accumulates=True)


def allocated(config, step: Step) -> int:
    """The most that the allocator gave out in the second of two steps of two forwards each."""
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
        tokens = torch.zeros(step.micro_batch_size, step.sequence_length, dtype=torch.long)
    if step.activation_checkpointing:
        checkpoint_activations(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            with torch.autocast("cuda", torch.bfloat16, enabled=step.autocast):
                loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
            loss.backward()
            del loss
        optimizer.step()
        optimizer.zero_grad()
    return torch.cuda.max_memory_allocated()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["keeping", "recomputing"])
@pytest.mark.parametrize("name", MODELS)
def test_planned_memory_is_what_the_device_allocates(name, checkpointing):
    model_type, options = MODELS[name]
    config = AutoConfig.for_model(model_type, **(SHAPE | options))
    step = dataclasses.replace(STEP, activation_checkpointing=checkpointing)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    measured, planned = allocated(config, step) - before, simulate_step(config, step).peak
    print(f"{name} {checkpointing=}: planned / measured = {planned / measured:.3f}")
    assert planned == pytest.approx(measured, rel=0.1)

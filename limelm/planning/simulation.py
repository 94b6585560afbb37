"""One training step on tensors without memory: the bytes of a model's real code at its real size, in seconds.

The step runs on PyTorch's fake tensors, which have shapes, types and lifetimes, but no contents. What lives at the same
time is counted as it is for real tensors (`limelm.planning.peak_memory`), by what it is for.

Fake tensors are on the CPU, as autograd refuses those of a CUDA device where there is none. Routing is told to cut its
work as on CUDA (`ON_CUDA`); under autocast the models compute in the same types on both. Not seen is what a kernel
allocates and frees inside itself.
"""

from contextlib import nullcontext

from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from limelm.planning.peak_memory import Step, StepMemory, measure_step
from limelm.routing.ops.source_matrix import Cuts, assume_cuts

FEW, MORE = 6, 12  # layers, from which the memory of a deeper model follows
#: As on an H100, with half of its L2 cache; one chunk, as a step has too many to make them all in seconds.
ON_CUDA = Cuts(chunk_bytes=25 * 2**20, in_blocks=False, first_only=True)
# HF makes no mask for an attention that it does not know, as it makes none for packed sequences of tokens without
# padding; of fake tensors it cannot see that none is needed. PyTorch's fused attention saves the same on a CPU as on
# CUDA: Q, K, V, the output, and a number per query.
ATTENTION = "sdpa-without-mask"
AttentionInterface.register(ATTENTION, sdpa_attention_forward)


def simulate_step(config: LlamaConfig, step: Step, on_cuda: bool = True, foreach: bool | None = None) -> StepMemory:
    """The memory that a step of `config`'s model would take, with float32 weights.

    Args:
        on_cuda: as on a CUDA device; otherwise as on a CPU.
        foreach: whether AdamW updates all parameters at once; by default as on that device.
    """
    if on_cuda and getattr(config, "routing_backend", None) == "triton":  # keeps the same, and runs on CUDA only
        config = _changed(config, routing_backend="chunked")
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)
        with assume_cuts(ON_CUDA) if on_cuda else nullcontext():
            return measure_step(model, step, on_cuda if foreach is None else foreach)


def simulate_deep(config: LlamaConfig, step: Step, foreach: bool) -> StepMemory:
    """Simulate a step's memory; a deep model's follows from two shallow ones, as each layer adds the same."""
    layers = config.num_hidden_layers
    if layers <= MORE:
        return simulate_step(config, step, foreach=foreach)
    few, more = (simulate_step(_changed(config, num_hidden_layers=n), step, foreach=foreach) for n in (FEW, MORE))
    times = (layers - MORE) / (MORE - FEW)
    phases = {
        phase: {part: size + round(times * (size - few.phases[phase][part])) for part, size in parts.items()}
        for phase, parts in more.phases.items()
    }
    return StepMemory(phases, more.saved + round(times * (more.saved - few.saved)))


def _changed(config: LlamaConfig, **changes: str | int) -> LlamaConfig:
    return type(config).from_dict({**config.to_dict(), **changes})

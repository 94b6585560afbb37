"""One training step on tensors without memory: the bytes of a model's real code at its real size, in seconds.

The step runs on PyTorch's fake tensors, which have shapes, types and lifetimes, but no contents. What lives at the same
time is counted as it is for real tensors (`limelm.training.peak_memory`), by what it is for.

Fake tensors are on the CPU, as autograd refuses those of a CUDA device where there is none. Routing is told to cut its
work as on CUDA (`ON_CUDA`); under autocast the models compute in the same types on both. Not seen is what a kernel
allocates and frees inside itself.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from limelm.routing.ops.source_matrix import Cuts, assume_cuts
from limelm.training.peak_memory import PeakMemory
from limelm.training.trainer import checkpoint_activations

WEIGHTS, GRADIENTS, OPTIMIZER, ACTIVATIONS, TEMPORARY = "weights", "gradients", "optimizer", "activations", "temporary"
#: As on an H100, with half of its L2 cache; one chunk, as a step has too many to make them all in seconds.
ON_CUDA = Cuts(chunk_bytes=25 * 2**20, in_blocks=False, first_only=True)
# HF makes no mask for an attention that it does not know, as it makes none for packed sequences of tokens without
# padding; of fake tensors it cannot see that none is needed. PyTorch's fused attention saves the same on a CPU as on
# CUDA: Q, K, V, the output, and a number per query.
ATTENTION = "sdpa-without-mask"
AttentionInterface.register(ATTENTION, sdpa_attention_forward)


@dataclass(frozen=True)
class Step:
    """The part of a recipe that decides one process's memory between two steps of the optimizer.

    Attributes:
        micro_batch_size: sequences in a forward.
        autocast: whether the forward runs under bfloat16 autocast.
        accumulates: whether gradients of an earlier forward are there already.
    """

    micro_batch_size: int
    sequence_length: int
    autocast: bool = False
    activation_checkpointing: bool = False
    accumulates: bool = False


#: What the bytes alive at a moment are for, in the order of the constants above.
Parts = dict[str, int]


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one step.

    Attributes:
        phases: for "forward", "backward" and "optimizer step" what lives at its peak, by the constants above: weights;
            gradients so far; Adam's two moments; activations, which the forward keeps for the backward; and whatever
            is temporary. The forward's peak is at its end, and activations there are all that it will have kept.
        saved: what the forward keeps for the backward, all of it.
    """

    phases: dict[str, Parts]
    saved: int

    @property
    def peak(self) -> int:
        """The most bytes that are alive at the same time."""
        return max(sum(parts.values()) for parts in self.phases.values())


def simulate_step(
    config: LlamaConfig,
    step: Step,
    dtype: torch.dtype = torch.float32,
    on_cuda: bool = True,
    foreach: bool | None = None,
) -> StepMemory:
    """The memory that a step of `config`'s model would take.

    Args:
        dtype: of the parameters.
        on_cuda: as on a CUDA device; otherwise as on a CPU.
        foreach: whether AdamW updates all parameters at once; by default as on that device.
    """
    if on_cuda and getattr(config, "routing_backend", None) == "triton":  # keeps the same, and runs on CUDA only
        config = type(config).from_dict({**config.to_dict(), "routing_backend": "chunked"})
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=ATTENTION)
        with assume_cuts(ON_CUDA) if on_cuda else nullcontext():
            return measure_step(model, step, on_cuda if foreach is None else foreach)


def measure_step(model: PreTrainedModel, step: Step, foreach: bool = False) -> StepMemory:
    """Take a training step with the model on a CPU and count its memory; the model's weights change.

    Args:
        foreach: have AdamW update all parameters at once, as it does on CUDA.
    """
    model.train()
    if step.activation_checkpointing:
        checkpoint_activations(model)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.0, foreach=foreach)
    _set_gradients(parameters)
    optimizer.step()  # makes its state, which every step but the first finds there
    if not step.accumulates:
        optimizer.zero_grad()
    tokens = torch.zeros(step.micro_batch_size, step.sequence_length, dtype=torch.long)
    with LabeledMemory() as memory:
        memory.label(WEIGHTS, [*parameters, *model.buffers()])
        memory.label(GRADIENTS, (parameter.grad for parameter in parameters if parameter.grad is not None))
        memory.label(OPTIMIZER, (value for state in optimizer.state.values() for value in state.values()))
        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda p: memory.label(GRADIENTS, [p.grad]))
            for parameter in parameters
        ]
        with torch.autocast("cpu", torch.bfloat16, enabled=step.autocast):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        saved = memory.label_rest(ACTIVATIONS)
        forward = memory.end_phase()
        forward[ACTIVATIONS] = min(saved, forward[TEMPORARY])
        forward[TEMPORARY] -= forward[ACTIVATIONS]
        loss.backward()
        del loss
        backward = memory.end_phase()
        optimizer.step()
        update = memory.end_phase()
    for hook in hooks:
        hook.remove()
    optimizer.zero_grad()
    return StepMemory({"forward": forward, "backward": backward, "optimizer step": update}, saved)


class LabeledMemory(PeakMemory):
    """A `PeakMemory` that also knows what the bytes at a peak are for."""

    def __init__(self) -> None:
        super().__init__()
        self._labels: dict[int, str] = {}
        self._bytes: Counter[str] = Counter()
        self._at_peak: dict[str, int] = {}

    def add(self, *tensors: Tensor) -> None:
        before = self.peak_bytes
        super().add(*tensors)
        if self.peak_bytes > before:
            self._at_peak = dict(self._bytes)

    def label(self, name: str, tensors: Iterable[Tensor | None]) -> None:
        """Count these as `name` from now on, unless they have a label."""
        for tensor in tensors:
            if tensor is not None:
                self.add(tensor)
                storage = tensor.untyped_storage()
                if storage._cdata not in self._labels:
                    self._labels[storage._cdata] = name
                    self._bytes[name] += storage.nbytes()

    def label_rest(self, name: str) -> int:
        """Count everything alive that has no label as `name`; return its bytes."""
        rest = self.live_bytes - sum(self._bytes.values())
        self._labels |= dict.fromkeys(self._seen - self._labels.keys(), name)
        self._bytes[name] += rest
        return rest

    def end_phase(self) -> Parts:
        """The bytes alive at the peak since the last call, by label; bytes without a label are temporary."""
        parts = {name: self._at_peak.get(name, 0) for name in (WEIGHTS, GRADIENTS, OPTIMIZER, ACTIVATIONS)}
        parts[TEMPORARY] = self.peak_bytes - sum(parts.values())
        self.peak_bytes, self._at_peak = self.live_bytes, dict(self._bytes)
        return parts

    def _remove(self, key: int, size: int) -> None:
        super()._remove(key, size)
        name = self._labels.pop(key, None)
        if name is not None:
            self._bytes[name] -= size


def _set_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)

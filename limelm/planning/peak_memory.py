"""Peak memory of a training step, counted tensor by tensor, so that it can be compared on any device.

The same count serves real tensors and those of a simulation (`limelm.planning.simulation`).
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from limelm.optimization import checkpoint_activations

WEIGHTS, GRADIENTS, OPTIMIZER, ACTIVATIONS, TEMPORARY = "weights", "gradients", "optimizer", "activations", "temporary"
#: Bytes alive at a moment by what they are for, in the order of the constants above.
Parts = dict[str, int]


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all storages that are alive at the same time while it is active, by what they are for.

    Storages that existed before are counted with `add`. What a kernel allocates and frees inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._label: dict[int, str] = {}  # of every storage alive
        self._alive: Counter[str] = Counter()
        self._at_peak: Counter[str] = Counter()

    @property
    def live_bytes(self) -> int:
        """The bytes alive now."""
        return self._alive.total()

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were alive at the same time."""
        return self._at_peak.total()

    def add(self, *tensors: torch.Tensor, label: str = TEMPORARY) -> None:
        """Count these tensors' storages, each once and as long as it is alive; the first lasting label counts."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._label:
                self._label[key] = label
                self._alive[label] += size
                weakref.finalize(storage, self._remove, key, size)
            elif self._label[key] == TEMPORARY:
                self._alive[TEMPORARY] -= size
                self._alive[label] += size
                self._label[key] = label
        if self.live_bytes > self.peak_bytes:
            self._at_peak = self._alive.copy()

    def keep_temporary(self, label: str) -> int:
        """Count everything temporary that is alive as `label`; return its bytes."""
        temporary = [key for key, own in tuple(self._label.items()) if own == TEMPORARY]
        self._label |= dict.fromkeys(temporary, label)
        kept = self._alive.pop(TEMPORARY, 0)
        self._alive[label] += kept
        return kept

    def end_phase(self) -> Parts:
        """The bytes alive at the peak since the last call."""
        parts = {label: self._at_peak[label] for label in (WEIGHTS, GRADIENTS, OPTIMIZER, ACTIVATIONS, TEMPORARY)}
        self._at_peak = self._alive.copy()
        return parts

    def _remove(self, key: int, size: int) -> None:
        self._alive[self._label.pop(key)] -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.add(*(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)))
        return result


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


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one step.

    Attributes:
        phases: for "forward", "backward" and "optimizer step" what lives at its peak: weights; gradients so far; Adam's
            two moments; activations, which the forward keeps for the backward; and whatever is temporary. The
            forward's peak is at its end, and activations there are all that it will have kept.
        saved: what the forward keeps for the backward, all of it.
    """

    phases: dict[str, Parts]
    saved: int

    @property
    def peak(self) -> int:
        """The most bytes that are alive at the same time."""
        return max(sum(parts.values()) for parts in self.phases.values())


def measure_step(model: PreTrainedModel, step: Step, foreach: bool = False) -> StepMemory:
    """Take a training step with the model and count its memory; the learning rate is 0, so its weights stay.

    Args:
        foreach: have AdamW update all parameters at once, as it does on CUDA.
    """
    model.train()
    if step.activation_checkpointing:
        checkpoint_activations(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, foreach=foreach)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes its state, which every step but the first finds there
    if not step.accumulates:
        optimizer.zero_grad()
    tokens = torch.zeros(step.micro_batch_size, step.sequence_length, dtype=torch.long, device=model.device)
    with PeakMemory() as memory:
        memory.add(*model.parameters(), *model.buffers(), label=WEIGHTS)
        memory.add(*_gradients(trained), label=GRADIENTS)
        memory.add(*(value for state in optimizer.state.values() for value in state.values()), label=OPTIMIZER)
        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda own: memory.add(*_gradients([own]), label=GRADIENTS))
            for parameter in trained
        ]
        with torch.autocast(model.device.type, torch.bfloat16, enabled=step.autocast):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        saved = memory.keep_temporary(ACTIVATIONS)
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


def _gradients(parameters: Iterable[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def peak_training_memory(model: PreTrainedModel, batch_size: int, sequence_length: int) -> int:
    """Bytes at the peak of one training step: weights, gradients, Adam's state, activations.

    On CUDA the allocator is asked, so nothing else may be on the device; elsewhere the living tensors are counted.
    """
    on_cuda = model.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    counted = measure_step(model, Step(batch_size, sequence_length), foreach=on_cuda).peak
    return torch.cuda.max_memory_allocated() if on_cuda else counted


def saved_for_backward(model: PreTrainedModel, batch_size: int, sequence_length: int) -> int:
    """Bytes that a training forward keeps for its backward: all storages that autograd saves, parameters aside."""
    tokens = torch.randint(model.config.vocab_size, (batch_size, sequence_length), device=model.device)
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}  # keeps them alive, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    del loss
    return sum(storage.nbytes() for key, storage in saved.items() if key not in parameters)

"""Peak memory of a training step, counted tensor by tensor, so that it can be compared on any device."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all storages that are alive at the same time while it is active.

    Storages that existed before are counted with `add`. What a kernel allocates and frees inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._seen: set[int] = set()

    def add(self, *tensors: torch.Tensor) -> None:
        """Count these tensors' storages, each once and as long as it is alive."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._seen:
                self._seen.add(key)
                self.live_bytes += storage.nbytes()
                weakref.finalize(storage, self._remove, key, storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live_bytes -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.add(*(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)))
        return result


def peak_training_memory(model: PreTrainedModel, batch_size: int, sequence_length: int) -> int:
    """Bytes at the peak of one training step: weights, gradients, Adam's state, activations.

    Takes real steps (forward, backward, AdamW) on random tokens; the model's weights change. On CUDA the allocator is
    asked, so nothing else may be on the device; elsewhere the living tensors are counted.
    """
    tokens = torch.randint(model.config.vocab_size, (batch_size, sequence_length), device=model.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def steps() -> None:
        for _ in range(2):  # in the second step Adam's state is there from the start
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        steps()
        return torch.cuda.max_memory_allocated()
    with PeakMemory() as memory:
        memory.add(*model.parameters(), *model.buffers())
        steps()
    return memory.peak_bytes


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

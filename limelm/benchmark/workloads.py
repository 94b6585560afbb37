"""The work that is timed: a training step, a forward, decoding."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import Cache

from limelm.adapters import attachment_of, set_trainable
from limelm.benchmark.shape import Inputs
from limelm.models.decoder import CACHE

DECODED_TOKENS = 32
Work = Callable[[], object]

#: How models are compiled: for the shapes that they are given, by PyTorch's own compiler.
COMPILE: dict[str, Any] = {"backend": "inductor", "dynamic": False}

#: Tasks that train a model, and what they train of one with attached routers; of another it is always everything.
TRAINS = {"train": "all", "train-routers": "routers"}


def begin_training(model: PreTrainedModel, task: str) -> PreTrainedModel:
    """Put a model into training mode, with gradients for the parameters that a task of `TRAINS` trains."""
    if attachment_of(model) is not None:
        set_trainable(model, TRAINS[task])
    return model.train()


def training_step(task: str, model: PreTrainedModel, inputs: Inputs, autocast: bool = False) -> Work:
    """Forward, backward and AdamW on one batch; the forward under bfloat16 autocast where it is asked for."""
    begin_training(model, task)
    tokens = _tokens(model, inputs.batch_size, inputs.sequence_length)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-6)

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def forward(model: PreTrainedModel, inputs: Inputs) -> Work:
    """A forward without gradients, logits of the last position only, as in a prefill."""
    model.eval()
    tokens = _tokens(model, inputs.batch_size, inputs.sequence_length)
    return torch.no_grad()(lambda: model(input_ids=tokens, use_cache=False, logits_to_keep=1))


def decoding(model: PreTrainedModel, inputs: Inputs) -> Work:
    """Decode one sequence token by token, with a `DynamicCache` that holds `decode_from` tokens at the start."""
    filled = DynamicCache(config=model.config)
    prompt = _fill(filled, model, inputs)

    def copied() -> Cache:
        # Layers put new tensors in the place of old ones, so these copies cost nothing; a cache whose sliding window is
        # full cannot be cropped.
        cache = copy.copy(filled)
        cache.layers = [copy.copy(layer) for layer in filled.layers]
        return cache

    return _decode(model, prompt, copied)


def decoding_compiled(model: PreTrainedModel, inputs: Inputs) -> Work:
    """Decode as `decoding` does, with a `StaticCache`, by a model that is compiled when its prompt has been read."""
    cache = StaticCache(config=model.config, max_cache_len=context_of("decode", inputs))
    prompt = _fill(cache, model, inputs)
    filled = copy.deepcopy([vars(layer) for layer in cache.layers])

    def restored() -> Cache:
        for layer, state in zip(cache.layers, filled, strict=True):
            for name, value in state.items():
                if isinstance(value, torch.Tensor):  # at the same place: where it lies is compiled in
                    vars(layer)[name].copy_(value)
                else:
                    vars(layer)[name] = value
        return cache

    model.compile(**COMPILE)
    return _decode(model, prompt, restored)


@torch.no_grad()
def _fill(cache: Cache, model: PreTrainedModel, inputs: Inputs) -> torch.Tensor:
    """Read a prompt of `decode_from` tokens into a cache; returns the prompt."""
    prompt = _tokens(model.eval(), 1, inputs.decode_from)
    model(input_ids=prompt, **{CACHE: cache}, use_cache=True)
    return prompt


def _decode(model: PreTrainedModel, prompt: torch.Tensor, cache_of_round: Callable[[], Cache]) -> Work:
    @torch.no_grad()
    def decode() -> None:
        cache = cache_of_round()
        for _ in range(DECODED_TOKENS):
            model(input_ids=prompt[:, :1], **{CACHE: cache}, use_cache=True)

    return decode


def _tokens(model: PreTrainedModel, batch: int, tokens: int) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (batch, tokens), device=model.device)


def _tokens_of_batch(inputs: Inputs) -> int:
    return inputs.batch_size * inputs.sequence_length


def context_of(task: str, inputs: Inputs) -> int:
    """The number of tokens of one sequence that a task gives a model, those in its cache too."""
    return inputs.decode_from + DECODED_TOKENS if task == "decode" else inputs.sequence_length


#: Name, the work of one round, and how many tokens it handles.
WORKLOADS: dict[str, tuple[Callable[[PreTrainedModel, Inputs], Work], Callable[[Inputs], int]]] = {
    **{task: (partial(training_step, task), _tokens_of_batch) for task in TRAINS},
    "forward": (forward, _tokens_of_batch),
    "decode": (decoding, lambda inputs: DECODED_TOKENS),
}
#: The tasks that mean something without attached routers.
NATIVE_WORKLOADS = [name for name in WORKLOADS if name != "train-routers"]

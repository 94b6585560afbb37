"""The work that is timed: a training step, a forward, decoding."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from transformers import DynamicCache, PreTrainedModel

from limelm.adapters import attachment_of, set_trainable
from limelm.benchmark.shape import Inputs
from limelm.models.decoder import CACHE

DECODED_TOKENS = 32
Work = Callable[[], object]

#: Tasks that train a model, and what they train of one with attached routers; of another it is always everything.
TRAINS = {"train": "all", "train-routers": "routers"}


def begin_training(model: PreTrainedModel, task: str) -> PreTrainedModel:
    """Put a model into training mode, with gradients for the parameters that a task of `TRAINS` trains."""
    if attachment_of(model) is not None:
        set_trainable(model, TRAINS[task])
    return model.train()


def training_step(task: str, model: PreTrainedModel, inputs: Inputs) -> Work:
    """Forward, backward and AdamW on one batch."""
    begin_training(model, task)
    tokens = _tokens(model, inputs.batch_size, inputs.sequence_length)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-6)

    def step() -> None:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
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
    model.eval()
    prompt = _tokens(model, 1, inputs.decode_from)
    filled = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=prompt, **{CACHE: filled}, use_cache=True)

    @torch.no_grad()
    def decode() -> None:
        # Layers put new tensors in the place of old ones, so these copies cost nothing; a cache whose sliding window is
        # full cannot be cropped.
        cache = copy.copy(filled)
        cache.layers = [copy.copy(layer) for layer in filled.layers]
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

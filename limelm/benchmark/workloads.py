"""What is timed: a training step, a forward, decoding."""

from collections.abc import Callable

import torch
from transformers import DynamicCache, PreTrainedModel

from limelm.benchmark.cases import Shape

DECODED_TOKENS = 32
Work = Callable[[], object]


def training_step(model: PreTrainedModel, shape: Shape) -> Work:
    """Forward, backward and AdamW on one batch."""
    model.train()
    tokens = _tokens(model, shape.batch, shape.tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def forward(model: PreTrainedModel, shape: Shape) -> Work:
    """A forward without gradients, logits of the last position only, as a prefill has it."""
    model.eval()
    tokens = _tokens(model, shape.batch, shape.tokens)
    return torch.no_grad()(lambda: model(input_ids=tokens, use_cache=False, logits_to_keep=1))


def decoding(model: PreTrainedModel, shape: Shape) -> Work:
    """One sequence, token by token, with a `DynamicCache` that holds `decode_from` tokens at the start."""
    model.eval()
    prompt = _tokens(model, 1, shape.decode_from)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=prompt, past_key_values=cache, use_cache=True)

    @torch.no_grad()
    def decode() -> None:
        for _ in range(DECODED_TOKENS):
            model(input_ids=prompt[:, :1], past_key_values=cache, use_cache=True)
        cache.crop(-DECODED_TOKENS)

    return decode


#: Name, the work of one round, and how many tokens it handles.
WORKLOADS: dict[str, tuple[Callable[[PreTrainedModel, Shape], Work], Callable[[Shape], int]]] = {
    "train": (training_step, lambda shape: shape.batch * shape.tokens),
    "forward": (forward, lambda shape: shape.batch * shape.tokens),
    "decode": (decoding, lambda shape: DECODED_TOKENS),
}


def _tokens(model: PreTrainedModel, batch: int, tokens: int) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (batch, tokens), device=model.device)

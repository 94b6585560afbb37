"""Memory bandwidth that the routing operation reaches, beside that of a plain copy."""

import functools
from typing import Any

import torch
from torch import Tensor

from limelm.benchmark.shape import Shape
from limelm.benchmark.timing import interleave
from limelm.routing import resolve_backend, route_heads, route_representations

COPY_BYTES = 2**27


@functools.cache
def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of the median copy of 128 MiB; measured once per process."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    (timing,) = interleave([lambda: target.copy_(source)], 9, device)
    return 2 * COPY_BYTES / timing.median


@torch.no_grad()
def routing_bandwidth(
    options: dict[str, Any], heads: int, shape: Shape, device: torch.device, dtype: torch.dtype
) -> float:
    """Bytes per second of the forward routing operation of the middle layer.

    Counted is what must move at the least: every source and the projection's weights read once, K and V written once.
    For static and dynamic routing the time holds the projection too.

    Args:
        options: of the model's configuration; `routing` is one of them.
        heads: its key/value heads.
    """
    head_dim, N = shape.hidden // shape.heads, shape.batch * shape.tokens
    n = shape.layers // 2 + 1
    backend = resolve_backend(options.get("routing_backend", "auto"), device)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, device=device, dtype=dtype)

    if options["routing"] == "kv":
        buffer = random(n * heads, N * 2 * head_dim)
        sources = list(buffer.split(heads))
        R = random(heads, n * heads)
        (timing,) = interleave([lambda: route_heads(None, sources, range(n), R, backend)], 9, device)
        moved = buffer.numel() + heads * N * 2 * head_dim
    else:
        per_token = options["routing"] == "dynamic"
        buffer = random(n, N * shape.hidden)
        sources = list(buffer.split(1))
        weights = random(heads * n, shape.hidden) if per_token else random(heads, n).softmax(dim=-1)
        gain = torch.ones(shape.hidden, device=device, dtype=dtype)
        k_weight, v_weight = (random(heads * head_dim, shape.hidden) for _ in range(2))

        def route() -> object:
            return route_representations(
                None, sources, range(n), weights, gain, k_weight, v_weight, heads, per_token, backend
            )

        (timing,) = interleave([route], 9, device)
        moved = buffer.numel() + 2 * k_weight.numel() + 2 * heads * N * head_dim
    return moved * buffer.element_size() / timing.median

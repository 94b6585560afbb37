"""Memory bandwidth that the routing operation reaches, beside that of a plain copy."""

import functools
from typing import Any

import torch
from torch import nn

from limelm.benchmark.shape import Shape
from limelm.benchmark.timing import interleave
from limelm.routing import LayerRouter, make_routers, resolve_backend

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
) -> float | None:
    """Bytes per second of the middle layer's router in a forward: sources in, keys and values out.

    Counted is what must move at the least: every source and the projections' weights read once, K and V written once.
    The time holds the projections too.

    Args:
        options: of the model's configuration; `routing` is one of them.
        heads: its key/value heads.

    Returns:
        None for a router that reads nothing, or that runs by the formulas.
    """
    head_dim, N = shape.hidden_size // shape.num_attention_heads, shape.batch_size * shape.sequence_length
    named = {name.removeprefix("routing_"): value for name, value in options.items()}
    with torch.device(device):
        routers = make_routers(
            num_layers=shape.num_hidden_layers,
            hidden_size=shape.hidden_size,
            num_heads=heads,
            head_dim=head_dim,
            **named,
        )
        router: LayerRouter = routers[shape.num_hidden_layers // 2].to(dtype).eval()  # type: ignore[assignment]
        if not router.has_choice or resolve_backend(router.spec.backend, device, router.has_fast_path) == "reference":
            return None
        k_proj, v_proj = (nn.Linear(shape.hidden_size, heads * head_dim, bias=False, dtype=dtype) for _ in range(2))
        X = torch.randn(shape.batch_size, shape.sequence_length, shape.hidden_size, dtype=dtype)
        gain = torch.ones(shape.hidden_size, dtype=dtype)
        rows, columns = router.source_shape()
        sources = torch.randn(len(router.reads) * rows, columns * N, dtype=dtype)
    (timing,) = interleave([lambda: router(X, gain, k_proj, v_proj, None, (sources,))], 9, device)
    return router.elements_moved(N) * dtype.itemsize / timing.median

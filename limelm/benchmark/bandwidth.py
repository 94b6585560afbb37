"""Memory bandwidth that the routing operation reaches, beside that of a plain copy."""

import functools
from typing import Any

import torch
from torch import nn

from limelm.benchmark.shape import Shape
from limelm.benchmark.timing import interleave
from limelm.routing import LayerRouter, make_routers, resolve_backend
from limelm.routing.build import DEFAULTS

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
    head_dim, N = shape.hidden // shape.heads, shape.batch * shape.tokens
    backend = options.get("routing_backend", "auto")
    named = {name: options.get(f"routing_{name}", DEFAULTS[f"routing_{name}"]) for name in ("sources", "top_p", "init")}
    with torch.device(device):
        routers = make_routers(
            options["routing"], shape.layers, shape.hidden, heads, head_dim, **named, backend=backend
        )
        router: LayerRouter = routers[shape.layers // 2].to(dtype).eval()  # type: ignore[assignment]
        k_proj, v_proj = (nn.Linear(shape.hidden, heads * head_dim, bias=False, dtype=dtype) for _ in range(2))
        X, gain = (
            torch.randn(shape.batch, shape.tokens, shape.hidden, dtype=dtype),
            torch.ones(shape.hidden, dtype=dtype),
        )
        rows, columns = router.source_shape()
        sources = torch.randn(len(router.reads) * rows, columns * N, dtype=dtype)
    if not router.has_choice or resolve_backend(backend, device, router.has_fast_path) == "reference":
        return None
    (timing,) = interleave([lambda: router(X, gain, k_proj, v_proj, None, (sources,))], 9, device)
    return router.elements_moved(N) * dtype.itemsize / timing.median

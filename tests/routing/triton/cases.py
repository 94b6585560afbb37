"""What the tests of the kernels draw from, and how they compare."""

import os

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
NEEDS_TRITON = "triton is not installed (pip install triton)"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Of the largest element: roundings of the result, and of the weights between logits and mix.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}

few = settings(max_examples=25, derandomize=True, deadline=None, database=None)
seeds = st.integers(0, 2**16)
dtypes = st.sampled_from(DTYPES)
sizes = st.integers(1, 37)
runs = st.sampled_from(["all", "two", "three", "none"])

if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("TRITON_INTERPRET is not 1 and there is no GPU", allow_module_level=True)


def rows(count: int, columns: int, dtype: torch.dtype, padding: int = 5) -> Tensor:
    """A random matrix whose rows lie `columns + padding` apart."""
    return torch.randn(count, columns + padding, dtype=dtype, device=DEVICE)[:, :columns]


def targets_in(buffer: Tensor, count: int, kind: str) -> list[tuple[slice, Tensor]]:
    """Where the gradients of `count` rows go: runs of a buffer of `count + 4` rows, with gaps between."""
    cuts = {"all": [], "two": [count // 2], "three": [count // 3, count // 2]}
    if kind == "none":
        return []
    edges = sorted({0, count, *cuts[kind]})
    gaps = range(1, len(edges))
    return [
        (slice(first, last), buffer[first + gap : last + gap])
        for gap, first, last in zip(gaps, edges, edges[1:], strict=False)
    ]


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Equal but for the roundings of `dtype`, measured by the largest element."""
    assert actual.shape == expected.shape
    scale = expected.abs().max().item() or 1.0
    error = (actual.double() - expected.double()).abs().max().item()
    assert error <= TOLERANCES[dtype] * scale, f"off by {error:.2e}, where the largest element is {scale:.2e}"

"""`chunked.ComputeBackend` in Triton."""

import functools
import logging

import torch
from torch import Tensor

from limelm.routing.ops.chunked import ComputeBackend
from limelm.routing.ops.triton import tokens
from limelm.routing.ops.triton.launch import along_rows
from limelm.routing.ops.triton.normalize import rms_normalize_backward, rms_normalize_forward
from limelm.routing.ops.triton.rows import MOST_MIXES, mix_by_token, mix_by_token_backward

logger = logging.getLogger(__name__)


class TritonBackend(ComputeBackend):
    """The arithmetic inside a chunk, in Triton kernels; other shapes fall back to PyTorch with a warning."""

    rms_normalize_forward = staticmethod(rms_normalize_forward)
    rms_normalize_backward = staticmethod(rms_normalize_backward)

    def mix_rows(self, weights: Tensor, S: Tensor) -> Tensor:
        if weights.layout == torch.sparse_csr:
            _leave_to_pytorch("a sparse mix (top-p)")
            return super().mix_rows(weights, S)
        if _has_many_rows(len(weights)):
            return super().mix_rows(weights, S)
        return mix_by_token(weights.contiguous()[None], along_rows(S))

    def mix_rows_backward(
        self, weights: Tensor, S: Tensor, grad: Tensor, targets: list[tuple[slice, Tensor]], add: bool
    ) -> Tensor:
        if _has_many_rows(len(weights)):
            return super().mix_rows_backward(weights, S, grad, targets, add)
        return mix_by_token_backward(weights.contiguous()[None], S, grad, targets, add)[0].sum(dim=0)

    def mix_tokens(self, P: Tensor, S: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        if _is_too_large(heads, len(S)):
            return super().mix_tokens(P, S, heads)
        return tokens.mix_tokens(P, S, heads)

    def mix_tokens_backward(
        self, P: Tensor, S: Tensor, A: Tensor, grad: Tensor, targets: list[tuple[slice, Tensor]], add: bool
    ) -> Tensor:
        if _is_too_large(len(grad), len(S)):
            return super().mix_tokens_backward(P, S, A, grad, targets, add)
        return tokens.mix_tokens_backward(S, A, grad, targets, add)


def _has_many_rows(heads: int) -> bool:
    if heads <= MOST_MIXES:
        return False
    _leave_to_pytorch(f"{heads} heads, above {MOST_MIXES},")
    return True


def _is_too_large(heads: int, n: int) -> bool:
    if n > tokens.MOST_SOURCES:
        _leave_to_pytorch(f"{n} sources, above {tokens.MOST_SOURCES},")
        return True
    return _has_many_rows(heads)


@functools.cache
def _leave_to_pytorch(what: str) -> None:
    logger.warning("routing_backend='triton': %s is left to PyTorch", what)

"""Mix over depth, then project, in chunks of tokens that stay in cache: nothing of size G x D per token outlives one.

Plain functions on matrices, without autograd; `limelm.routing.ops.autograd` gives them their gradients. The backward
makes each chunk's mixed input again, so that a forward keeps nothing but the sources. Letters: N tokens in all, c in a
chunk, D hidden size, G key/value heads, n sources, e = 2 d the width of a key and a value together. S are the sources'
rows of a chunk, `[n, c D]`; Z the mixed input, `[G, c, D]`; W the projection, `[G, e, D]`.

The products inside a chunk are `ComputeBackend`: here in PyTorch, in `limelm.routing.ops.triton` in Triton.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limelm.routing.ops.rms_norm import rms_normalize_backward, rms_normalize_forward
from limelm.routing.ops.source_matrix import SourceMatrix, chunks, cuts_on

# How narrow products are cut on a CPU; dev/LOG.md has the measurement.
BLOCK, ROWS_AT_ONCE, ROWS_TO_CUT = 2048, 8, 16


@dataclass
class GradientRows:
    """Where the gradients of the sources go: rows of one buffer, written by the last reader, added to by the others.

    Attributes:
        buffer: `[sources r, X]`, r rows per source.
        runs: which sources they are, as `source_matrix.runs` gives them.
        rows_each: r.
        add: whether the rows hold the gradients of later readers already.
    """

    buffer: Tensor
    runs: Sequence[tuple[int, int, int]]
    rows_each: int
    add: bool

    def targets(self, start: int, stop: int) -> list[tuple[slice, Tensor]]:
        """Each run's rows among the sources' rows, and its part of the buffer `[rows, stop - start]`."""
        r = self.rows_each
        return [
            (slice(first * r, last * r), self.buffer[source * r : (source + last - first) * r, start:stop])
            for first, last, source in self.runs
        ]


class ComputeBackend:
    """The arithmetic inside a chunk, in PyTorch, and the normalization of what is mixed."""

    rms_normalize_forward = staticmethod(rms_normalize_forward)
    rms_normalize_backward = staticmethod(rms_normalize_backward)

    def mix_rows(self, weights: Tensor, S: Tensor) -> Tensor:
        """`weights @ S`: `[M, K]` (dense, or sparse CSR) and `[K, X]` to `[M, X]`."""
        if weights.layout == torch.sparse_csr or not _is_cut(S):
            return weights @ S
        blocks = _cut(S)
        return torch.bmm(weights.expand(len(blocks), -1, -1), blocks).transpose(0, 1).reshape(len(weights), -1)

    def mix_rows_backward(
        self, weights: Tensor, S: Tensor, grad: Tensor, targets: list[tuple[slice, Tensor]], add: bool
    ) -> Tensor:
        """The gradient of the weights `[M, K]` from `grad` `[M, X]`, in float32; that of S goes to `targets`."""
        is_cut = _is_cut(S)
        height = ROWS_AT_ONCE if is_cut else len(S)
        for rows, target in targets:
            for part, columns in zip(target.split(height), weights[:, rows].T.split(height), strict=True):
                part.addmm_(columns, grad, beta=int(add))
        if not is_cut:
            return (grad @ S.T).to(at_least_float32(S.dtype))
        return torch.bmm(_cut(grad), _cut(S).transpose(1, 2)).sum(dim=0, dtype=at_least_float32(S.dtype))

    def mix_tokens(self, P: Tensor, S: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Route per token: `A = softmax(x P^T)` with x the last source, and `Z_h = sum_j A[h, j] S_j`.

        Returns:
            A `[c, G, n]` and Z `[G, c, D]`.
        """
        current, per_token = _current_and_per_token(P, S)
        logits = (P @ current.T).view(heads, -1, len(current))  # sources before tokens: softmax runs along tokens
        A = logits.to(at_least_float32(S.dtype)).softmax(dim=1).to(S.dtype).permute(2, 0, 1).contiguous()
        return A, torch.bmm(A, per_token).transpose(0, 1)

    def mix_tokens_backward(
        self, P: Tensor, S: Tensor, A: Tensor, grad: Tensor, targets: list[tuple[slice, Tensor]], add: bool
    ) -> Tensor:
        """The gradient of the logits `[c, G n]` from `grad` dZ `[G, c, D]`; that of S as a mix goes to `targets`."""
        _, per_token = _current_and_per_token(P, S)
        by_token = grad.transpose(0, 1)  # [c, G, D]
        for rows, target in targets:
            grad_S = torch.bmm(A[:, :, rows].transpose(1, 2), by_token).transpose(0, 1)  # [n, c, D]
            target = target.view(grad_S.shape)
            _ = target.add_(grad_S) if add else target.copy_(grad_S)
        grad_A = torch.bmm(by_token, per_token.transpose(1, 2)).to(at_least_float32(S.dtype))
        A = A.to(grad_A.dtype)
        return (A * (grad_A - (A * grad_A).sum(dim=-1, keepdim=True))).to(S.dtype).flatten(1)


def _is_cut(S: Tensor) -> bool:
    """Whether products with S `[K, X]` go block by block: on a CPU, where narrow ones are slow otherwise."""
    rows, columns = S.shape
    return columns > BLOCK and rows >= ROWS_TO_CUT and columns % BLOCK == 0 and cuts_on(S.device).in_blocks


def _cut(matrix: Tensor) -> Tensor:
    """`[rows, X]` seen as `[X / BLOCK, rows, BLOCK]`."""
    return matrix.unflatten(1, (-1, BLOCK)).transpose(0, 1)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which gradients of parameters are summed over chunks."""
    return torch.promote_types(dtype, torch.float32)


def _current_and_per_token(P: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """The last source `[c, D]`, and all of them as one matrix per token, `[c, n, D]`."""
    per_token = S.unflatten(1, (-1, P.shape[1])).transpose(0, 1)
    return per_token[:, -1], per_token


def mix(compute: ComputeBackend, S: Tensor, weights: Tensor, heads: int, hidden_size: int, per_token: bool) -> Tensor:
    """Z `[G, c, D]` from the sources' rows `[n, c D]`; weights as for `mix_project`."""
    if per_token:
        return compute.mix_tokens(weights, S, heads)[1]
    return compute.mix_rows(weights, S).view(heads, -1, hidden_size)


def mix_project(
    compute: ComputeBackend, sources: Sequence[Tensor], weights: Tensor, projection: Tensor, per_token: bool
) -> tuple[Tensor, Tensor]:
    """Mix the sources for each head and project: `K_h, V_h = (sum_j A[h, j] S_j) W_h^T`.

    Args:
        sources: `n` rows `[N D]`.
        weights: A `[G, n]`; or, with `per_token`, the router's projection P `[G n, D]`.
        projection: W `[G, 2 d, D]`, each head's rows for the key, then those for the value.

    Returns:
        K and V `[G, N, d]`, each in memory of its own, so that neither outlives its use for the other's sake.
    """
    heads, width, hidden_size = projection.shape
    matrix = SourceMatrix(sources)
    tokens = matrix.columns // hidden_size
    K, V = (projection.new_empty(heads, tokens, width // 2) for _ in range(2))
    for start, stop in chunks(tokens, heads * hidden_size * K.element_size(), K.device):
        S = matrix.read(start * hidden_size, stop * hidden_size)
        Z = mix(compute, S, weights, heads, hidden_size, per_token)
        K[:, start:stop], V[:, start:stop] = torch.bmm(Z, projection.transpose(1, 2)).chunk(2, dim=-1)
    return K, V


def mix_project_backward(
    compute: ComputeBackend,
    grad_K: Tensor,
    grad_V: Tensor,
    sources: Sequence[Tensor],
    weights: Tensor,
    projection: Tensor,
    per_token: bool,
    gradients: GradientRows | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `mix_project`: of the weights and the projection, in float32; the sources' go to `gradients`."""
    heads, _, hidden_size = projection.shape
    matrix = SourceMatrix(sources)
    tokens = matrix.columns // hidden_size
    grad_weights = torch.zeros_like(weights, dtype=at_least_float32(weights.dtype))
    grad_projection = torch.zeros_like(projection, dtype=grad_weights.dtype)
    bytes_each = 2 * heads * hidden_size * projection.element_size()  # Z and its gradient
    for start, stop in chunks(tokens, bytes_each, projection.device):
        columns = (start * hidden_size, stop * hidden_size)
        S = matrix.read(*columns)
        targets = [] if gradients is None else gradients.targets(*columns)
        add = gradients is not None and gradients.add
        grad_Y = torch.cat((grad_K[:, start:stop], grad_V[:, start:stop]), dim=-1)
        grad_Z = torch.bmm(grad_Y, projection)
        if per_token:
            A, Z = compute.mix_tokens(weights, S, heads)
            grad_logits = compute.mix_tokens_backward(weights, S, A, grad_Z, targets, add)
            current = S[-1].view(-1, hidden_size)
            grad_weights += grad_logits.T @ current
            if gradients is not None:
                _, target = targets[-1]
                target[-1].view(-1, hidden_size).addmm_(grad_logits, weights)
        else:
            Z = compute.mix_rows(weights, S).view(heads, -1, hidden_size)
            grad_weights += compute.mix_rows_backward(weights, S, grad_Z.view(heads, -1), targets, add)
        if grad_projection.dtype == Z.dtype:
            grad_projection.baddbmm_(grad_Y.transpose(1, 2), Z)
        else:
            grad_projection += torch.bmm(grad_Y.transpose(1, 2), Z)
    return grad_weights, grad_projection


def mix_heads(compute: ComputeBackend, sources: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mix the heads of several layers into new ones: `K_h = sum_j sum_h' R[h, j G + h'] K_{j,h'}`, V with the same R.

    Args:
        sources: `n` layers' heads, G rows each, `[G, 2 N d]`: the keys of all tokens, then the values.
        weights: R `[S G, n G]`, S sets of weights.

    Returns:
        K and V `[S G, N d]`, each in memory of its own, so that neither outlives its use for the other's sake.
    """
    matrix = SourceMatrix(sources)
    K, V = (
        [compute.mix_rows(weights, matrix.read(start, stop)) for start, stop in pieces] for pieces in _halves(matrix)
    )
    return (K[0], V[0]) if len(K) == 1 else (torch.cat(K, dim=1), torch.cat(V, dim=1))


def mix_heads_backward(
    compute: ComputeBackend,
    grads: Sequence[Tensor | None],
    sources: Sequence[Tensor],
    weights: Tensor,
    gradients: GradientRows | None,
) -> Tensor:
    """The gradient of `mix_heads`' weights from those of K and V; the sources' go to `gradients`."""
    matrix = SourceMatrix(sources)
    grad_weights = torch.zeros_like(weights, dtype=at_least_float32(weights.dtype))
    for grad, pieces in zip(grads, _halves(matrix), strict=True):
        first = pieces[0][0]
        for start, stop in pieces:
            targets = [] if gradients is None else gradients.targets(start, stop)
            add = gradients is not None and gradients.add
            if grad is not None:
                part = grad[:, start - first : stop - first]
                grad_weights += compute.mix_rows_backward(weights, matrix.read(start, stop), part, targets, add)
            elif not add:
                for _, target in targets:
                    target.zero_()
    return grad_weights


def _halves(matrix: SourceMatrix) -> list[list[tuple[int, int]]]:
    """The column ranges of the keys and those of the values, in cache-sized pieces unless read in place."""
    half = matrix.columns // 2
    pieces = matrix.pieces(half)
    return [pieces, [(half + start, half + stop) for start, stop in pieces]]

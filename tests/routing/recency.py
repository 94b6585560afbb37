"""A routing of somebody's own: one class and one line. `python -m tests.routing.recency ...` is `limelm` with it."""

import sys

import torch
from torch import Tensor, nn
from transformers import initialization as init

from limelm.routing import ROUTERS, RepresentationRouter, RouterSpec


class RecencyRouter(RepresentationRouter):
    """`A[h, j] = softmax_j(s_h (j - i))`: each head learns how far back it looks, by one number."""

    def __init__(self, spec: RouterSpec):
        super().__init__(spec)
        if spec.layer_idx > 0:
            self.slope = nn.Parameter(torch.empty(spec.num_heads))

    def init_weights(self, std: float = 0.02) -> None:
        if self.has_choice:
            init.normal_(self.slope, mean=0.5, std=0.1)

    def routing_weights(self, current: Tensor | None = None) -> Tensor:
        distance = torch.tensor(self.spec.source_ids, device=self.slope.device) - self.spec.layer_idx
        return (self.slope.float().unsqueeze(-1) * distance).softmax(dim=-1)


def register() -> None:
    ROUTERS["recency"] = RecencyRouter


if __name__ == "__main__":
    register()
    from limelm.cli import main

    sys.exit(main(sys.argv[1:]))

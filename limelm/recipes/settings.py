"""How a recipe's models are trained: what decides the result (by default the paper's), and what the machine needs."""

from dataclasses import dataclass
from typing import Annotated, Literal

from limelm.records import Count, NotNegative, Positive, PositiveFloat, Size, at_least, at_most, less_than

MOST_STEPS = 10**9
SEEDS = 2**32  # of a random generator

Steps = Annotated[int, at_least(1), at_most(MOST_STEPS)]
Beta = Annotated[float, at_least(0), less_than(1)]


@dataclass(frozen=True)
class TrainingRecipe:
    """Optimizer and schedule. The defaults are the paper's (arXiv 2502.09245, Table 3).

    Attributes:
        batch_size: sequences of a step, over all processes.
        router_learning_rate: of the routers and of whatever else is put into a pretrained model.
        min_lr_ratio: where the cosine ends, as a share of each group's learning rate.
        eval_steps: between two measurements of the held-out loss (not in the paper).
        seed: of the initial values and of the order of the data; the first, where there are several.
    """

    steps: Steps = 20_000
    batch_size: Size = 1024
    learning_rate: PositiveFloat = 1e-3
    router_learning_rate: PositiveFloat = 1e-2
    weight_decay: NotNegative = 0.1
    adam_beta1: Beta = 0.9
    adam_beta2: Beta = 0.95
    adam_epsilon: PositiveFloat = 1e-8
    warmup_steps: Count = 200
    min_lr_ratio: Annotated[float, at_least(0), at_most(1)] = 1e-6
    max_grad_norm: PositiveFloat = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"
    eval_steps: Steps = 500
    seed: Annotated[int, at_least(0), less_than(SEEDS)] = 42


@dataclass(frozen=True)
class EngineRecipe:
    """Settings of the machine, which change a result by rounding only and may differ when a run goes on.

    Attributes:
        micro_batch_size: sequences per process and forward, at most; gradients of several make the batch.
        sharding: of weights, gradients and optimizer over processes: "none" (DDP keeps a copy in each), or "fsdp"
            (FSDP2, one unit per layer).
        activation_checkpointing: keep only the layers' inputs, and compute the rest again in the backward.
        compile: run `torch.compile` with its default backend.
        save_steps: between two checkpoints.
        keep_checkpoints: how many of the newest to keep.
    """

    micro_batch_size: Size = 8
    sharding: Literal["none", "fsdp"] = "none"
    activation_checkpointing: bool = False
    compile: bool = False
    save_steps: Steps = 500
    keep_checkpoints: Positive = 2

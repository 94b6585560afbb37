"""`limelm plan`: what a training will cost, before anything is spent."""

import argparse
from typing import TYPE_CHECKING, Any

from limelm.cli.options import add_shared
from limelm.cli.output import Output
from limelm.cli.recipe_fields import EXPLANATION, add_model_of_recipe, recipe_and_model
from limelm.cli.types import positive_int, positive_number
from limelm.errors import UserError

if TYPE_CHECKING:
    from limelm.planning.plan import ModelPlan, Plan

HELP = "show memory, FLOPs, disk and time of a training before it starts"
NEEDS = "lab"
KEYS = ("recipe", "model", "gpus", "fits", "tokens", "shard_bytes", "costs", "llama_costs")
SAVES_MEMORY = "--num-hidden-layers or --hidden-size"
DESCRIPTION = f"""\
Show what training a model will cost: parameters, tokens, FLOPs, memory per GPU, disk and time, beside a LLaMA of the
same shape. This needs no GPU and no data, and starts no training. If the training does not fit into memory, the plan
says so, and which settings would fit.

RECIPE is a recipe's name, or the path of a .toml file.
{EXPLANATION}
"""

EPILOG = """\
examples:
  limelm plan paper-1.2b --model static --gpus 8
  limelm plan paper-1.2b --model dynamic --gpus 64 --tokens-per-second 30000
  limelm plan paper-1.2b --model kv --gpus 4 --gpu-memory 40 --micro-batch-size 2 --activation-checkpointing true
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "RECIPE")
    add_model_of_recipe(parser)
    parser.add_argument("--gpus", type=positive_int, default=1, metavar="N", help="how many GPUs (1)")
    for option, meaning, default in (
        ("--gpu-memory", "GiB of one GPU (80)", 80),
        ("--tokens-per-second", "of one GPU, if you have measured them (default: computed from --mfu)", None),
        ("--peak-tflops", "peak TFLOP/s of one GPU (989: an H100's, dense bfloat16)", 989),
    ):
        parser.add_argument(option, type=positive_number(), default=default, metavar="X", help=meaning)
    parser.add_argument(
        "--mfu", type=positive_number(1), default=0.4, metavar="X", help="share of the peak that is reached (0.4)"
    )


def run(options: argparse.Namespace) -> Output:
    """Plan, and refuse a training that does not fit."""
    from limelm.planning.fit import GIB
    from limelm.planning.plan import Hardware, make_plan, require_fit
    from limelm.planning.table import plan_table

    recipe, name = recipe_and_model(options, options.fields)
    hardware = Hardware(
        gpus=options.gpus,
        memory=int(options.gpu_memory * GIB),
        tokens_per_second=options.tokens_per_second,
        mfu=options.mfu,
        peak_flops=options.peak_tflops * 1e12,
    )
    plan = make_plan(recipe, name, hardware)
    failure = None
    try:
        require_fit(plan)
    except UserError as error:
        failure = error
    return Output(plan_table(plan), _facts(plan), failure)


def _facts(plan: "Plan") -> dict[str, Any]:
    return {
        "recipe": plan.recipe.name,
        "model": plan.name,
        "gpus": plan.hardware.gpus,
        "fits": plan.missing <= 0 if plan.model.memory else None,
        "tokens": plan.tokens,
        "shard_bytes": plan.shard_bytes,
        "costs": _costs(plan.model),
        "llama_costs": plan.baseline and _costs(plan.baseline),
    }


def _costs(model: "ModelPlan") -> dict[str, Any]:
    return {
        "parameters": model.cost.parameters,
        "training_flops_per_token": model.training_flops,
        "memory_bytes": model.memory and {**model.memory.parts, "total": model.memory.total},
        "checkpoint_bytes": model.checkpoint_bytes,
        "model_bytes": model.weight_bytes,
        "seconds": model.seconds,
    }

"""`limelm plan`: what a training will cost, before anything is spent."""

import argparse

from limelm.cli.recipe_fields import EXPLANATION, add_model_of_recipe, recipe_and_model
from limelm.cli.types import positive_int, positive_number

HELP = "memory, FLOPs, disk and time of a training, before it starts"
NEEDS = "lab"
SAVES_MEMORY = "--num-hidden-layers or --hidden-size"
DESCRIPTION = f"""\
Show what training a model will cost: parameters, tokens, FLOPs, memory per GPU, disk and time, beside a LLaMA of the
same shape. It needs no GPU and no data, and starts nothing. Where the memory does not fit, it says so, with what would.
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
    add_model_of_recipe(parser)
    parser.add_argument("--gpus", type=positive_int, default=1, metavar="N", help="how many GPUs (1)")
    parser.add_argument(
        "--gpu-memory", type=positive_number(), default=80, metavar="GIB", help="of one GPU, in GiB (80)"
    )
    parser.add_argument(
        "--tokens-per-second", type=positive_number(), metavar="N", help="of one GPU, measured (default: from --mfu)"
    )
    parser.add_argument(
        "--mfu",
        type=positive_number(1),
        default=0.4,
        metavar="SHARE",
        help="assumed share of the peak FLOP/s, in (0, 1] (0.4)",
    )
    parser.add_argument(
        "--peak-tflops",
        type=positive_number(),
        default=989,
        metavar="N",
        help="of one GPU (989: an H100's, dense bfloat16)",
    )


def run(options: argparse.Namespace) -> None:
    """Print the plan, and refuse a training that does not fit."""
    from limelm.training.planning.fit import GIB
    from limelm.training.planning.plan import Hardware, make_plan, require_fit
    from limelm.training.planning.table import plan_table

    recipe, name = recipe_and_model(options, options.fields)
    hardware = Hardware(
        gpus=options.gpus,
        memory=int(options.gpu_memory * GIB),
        tokens_per_second=options.tokens_per_second,
        mfu=options.mfu,
        peak_flops=options.peak_tflops * 1e12,
    )
    plan = make_plan(recipe, name, hardware)
    print(plan_table(plan), flush=True)
    require_fit(plan)

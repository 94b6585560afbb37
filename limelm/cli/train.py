"""`limelm train`: one model of a recipe, on one process or many."""

import argparse
from pathlib import Path

from limelm.cli.recipe_fields import EXPLANATION, add_model_of_recipe, add_training_options, all_fields
from limelm.errors import UserError

HELP = "train one model, resumably, on one GPU or many"
NEEDS = "lab"
SAVES_MEMORY = "--micro-batch-size or --sequence-length, or set --activation-checkpointing true"
DESCRIPTION = f"""\
Train one model. RECIPE is a recipe's name and one of its models, such as tiny-static or paper-1.2b-kv, or the path of a
recipe's .toml file, with --model where it has several.
{EXPLANATION}

--attach puts routers into the pretrained model that --from names, and trains these alone, or with --trains kv, lora or
all more of it. OUT then holds an adapter. --from alone goes on training all of a model, native or of another family,
and OUT holds a checkpoint. For both, --data has to be prepared with the model's own tokenizer.

Started again with the same OUT, it goes on from the newest complete checkpoint: the result is that of a training that
was never broken off. Ctrl-C and SIGTERM save a checkpoint first.

On several GPUs it is started by torchrun or accelerate launch; the batch of a step stays the recipe's.
"""

EPILOG = """\
examples:
  limelm train tiny-static --out static
  limelm train small-dynamic --data tokens --out dynamic --steps 200 --report-to tensorboard
  limelm train --from demo/seed-42/static --data demo/data --steps 100 --out more       go on training a model
  limelm train --attach kv --from my-llama --data tokens --out routers                 LIMe in a pretrained model
  limelm train --attach kv --from my-llama --trains lora --data tokens --out routers   routers and LoRA
  torchrun --nproc-per-node 8 -m limelm train paper-1.2b-static --data tokens --out static --sharding fsdp
"""


WHOLE_MODEL = "full"  # of the recipe attach: no routers are put in, and everything is trained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_model_of_recipe(parser, nargs="?")
    parser.add_argument(
        "--attach", metavar="ROUTING", help="kv, static, dynamic, ...: that model of the recipe attach; needs --from"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; made where it is missing")
    add_training_options(parser)


def run(options: argparse.Namespace) -> None:
    """Train, and print the results."""
    from limelm.training import load_experiment, train_model
    from limelm.training.processes import this_process
    from limelm.training.result import read_result

    names_recipe, names_routing = options.recipe is not None, options.attach is not None
    if names_recipe == names_routing and (names_recipe or options.base is None):
        raise UserError("give a RECIPE, or --from MODEL, or --attach ROUTING --from MODEL")
    experiment = options.recipe or f"attach-{options.attach or WHOLE_MODEL}"
    recipe, name = load_experiment(experiment, options.model, all_fields(options))
    recipe.check_model(name)
    done = read_result(options.out)
    result = train_model(recipe, name, options.data, options.out, options.report_to)
    if this_process().is_main_process:
        complete = "complete, nothing to train. " if done else ""
        print(
            f"{options.out}: {complete}{result.label}, {result.parameters:,} parameters, "
            f"{result.train_tokens:,} tokens, held-out loss {result.eval_loss:.3f} "
            f"(perplexity {result.eval_perplexity:.1f}), {result.tokens_per_second:,.0f} tokens/s"
        )

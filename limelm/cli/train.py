"""`limelm train`: one model of a recipe, on one process or many."""

import argparse
from dataclasses import asdict

from limelm.cli.options import add_shared
from limelm.cli.output import Output
from limelm.cli.recipe_fields import (
    EXPLANATION,
    add_model_of_recipe,
    add_text_and_base,
    all_fields,
    recipe_and_model,
)

HELP = "train one model on one GPU or many; it can be interrupted and continued"
NEEDS = "lab"
KEYS = ("out", "trained", "result")
SAVES_MEMORY = "--micro-batch-size or --sequence-length, or set --activation-checkpointing true"
DESCRIPTION = f"""\
Train one model of a recipe. RECIPE is a recipe's name, such as tiny or paper-1.2b, or the path of a .toml file.
{EXPLANATION}

With the recipe attach, --from names a pretrained model, and --data must be prepared with that model's own tokenizer.
--model kv, static or dynamic puts routers into the model; a name such as dense puts in a connection of another paper.
Only what is put in is trained, unless --trains kv, lora or all says more. OUT then holds an adapter. --model full puts
in nothing: it continues the training of all weights, of a native model or one of another family.

If you start it again with the same OUT, it continues from the newest complete checkpoint. The result is that of a
training that was never interrupted. Ctrl-C and SIGTERM save a checkpoint first.

On several GPUs, start it with torchrun or accelerate launch. The batch of a step stays the recipe's.
"""

EPILOG = """\
examples:
  limelm train tiny --out static --model static
  limelm train small --out dynamic --data tokens --model dynamic --steps 200 --report-to tensorboard
  limelm train attach --out routers --data tokens --from my-llama --model kv      LIMe in a pretrained model
  limelm train attach --out routers --data tokens --from my-llama --model kv --trains lora     routers and LoRA
  limelm train attach --out more --data tokens --from my-llama --model full       continue training a model
  torchrun --nproc-per-node 8 -m limelm train paper-1.2b --out static --data tokens --model static --sharding fsdp
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "RECIPE")
    add_shared(parser, "--out", "; made where it is missing")
    add_text_and_base(parser)
    add_model_of_recipe(parser)
    add_shared(parser, "--report-to")


def run(options: argparse.Namespace) -> Output | None:
    """Train; None from all processes but the first."""
    from limelm.environment import this_process
    from limelm.training import train_model
    from limelm.training.result import read_result

    recipe, name = recipe_and_model(options, all_fields(options))
    recipe.subjects[name].check(recipe.data.sequence_length, recipe.data.vocab_size)
    done = read_result(options.out)
    result = train_model(recipe, name, options.data, options.out, options.report_to)
    if not this_process().is_main_process:
        return None
    complete = "complete, nothing to train. " if done else ""
    return Output(
        f"{options.out}: {complete}{result.label}, {result.parameters:,} parameters, "
        f"{result.train_tokens:,} tokens, held-out loss {result.eval_loss:.3f} "
        f"(perplexity {result.eval_perplexity:.1f}), {result.tokens_per_second:,.0f} tokens/s",
        {"out": options.out, "trained": not done, "result": asdict(result)},
    )

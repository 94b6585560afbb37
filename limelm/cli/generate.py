"""`limelm generate`: stream text from a checkpoint."""

import argparse

from limelm.cli.options import add_shared
from limelm.cli.types import any_float, any_text, integer
from limelm.errors import UserError

HELP = "continue a prompt with a checkpoint"
NEEDS = None
SAVES_MEMORY = "--max-new-tokens, or use a shorter PROMPT"
DESCRIPTION = """\
Continue PROMPT with a checkpoint, and print the text while it is generated.
"""

EPILOG = """\
examples:
  limelm generate demo/seed-42/dynamic "import os"
  limelm generate demo/seed-42/static "def main(" --max-new-tokens 200 --temperature 0.7 --seed 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "CHECKPOINT")
    parser.add_argument("prompt", type=any_text, metavar="PROMPT", help="text to continue; may be empty")
    parser.add_argument(
        "--max-new-tokens",
        type=integer(1, 1_000_000),
        default=100,
        metavar="N",
        help="at most N tokens are generated (100)",
    )
    parser.add_argument(
        "--temperature",
        type=any_float,
        default=0.8,
        metavar="X",
        help="0: the likeliest token; higher: more random (0.8)",
    )
    parser.add_argument("--top-p", type=any_float, default=0.95, metavar="X", help="nucleus sampling, in (0, 1] (0.95)")
    add_shared(parser, "--seed", " (0)", default=0)


def run(options: argparse.Namespace) -> None:
    """Load a model, sample from it, and stream the text."""
    from transformers import LogitsProcessorList, TextStreamer, set_seed

    from limelm.evaluation.finite import FiniteLogits
    from limelm.loading import context_length, load_checkpoint
    from limelm.tokenizers import with_bos

    if not (options.temperature == 0 or 1e-3 <= options.temperature <= 1e3):
        raise UserError(f"--temperature {options.temperature} must be 0, or from 0.001 to 1000")
    if not 0 < options.top_p <= 1:
        raise UserError(f"--top-p {options.top_p} is outside (0, 1]")
    model, tokenizer = load_checkpoint(options.checkpoint)
    inputs = tokenizer(with_bos(options.prompt, tokenizer), add_special_tokens=False, return_tensors="pt").to(
        model.device
    )
    length = inputs["input_ids"].shape[1]
    if not length:
        raise UserError("PROMPT is empty, and the tokenizer has no BOS or EOS token to begin with; give some text")

    sampling = {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
    set_seed(options.seed)
    try:
        model.generate(
            **inputs,
            max_new_tokens=options.max_new_tokens,
            pad_token_id=tokenizer.eos_token_id,
            logits_processor=LogitsProcessorList([FiniteLogits(str(options.checkpoint))]),
            streamer=TextStreamer(tokenizer, skip_special_tokens=True),
            **(sampling if options.temperature > 0 else {"do_sample": False}),
        )
    except IndexError as error:  # learned positions end with the context
        context = context_length(model.config)
        if context is None or length + options.max_new_tokens <= context:
            raise
        raise UserError(
            f"--max-new-tokens {options.max_new_tokens}: with the PROMPT's {length} tokens more than the {context} "
            f"that {options.checkpoint} reads; lower it, or shorten PROMPT"
        ) from error

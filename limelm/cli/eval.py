"""`limelm eval`: benchmark scores and perplexity with their errors, on any checkpoint."""

import argparse
from pathlib import Path

from limelm.cli.options import add_shared
from limelm.cli.output import Output, note
from limelm.cli.resources import check_out, find_device
from limelm.cli.types import integer, listed, positive_int
from limelm.errors import UserError

HELP = "score models on benchmarks, with errors and comparisons"
NEEDS = "lab"
KEYS = ("out", "report", "scores", "averages", "answers", "perplexity", "notes")
SAVES_MEMORY = "--batch-size or --window"
DESCRIPTION = """\
Score models: run tasks of the lm-evaluation-harness on checkpoints, measure their perplexity and bits per byte on text,
or both. The report says how reliable the results are. It has standard errors, chance, the score of a constant answer,
the paper's values, and paired differences from the first model. The command writes OUT/report.html, evaluation.json,
table.md, figures, and every item and document below OUT/items.

CHECKPOINT is a folder, or a name on the Hugging Face hub, of any causal language model, or of an adapter for one. If
you start an interrupted evaluation again, it continues with the next task or domain. docs/evaluation.md defines every
number and says how it can be misread.
"""

EPILOG = """\
tasks:
  paper          ARC, WinoGrande, COPA, MultiRC, RTE, HellaSwag, PIQA, 1 shot (v1, Table 1)
  paper-v2       MultiRC, WiC, QNLI, ARC, logical deduction, key-value retrieval, induction, 3 shots (v2, Table 1)
  NAME           any task, group or tag of the harness; key_value_retrieval and induction are limelm's own

examples:
  limelm eval demo/seed-42/* --tasks key_value_retrieval,induction --out scores
  limelm eval my-llama my-lime --tasks paper --local-data benchmarks/ --out scores
  limelm eval my-llama my-lime --domain wiki=wiki/ --domain held-out=tokens/ --window 512 --out perplexity
  limelm eval HuggingFaceTB/SmolLM2-135M --tasks hellaswag,piqa --shots 0 --limit 500 --out scores
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "CHECKPOINT", nargs="+")
    add_shared(parser, "--out", ", new or of an earlier evaluation")
    parser.add_argument("--tasks", type=listed, metavar="NAME,...", help="suites and tasks; see below")
    parser.add_argument(
        "--domain",
        action="append",
        metavar="[NAME=]PATH",
        help="a domain: a file or folder of text, or the validation split of a folder of token shards; may be repeated",
    )
    parser.add_argument(
        "--local-data",
        type=Path,
        metavar="DIR",
        help="read the tasks from JSONL and TSV files, without a network",
    )
    parser.add_argument("--shots", type=integer(0), metavar="N", help="examples in each prompt (default: the suite's)")
    parser.add_argument(
        "--window",
        type=integer(2),
        metavar="N",
        help="tokens of text read at once (default: the smallest context of the models, at most 1024)",
    )
    parser.add_argument(
        "--stride", type=positive_int, metavar="N", help="tokens by which the window moves (default: half of it)"
    )
    parser.add_argument(
        "--limit",
        type=positive_int,
        metavar="N",
        help="score only the first N items of each task and documents of each domain",
    )
    add_shared(parser, "--batch-size", ", for tasks (16)")
    add_shared(parser, "--device")
    add_shared(parser, "--seed", ": of the examples in prompts (1234, the harness's)")


#: Options, and the one that they need.
NEEDED = {
    "tasks": ("local_data", "shots", "batch_size", "seed"),
    "domain": ("window", "stride"),
}


def run(options: argparse.Namespace) -> Output:
    """Score one model after the other, and write the report."""
    from dataclasses import asdict

    from limelm.evaluation.domains import TextRequest, named_paths
    from limelm.evaluation.harness import TaskSettings
    from limelm.evaluation.items import FOLDER
    from limelm.evaluation.run import evaluate
    from limelm.evaluation.suites import expand
    from limelm.loading import model_labels
    from limelm.report.evaluation import perplexities_as_text, scores_as_text, write_evaluation

    if not (options.tasks or options.domain):
        raise UserError("nothing to score: give --tasks, --domain or both")
    for needed, others in NEEDED.items():
        for option in others:
            if getattr(options, option) is not None and not getattr(options, needed):
                raise UserError(f"--{option.replace('_', '-')}: only with --{needed}")
    if options.local_data is not None and not options.local_data.is_dir():
        raise UserError(f"--local-data: {options.local_data} is not a folder")
    check_out(options.out, marker=FOLDER)
    given = {"limit": options.limit, "batch_size": options.batch_size, "seed": options.seed}
    known = {name: value for name, value in given.items() if value is not None}
    settings = TaskSettings(device=find_device(options.device), **known)
    labels = model_labels(options.checkpoints)
    wanted = expand(options.tasks or [], options.shots)
    text = TextRequest(named_paths(options.domain), options.window, options.stride) if options.domain else None
    evaluation = evaluate(options.checkpoints, labels, wanted, options.local_data, text, settings, options.out)
    reasons = [f"{missing['model']}: no {missing['task']}: {missing['reason']}" for missing in evaluation.notes]
    if not (evaluation.scores or evaluation.perplexity):
        raise UserError(f"no task could be scored: {'; '.join(reasons)}")
    for reason in reasons:
        note(reason)
    page = write_evaluation(options.out, asdict(evaluation))
    tables = [scores_as_text(evaluation.scores, evaluation.averages)] if evaluation.scores else []
    tables += [perplexities_as_text(evaluation.perplexity)] if evaluation.perplexity else []
    facts = {name: getattr(evaluation, name) for name in ("notes", "scores", "averages", "answers", "perplexity")}
    return Output("\n\n".join(tables) + f"\nReport: {page}", {"out": options.out, "report": page, **facts})

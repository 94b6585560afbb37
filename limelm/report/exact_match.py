"""The report of `limelm reproduce arithmetic-3`: which models reason better, over seeds."""

from collections import Counter
from pathlib import Path

from limelm.environment import environment
from limelm.errors import UserError
from limelm.evaluation.exact_match import EXACT_MATCH, summarize_accuracies
from limelm.evaluation.kept import KeptScores
from limelm.records import Record, Records, build, load_json
from limelm.report.columns import Column, percent, points, share, unbroken
from limelm.report.figures.exact_match import accuracies
from limelm.report.figures.palette import Palette
from limelm.report.html import Section, write_page
from limelm.report.made import made_now


def write_exact_match(out: Path) -> tuple[Path, Records]:
    """Write `out/report.html` and `out/figures/*` on all tasks that `out/*/exact-match.json` tell of.

    Returns:
        The page's path, and the summaries of all tasks (see `limelm.evaluation.exact_match.summarize_accuracies`).

    Raises:
        UserError: for a file that is broken.
    """
    tasks = [_read(path) for path in sorted(out.glob(f"*/{EXACT_MATCH}"))]
    scores = [row for task in tasks for row in task["scores"]]
    summary = [
        {**row, "chance": task["chance"], "constant_rate": task["constant_rate"]}
        for task in tasks
        for row in summarize_accuracies(task["scores"], task["baseline"])
    ]
    models = list(dict.fromkeys(row["model"] for row in scores))
    palette = Palette(models)
    page = write_page(
        out,
        _sections(scores, summary, {task["task"]: task["chance"] for task in tasks}, palette),
        title="Reasoning from scratch: " + ", ".join(task["task"] for task in tasks),
        lead=(
            "Models trained from scratch on generated problems, and asked others that they have not seen. Within a "
            "seed all models see the same problems in the same order and share initial values."
        ),
        palette=palette,
        tiles={model: _tile(model, summary, len(models)) for model in models},
        cautions=_cautions(tasks, summary),
        facts={
            "Command": made_now(),
            "Problems": [(task["task"], _counts(task)) for task in tasks],
            "Environment of the evaluation": list(environment().items()),
        },
    )
    return page, summary


def _read(path: Path) -> Record:
    try:
        task: Record = load_json(path)
        build(KeptScores, task, str(path))
    except UserError as error:
        raise UserError(f"{error}; remove it, and the same command writes it again") from error
    return task


def _counts(task: Record) -> str:
    return f"{task['train_problems']:,} problems to learn from, {task['problems']:,} asked ({task['tested_on']})"


def _tile(model: str, summary: Records, models: int) -> tuple[str, str]:
    """The tile of a model: its mean over the tasks that all models have, or else over its own tasks."""
    trained = Counter(row["task"] for row in summary)
    own = [row for row in summary if row["model"] == model]
    shared = [row for row in own if trained[row["task"]] == models]
    of = shared or own
    tasks = of[0]["task"] if len(of) == 1 else f"mean of {len(of)} tasks"
    return share(sum(row["mean"] for row in of) / len(of)), f"right answers: {tasks}"


def _cautions(tasks: Records, summary: Records) -> list[str]:
    counts = sorted({len({row["seed"] for row in task["scores"]}) for task in tasks})
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    compared = sum(len({row["model"] for row in task["scores"]}) - 1 for task in tasks)
    cautions = [
        f"{seeds} seeds, one recipe for each task: intervals are over seeds, on the same problems, and not corrected "
        f"for the {compared} comparisons. Trainings on such tasks often succeed or fail by leaps, so few seeds say "
        "little, and Student's interval, which expects bell-shaped scatter, is a guide only.",
        "Test problems are of the training problems' size: the figures say nothing about longer ones.",
        "All models train for the same number of steps; one that is behind may only be slower.",
    ]
    guessed = [task["task"] for task in tasks if not _is_above_guessing(task["task"], summary)]
    if guessed:
        cautions.append(
            f"{', '.join(guessed)}: no model is above guessing or always giving the same answer, so differences there "
            "say nothing."
        )
    if any(task["worked_steps"] for task in tasks):
        cautions.append(
            "Only the final answer is matched; a wrong step before a right answer is not seen. An answer that does not "
            "end within the longest problem's length is wrong."
        )
    return cautions


def _is_above_guessing(task: str, summary: Records) -> bool:
    """Whether any model's interval is above chance and above constant answers."""
    rows = [row for row in summary if row["task"] == task]
    return any(row["low"] is not None and row["low"] > max(row["chance"], row["constant_rate"]) for row in rows)


def _sections(scores: Records, summary: Records, chance: dict[str, float], palette: Palette) -> list[Section]:
    return [
        Section(
            "exact_match",
            "Right answers",
            "The share of test problems whose final answer is written exactly, by greedy decoding. Each mark is a "
            "seed, the line their mean, the bar Student's 95 % interval; dotted is guessing among possible answers.",
            scores,
            accuracies(scores, summary, chance, palette),
        ),
        Section(
            "exact_match_summary",
            "Which models differ",
            "Means over seeds with Student's 95 % interval. The difference is from the plain transformer, in "
            "points, seed by seed.",
            summary,
            columns=COLUMNS,
        ),
    ]


COLUMNS = [
    Column("task", "task", unbroken),
    Column("model", "model", unbroken),
    Column("seeds", "seeds"),
    Column("mean", "right, %", percent),
    Column("low", "95 % from", percent),
    Column("high", "to", percent),
    Column("standard_deviation", "± between seeds", percent),
    Column("difference", "difference", points),
    Column("difference_low", "95 % from", points),
    Column("difference_high", "to", points),
    Column("better_in", "better in seeds"),
    Column("verdict", "verdict", unbroken),
    Column("chance", "guessing", percent),
    Column("constant_rate", "constant answer", percent),
]

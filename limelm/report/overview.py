"""The report on several runs in one folder: their results beside each other; each run has a page of its own."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from limelm.environment import environment
from limelm.records import Record, Records
from limelm.report.captions import paragraphs
from limelm.report.figures.palette import Palette
from limelm.report.made import made_now
from limelm.report.run import palette_of_run
from limelm.report.sections.answers import ANSWERS, answer_facts, answer_records, answer_tiles, answer_words
from limelm.report.sections.depth import DEPTH, depth_records
from limelm.report.sections.results import results
from limelm.report.writer import REPORT, Section, write_page
from limelm.text import counted, printable


def _linked(rows: Records) -> Records:
    link = Markup('<a href="{}/{}">{}</a>')
    return [row | {"run": link.format(quote(row["run"]), REPORT, printable(row["run"]))} for row in rows]


RUNS = Section("runs", rows=_linked)


def write_overview(
    out: Path, summaries: Mapping[str, dict[str, Any]], answers: Mapping[str, Record] | None = None
) -> Path:
    """Write `out/report.html` and `out/figures/*` on the runs in `out/NAME/`.

    Args:
        summaries: by the name of the run's folder, from `limelm.training.read_summary`.
        answers: of runs on reasoning problems, from `limelm.evaluation.exact_match.score_run`.

    Returns:
        The page's path.
    """
    tasks = list((answers or {}).values())
    rows = [{"run": name, **row} for name, summary in summaries.items() for row in results(summary)]
    records = {"runs": rows, "loss_over_depth": depth_records(summaries), **answer_records(tasks)}
    kinds = {model: kind for s in summaries.values() for model, kind in palette_of_run(s).kinds.items()}
    words = {
        **answer_words(tasks, records["exact_match_summary"]),
        "names": ", ".join(summaries),
        "differ_in_depth": bool(records["loss_over_depth"]),
        "are_unlike": not records["loss_over_depth"],
        "have_one_rate": bool(records["loss_over_depth"]) and not any("search" in own for own in summaries.values()),
        "runs": counted(len(summaries), "run"),
    }
    return write_page(
        out,
        [*ANSWERS, DEPTH, RUNS],
        records,
        Palette(kinds, kinds),
        words,
        title=paragraphs("overview", "title", words)[0],
        lead=paragraphs("overview", "lead", words)[0],
        tiles=answer_tiles(records["exact_match_summary"]),
        cautions=[*paragraphs("overview", "cautions", words), *paragraphs("answers", "cautions", words)],
        facts={
            "Command": made_now(),
            "Problems": answer_facts(tasks),
            "Environment of the evaluation": list(environment().items()),
        },
        made_of=runs_fingerprint(summaries),
    )


def runs_fingerprint(summaries: Mapping[str, dict[str, Any]]) -> str:
    """A mark for the overview of these runs, by which it is known whether it has all results."""
    marks = "".join(f"{name}\n{summary['fingerprint']}\n" for name, summary in summaries.items())
    return hashlib.sha256(marks.encode()).hexdigest()

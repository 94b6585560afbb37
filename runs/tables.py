"""Write the table of the rivals into the pages that show it, from the numbers in results/rivals.

python runs/rivals.py            write the tables
python runs/rivals.py --check    say whether they are up to date, and end with 1 where they are not
"""

import csv
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "results" / "rivals" / "figures"
PAGES = (ROOT / "results" / "rivals" / "README.md", ROOT / "docs" / "models.md")
BEGIN, END = "<!-- made by python runs/rivals.py -->\n", "<!-- end -->"
COLUMNS = (
    "model",
    "learning rate",
    "held-out loss",
    "difference from LLaMA",
    "at equal parameters",
    "at equal time",
    "training step",
    "decoding",
    "verdict at equal tokens",
)


def table() -> str:
    """The models, the lowest loss first; columns without any value are left out."""
    results, parameters, times, costs = (
        _by_model(name) for name in ("results", "equal_parameters", "equal_time", "measured_costs")
    )
    rows = [
        [
            model,
            f"{float(row['learning_rate']):g}",
            f"{float(row['eval_loss']):.3f} ± {float(row['standard_deviation']):.3f}",
            *(_difference(each.get(model)) for each in (results, parameters, times)),
            *(_ratio(costs.get(model), f"{task}_ratio") for task in ("step", "decoding")),
            row["verdict"],
        ]
        for model, row in sorted(results.items(), key=lambda item: float(item[1]["eval_loss"]))
    ]
    columns = [column for column in zip(COLUMNS, *rows, strict=True) if any(column[1:])]
    head, *body = zip(*columns, strict=True)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *body))


def _by_model(name: str) -> dict[str, dict[str, Any]]:
    if not (FIGURES / f"{name}.csv").exists():  # as long as not both LLaMAs have all seeds
        return {}
    with (FIGURES / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return {row["model"]: row for row in csv.DictReader(stream)}


def _difference(row: dict[str, Any] | None) -> str:
    if row is None or not row["difference"]:
        return ""
    mean, low, high = (f"{float(row[key]):+.3f}".replace("-", "−") for key in ("difference", "t_low", "t_high"))
    return f"{mean} ({low} to {high})"


def _ratio(row: dict[str, Any] | None, key: str) -> str:
    return f"{float(row[key]):.2f}" if row is not None and row[key] else ""


def main(arguments: list[str]) -> int:
    """Write the tables, or compare them."""
    made, is_up_to_date = table(), True
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        wanted = re.sub(f"(?<={re.escape(BEGIN)}).*?(?={END})", lambda _: made, text, flags=re.DOTALL)
        is_up_to_date &= wanted == text
        if "--check" not in arguments:
            page.write_text(wanted, encoding="utf-8")
    return int("--check" in arguments and not is_up_to_date)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Write tables of studies into the pages that show them, from the numbers in results/.

python runs/tables.py            write the tables
python runs/tables.py --check    say whether they are up to date, and end with 1 where they are not

A table stands between `<!-- NAME, made by python runs/tables.py -->` and `<!-- end -->`.
"""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RIVALS, DEPTH, DEEPER = (ROOT / "results" / name for name in ("rivals/figures", "depth", "deeper"))
BEGIN, END = "<!-- {}, made by python runs/tables.py -->\n", "<!-- end -->"


def rivals() -> str:
    """The models of the rivals, the lowest loss first."""
    names = ("equal_parameters", "equal_time", "measured_costs")
    parameters, times, costs = ({row["model"]: row for row in _read(RIVALS / f"{name}.csv")} for name in names)
    return _table(
        [
            {
                **_outcome(row),
                "at equal parameters": _difference(parameters.get(row["model"])),
                "at equal time": _difference(times.get(row["model"])),
                "training step": _ratio(costs.get(row["model"]), "step_ratio"),
                "decoding": _ratio(costs.get(row["model"]), "decoding_ratio"),
                "verdict at equal tokens": row["verdict"],
            }
            for row in sorted(_read(RIVALS / "results.csv"), key=lambda row: float(row["eval_loss"]))
        ]
    )


def depth() -> str:
    """LLaMA and LIMe in 32 layers, each at its best learning rate."""
    return _compared(DEPTH / "figures")


def depth_at_paper_rate() -> str:
    """The two at the paper's learning rate."""
    return _compared(DEPTH / "at-1e-3")


def _compared(folder: Path) -> str:
    return _table(
        [
            {
                **_outcome(row),
                "lower in": f"{row['lower_in']} of {row['seeds']} seeds" if row["lower_in"] else "",
                "verdict": row["verdict"],
            }
            for row in _read(folder / "results.csv")
        ]
    )


def depth_rates() -> str:
    """The two in 32 layers at every rate, with the first seed."""
    rows = _read(DEPTH / "figures" / "search.csv")
    first = min(row["seed"] for row in rows)
    losses = {(row["learning_rate"], row["model"]): row["eval_loss"] for row in rows if row["seed"] == first}
    models = list(dict.fromkeys(row["model"] for row in rows))
    return _table(
        [
            {
                "learning rate": rate,
                **{model: f"{float(losses[rate, model]):.3f}" for model in models},
                "difference": _signed(str(float(losses[rate, models[1]]) - float(losses[rate, models[0]]))),
            }
            for rate in dict.fromkeys(row["learning_rate"] for row in rows)
        ]
    )


def deeper() -> str:
    """LLaMA's loss in each number of layers, and how much lower or higher the others are."""
    cells: dict[str, dict[str, str]] = {}
    for row in _read(DEEPER / "loss_over_depth.csv"):
        own = cells.setdefault(row["model"], {"model": row["model"]})
        outcome = _signed(row["difference"]) if row["difference"] else f"{float(row['eval_loss']):.3f}"
        own[f"{row['layers']} layers of {row['hidden_size']}"] = f"{outcome} ({float(row['learning_rate']):g})"
    return _table(list(cells.values()))


#: Each table, and the pages that show it.
TABLES: dict[Callable[[], str], tuple[Path, ...]] = {
    rivals: (ROOT / "results" / "rivals" / "README.md", ROOT / "docs" / "models.md"),
    depth: (DEPTH / "README.md",),
    depth_rates: (DEPTH / "README.md",),
    depth_at_paper_rate: (DEPTH / "README.md",),
    deeper: (DEEPER / "README.md",),
}


def _read(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _table(rows: list[dict[str, str]]) -> str:
    """The rows in Markdown; columns without any value are left out."""
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _outcome(row: dict[str, Any]) -> dict[str, str]:
    return {
        "model": row["model"],
        "learning rate": f"{float(row['learning_rate']):g}" if row["learning_rate"] else "",
        "held-out loss": _loss(row),
        "difference from LLaMA": _difference(row),
    }


def _loss(row: dict[str, Any]) -> str:
    deviation = f" ± {float(row['standard_deviation']):.3f}" if row["standard_deviation"] else ""
    return f"{float(row['eval_loss']):.3f}{deviation}"


def _difference(row: dict[str, Any] | None) -> str:
    if row is None or not row["difference"]:
        return ""
    mean, *bounds = (_signed(row[key]) for key in ("difference", "t_low", "t_high") if row[key])
    return f"{mean} ({' to '.join(bounds)})" if bounds else mean


def _signed(number: str) -> str:
    return f"{float(number):+.3f}".replace("-", "−")


def _ratio(row: dict[str, Any] | None, key: str) -> str:
    return f"{float(row[key]):.2f}" if row is not None and row[key] else ""


def _filled(text: str, begin: str, table: str) -> str:
    """A page's text with this table between its marks."""
    before, mark, after = text.partition(begin)
    _, end, rest = after.partition(END)
    return f"{before}{mark}{table}{end}{rest}" if end else text


def main(arguments: list[str]) -> int:
    """Write the tables, or compare them."""
    is_up_to_date = True
    for table, pages in TABLES.items():
        made, begin = table(), BEGIN.format(table.__name__)
        for page in pages:
            text = page.read_text(encoding="utf-8")
            wanted = _filled(text, begin, made)
            is_up_to_date &= wanted == text
            if "--check" not in arguments:
                page.write_text(wanted, encoding="utf-8")
    return int("--check" in arguments and not is_up_to_date)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

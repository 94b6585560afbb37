"""Write tables of studies into the pages that show them, from the numbers in results/.

python runs/tables.py            write the tables
python runs/tables.py --check    say whether they are up to date, and end with 1 where they are not

A table stands between `<!-- NAME, made by python runs/tables.py -->` and `<!-- end -->`.
"""

import csv
import sys
from collections.abc import Callable
from functools import partial
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


def rivals_course() -> str:
    """How the rivals' trainings went, and what their caches hold, in the order of their recipe."""
    courses = {row["model"]: row for row in _read(RIVALS / "training_course.csv")}
    costs = {row["model"]: row for row in _read(RIVALS / "measured_costs.csv")}
    return _table(
        [
            {
                "model": model,
                "first loss": f"{float(row['first_loss']):.3f}",
                "difference from LLaMA": _power_of_ten(row["first_difference"]),
                "spikes": row["spikes"],
                "largest gradient norm": f"{float(row['largest_grad_norm']):.1f}",
                "cache per token": _ratio(costs[model], "cache_ratio"),
            }
            for model, row in courses.items()
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
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    return _table([{column: row.get(column, "not trained") for column in columns} for row in cells.values()])


def beside_llama(*models: str) -> str:
    """What models cost and how low their losses are beside LLaMA's, for their entries among the models."""
    costs, losses = (
        {row["model"]: row for row in _read(RIVALS / f"{name}.csv")} for name in ("measured_costs", "results")
    )
    in_depth = [row for row in _read(DEEPER / "loss_over_depth.csv") if row["difference"] and row["layers"] != "8"]
    depths = list(dict.fromkeys(row["layers"] for row in in_depth))
    found = {(row["model"], row["layers"]): _signed(row["difference"]) for row in in_depth}
    return _table(
        [
            {
                "beside LLaMA": model,
                "training step": _ratio(costs[model], "step_ratio"),
                "decoding": _ratio(costs[model], "decoding_ratio"),
                "loss, 8 layers": _difference(losses[model]),
                **{f"{layers} layers, one seed": found.get((model, layers), "") for layers in depths},
            }
            for model in models
        ]
    )


#: The models of each entry in docs/models.md.
ENTRIES = {
    "lime": ("LIMe static", "LIMe dynamic", "LIMe KV"),
    "value_residual": ("Value Residual",),
    "depth_attention": ("Depth-Attention",),
    "hyper_connection": ("Hyper-Connections",),
    "mhc": ("mHC",),
    "residual_scalars": ("Residual scalars",),
    "dense_former": ("DenseFormer",),
    "attention_residuals": (
        "Attention Residuals",
        "Attention Residuals, 4 heads",
        "Attention Residuals, blocks of 2 layers",
    ),
    "delta_attention_residuals": ("Delta Attention Residuals",),
    "mudd_former": ("MUDDFormer", "MUDDFormer, pre/post-norm"),
    "deep_cross_attention": ("DeepCrossAttention",),
}
MODELS = ROOT / "docs" / "models.md"
#: Each table by its name, and the pages that show it.
TABLES: dict[str, tuple[Callable[[], str], tuple[Path, ...]]] = {
    "rivals": (rivals, (ROOT / "results" / "rivals" / "README.md", MODELS)),
    "rivals_course": (rivals_course, (ROOT / "results" / "rivals" / "README.md",)),
    "depth": (depth, (DEPTH / "README.md",)),
    "depth_rates": (depth_rates, (DEPTH / "README.md",)),
    "depth_at_paper_rate": (depth_at_paper_rate, (DEPTH / "README.md",)),
    "deeper": (deeper, (DEEPER / "README.md",)),
    **{f"{name} beside LLaMA": (partial(beside_llama, *models), (MODELS,)) for name, models in ENTRIES.items()},
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


def _power_of_ten(number: str) -> str:
    return (f"{float(number):+.2g}" if float(number) else "0").replace("-", "−") if number else ""


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
    for name, (make, pages) in TABLES.items():
        made, begin = make(), BEGIN.format(name)
        for page in pages:
            text = page.read_text(encoding="utf-8")
            wanted = _filled(text, begin, made)
            is_up_to_date &= wanted == text
            if "--check" not in arguments:
                page.write_text(wanted, encoding="utf-8")
    return int("--check" in arguments and not is_up_to_date)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

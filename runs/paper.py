"""Write docs/paper.md: the paper, claim by claim, with verdicts that come from the committed numbers alone.

    python runs/paper.py            write the page
    python runs/paper.py --check    say whether it is up to date, and end with 1 where it is not

The claims are in runs/paper.toml.
"""

import csv
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CLAIMS, PAGE = ROOT / "runs" / "paper.toml", ROOT / "docs" / "paper.md"
SAME, OTHER, UNSEEN, AGAINST, MISSING = "reproduced", "same direction", "not seen", "contradicted", "not run"
#: How the scale of a measurement at the paper's own scale begins.
AT_SCALE = "the paper's"
UNITS = {"B": 1e9, "T": 1e12, "points": 0.01}
TABLE = ("| | where | the paper says | measured | scale | verdict |", "|---|---|---|---|---|---|")
HEAD = """\
# The paper, claim by claim

What the two versions of the paper ([arXiv 2502.09245](https://arxiv.org/abs/2502.09245)) say, and what was measured
here. The verdicts are made by `python runs/paper.py` from the tables in [results](../results), so that nobody can write
what was not measured:

- **reproduced**: the same quantity at the paper's own scale, as near to the printed one as its rounding explains.
- **same direction**: at another, smaller scale the 95 % interval over seeds, or the quartiles of a timing, lie on the
  side that the paper says, or a count agrees.
- **not seen**: the interval holds both sides.
- **contradicted**: it lies on the other side, or a count is another one.
- **not run**: nothing was measured over seeds; the command plans or trains a model that the claim needs.

A verdict at a small scale is no verdict on the paper's: its models have 18 to 450 times as many parameters and see
6,400 times as many tokens or more.
Intervals are Student's, over seeds, and take no account of how many claims there are.
"""


def page() -> str:
    """The whole page."""
    groups = read_groups(CLAIMS)
    numbers = iter(range(1, 1000))
    parts = [HEAD, _summary(groups)]
    for group in groups:
        parts.append(_section(group, numbers))
    return "\n".join(parts)


def read_groups(path: Path) -> list[dict[str, Any]]:
    """Each group's title and claims, which have what their studies share."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    studies: dict[str | None, dict[str, Any]] = {None: {}, **content["study"]}
    return [
        {**group, "claim": [studies[claim.get("study")] | claim for claim in group["claim"]]}
        for group in content["group"]
    ]


def judge(claim: dict[str, Any]) -> tuple[str, str]:
    """What was measured on a claim, in words, and the verdict."""
    if "file" not in claim:
        return "", MISSING
    return {"difference": _difference, "equal": _equal, "cheaper": _cheaper}[claim["read"]](claim)


def _difference(claim: dict[str, Any]) -> tuple[str, str]:
    row = _find(claim["file"], claim["row"])
    unit = claim["unit"]
    value, low, high = (float(row[key]) / UNITS.get(unit, 1) for key in ("difference", "t_low", "t_high"))
    side = "lower" if high < 0 else "higher" if low > 0 else "equal"
    verdict = OTHER if side == claim["expected"] else UNSEEN if side == "equal" else AGAINST
    return f"{value:+.3f} {unit} ({low:+.3f} to {high:+.3f}), {row['seeds']} seeds", verdict


def _equal(claim: dict[str, Any]) -> tuple[str, str]:
    value = float(_find(claim["file"], claim["row"])[claim["column"]])
    is_near = abs(value / claim["printed"] - 1) <= claim["tolerance"]
    near = SAME if claim["scale"].startswith(AT_SCALE) else OTHER
    unit = claim.get("unit")
    measured = f"{value / UNITS[unit]:.5f} {unit}" if unit else f"{100 * (value - 1):+.4f} %"
    return measured, near if is_near else AGAINST


def _cheaper(claim: dict[str, Any]) -> tuple[str, str]:
    own, other = (_find(claim["file"], claim[key]) for key in ("row", "than"))
    (low, high), (other_low, other_high) = (
        (float(row["ratio_lower_quartile"]), float(row["ratio_upper_quartile"])) for row in (own, other)
    )
    measured = f"{float(own['ratio']):.2f} against {float(other['ratio']):.2f} of LLaMA's, {own['rounds']} rounds"
    return measured, OTHER if high < other_low else AGAINST if low > other_high else UNSEEN


def _find(file: str, wanted: dict[str, str]) -> dict[str, str]:
    """The one row of a table that has these values."""
    with (ROOT / file).open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if wanted.items() <= row.items()]
    if len(rows) != 1:
        raise LookupError(f"{file}: {len(rows)} rows with {wanted}")
    return rows[0]


def _summary(groups: list[dict[str, Any]]) -> str:
    verdicts = [judge(claim)[1] for group in groups for claim in group["claim"]]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in (SAME, OTHER, UNSEEN, AGAINST, MISSING)]
    return f"Of {len(verdicts)} claims: {', '.join(counts)}.\n"


def _section(group: dict[str, Any], numbers: Iterator[int]) -> str:
    lines = [f"## {group['title']}", "", *TABLE]
    how = []
    for claim in group["claim"]:
        number = next(numbers)
        measured, verdict = judge(claim)
        cells = [str(number), claim["where"], claim["says"], measured, claim.get("scale", ""), f"**{verdict}**"]
        lines.append(f"| {' | '.join(cells)} |")
        how.append(f"- {number}: {_how(claim)}")
    return "\n".join([*lines, "", *how, ""])


def _how(claim: dict[str, Any]) -> str:
    parts = []
    if "file" in claim:
        parts.append(f"`{claim['command']}`, [{Path(claim['file']).name}](../{claim['file']})")
    if "cost" in claim:
        parts.append(f"at a larger scale `{claim['cost']}`")
    return "; ".join(parts) + (f". {claim['note']}" if "note" in claim else "")


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    made = page()
    if "--check" in arguments:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != made)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Bits per byte and perplexity by domain, a part of the report of `limelm eval`."""

from matplotlib.figure import Figure

from limelm.evaluation.statistics import FEWEST_FOR_VERDICT
from limelm.records import Records
from limelm.report.columns import Column, aligned, count, number, short_name, signed_thousandths, thousandths, unbroken
from limelm.report.figures.palette import Palette
from limelm.report.figures.points import grouped_points
from limelm.report.figures.style import by_model
from limelm.report.html import Section


def perplexity_section(rows: Records, palette: Palette) -> Section:
    """Make the section with the figure and the table of all domains.

    Args:
        rows: as `limelm.evaluation.domains.perplexity_rows` gives them, at least one.
    """
    first = rows[0]
    text = [
        "Points are bits per byte with Student's 95 % intervals over documents; lower is better. Each document is read "
        f"by itself, in windows of {first['window']:,} tokens that begin {first['stride']:,} tokens apart, and each of "
        "its tokens is scored once, in the first window that holds it. BOS and EOS are not scored.",
        "Bits per byte can be compared between tokenizers. Loss (nats per token) and perplexity are per token: compare "
        "them only between models that have the same tokenizer. A longer window or a shorter stride lowers all three.",
    ]
    if len(palette) > 1:
        text.append(
            f"The difference is to {first['model']} in bits per byte, document by document, with its 95 % interval; "
            f"“not distinguishable” means that zero is inside. With fewer than {FEWEST_FOR_VERDICT} documents no "
            "verdict is given: a single one decides."
        )
    return Section(
        "perplexity", "Bits per byte and perplexity by domain", text, rows, bits_by_domain(rows, palette), COLUMNS
    )


def bits_by_domain(rows: Records, palette: Palette) -> Figure:
    """Draw the models' bits per byte for each domain, with intervals."""
    points = [{**row, "group": row["domain"], "value": row["bits_per_byte"]} for row in rows]
    with grouped_points(points, palette, "bits per byte") as (figure, _):
        pass
    return figure


def as_text(rows: Records) -> str:
    """Bits per byte as lines of text, models by domains."""
    head = ["bits per byte", *_domains(rows)]
    body = [[short_name(model), *(thousandths(row["bits_per_byte"]) for row in own)] for model, own in by_model(rows)]
    return aligned(head, body)


def _domains(rows: Records) -> list[str]:
    """The domains, in their order; every model has all of them."""
    return list(dict.fromkeys(row["domain"] for row in rows))


COLUMNS = [
    Column("domain", "domain", unbroken),
    Column("model", "model", unbroken),
    Column("bits_per_byte", "bits per byte", thousandths),
    Column("low", "95 % from", thousandths),
    Column("high", "to", thousandths),
    Column("difference", "difference", signed_thousandths),
    Column("difference_low", "95 % from", signed_thousandths),
    Column("difference_high", "to", signed_thousandths),
    Column("verdict", "verdict", unbroken),
    Column("loss", "loss, nats per token", thousandths),
    Column("perplexity", "perplexity per token", number(",.2f")),
    Column("documents", "documents", count),
    Column("tokens", "tokens", count),
    Column("bytes", "bytes", count),
    Column("window", "window", count),
    Column("stride", "stride", count),
]

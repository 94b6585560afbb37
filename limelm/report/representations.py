"""The sections on how representations change with depth: Figures 5, 6, 7, 11, 12 and 15, and beyond the paper."""

from limelm.records import Records
from limelm.report.figures import clouds, curves, heatmaps
from limelm.report.figures.curves import BEFORE_ROUTING, HIDDEN_STATES
from limelm.report.figures.palette import Palette, routes
from limelm.report.html import Section

BEFORE = (
    "Dashed: the values that a layer's own input alone would give, before routing mixes in those of earlier layers."
)


def representation_sections(records: dict[str, Records], palette: Palette) -> list[Section]:
    """Make a section for each kind of records, values and hidden states apart, in the order of the page."""
    of_states = {"entropy": _entropy, "separability": _separability, "tsne": _tsne, "effective_rank": _effective_rank}
    of_models = {"cosine": _cosine, "cka": _cka, "logit_lens": _logit_lens}
    return [
        *(
            make(rows, palette)
            for name, make in of_states.items()
            for rows in _values_and_hidden_states(records.get(name, []))
        ),
        *(make(records[name], palette) for name, make in of_models.items() if records.get(name)),
    ]


def _values_and_hidden_states(records: Records) -> list[Records]:
    hidden = [row for row in records if row["states"] == HIDDEN_STATES]
    return [rows for rows in ([row for row in records if row["states"] != HIDDEN_STATES], hidden) if rows]


def _is_hidden(rows: Records) -> bool:
    return rows[0]["states"] == HIDDEN_STATES


def _name(measure: str, rows: Records) -> str:
    return f"{measure}-{'hidden-states' if _is_hidden(rows) else 'values'}"


def _before_routing(rows: Records) -> list[str]:
    return [BEFORE] if any(row["states"] == BEFORE_ROUTING for row in rows) else []


def _entropy(rows: Records, palette: Palette) -> Section:
    alpha = rows[0]["alpha"]
    ceilings = sorted({round(row["ceiling"], 2) for row in rows if row["ceiling"] is not None})
    ceiling = f" ({' or '.join(f'{value:.2f}' for value in ceilings)} here)" if 0 < len(ceilings) <= 2 else ""
    of, figure = ("hidden states", 11) if _is_hidden(rows) else ("values", 5)
    return Section(
        _name("entropy", rows),
        f"Matrix entropy of {of} (Figure {figure})",
        [
            f"How evenly the {of} of a sequence spread over directions: 0 where all lie on one line, at most the "
            f"logarithm of the smaller of their number and their size{ceiling}. Rényi entropy with "
            f"α\u00a0=\u00a0{alpha:g} of the Gram matrix's eigenvalues, features standardized over the sample; the "
            "shade is one standard error over sequences. Diverse is not useful as such: noise has the highest entropy.",
            *_before_routing(rows),
        ],
        rows,
        curves.matrix_entropy(rows, palette),
    )


def _separability(rows: Records, palette: Palette) -> Section:
    of, figure = ("hidden states", 12) if _is_hidden(rows) else ("values", 7)
    probes = {
        "logistic": "a logistic regression on standardized features, trained to convergence",
        "paper": "one epoch of Adam on features as they are, as the authors trained it, which measures their scale too",
    }
    return Section(
        _name("separability", rows),
        f"How well close tokens can be told apart by their {of} (Figure {figure})",
        [
            f"Accuracy of a linear probe ({probes[rows[0]['probe']]}) on held-out folds; the shade is one standard "
            "deviation over the five folds, not an error of the mean. A probe finds what is there, not what the model "
            "uses.",
            *(["What a layer has read from early representations still knows the token."] if routes(palette) else []),
            *_before_routing(rows),
        ],
        rows,
        curves.separability(rows, palette),
    )


def _tsne(rows: Records, _: Palette) -> Section:
    of, figure = ("hidden states", 15) if _is_hidden(rows) else ("values", 6)
    return Section(
        _name("tsne", rows),
        f"Clouds of close tokens' {of} (Figure {figure})",
        "t-SNE of the same tokens in a few layers. It keeps neighbors together; distances between clouds, their "
        "sizes and the directions mean nothing, and panels cannot be laid over each other. The probe's accuracy "
        "is the measurement.",
        rows,
        clouds.tsne(rows),
    )


def _effective_rank(rows: Records, palette: Palette) -> Section:
    of = "hidden states" if _is_hidden(rows) else "values"
    return Section(
        _name("effective_rank", rows),
        f"Effective rank of {of}",
        [
            f"How many directions the {of} of a sequence fill, were they filled evenly: the exponential of the entropy "
            "of their singular values, from 1 to the smaller of their number and their size. Not in the paper. "
            "Features are standardized over the sample, the shade is one standard error over sequences; longer "
            "sequences have higher ranks.",
            *_before_routing(rows),
        ],
        rows,
        curves.effective_rank(rows, palette),
    )


def _cosine(rows: Records, palette: Palette) -> Section:
    return Section(
        "cosine",
        "How alike the tokens of a sequence become",
        "Cosine similarity of the hidden states of neighboring tokens (the shade is one standard error over "
        "sequences) and of any two tokens of a sequence (dashed); 1 is collapse. Not in the paper. A few features "
        "of large size can raise both alone, so look at the distance between the two lines as well.",
        rows,
        curves.cosine(rows, palette),
    )


def _cka(rows: Records, _: Palette) -> Section:
    return Section(
        "cka",
        "How alike the layers are",
        "Linear CKA between the hidden states of every two representations: 1 where they are equal up to rotation "
        "and scale, about 0 where they have nothing in common. A bright block is a group of layers that change "
        "little. Not in the paper. A few features of large size can make layers look alike.",
        rows,
        heatmaps.cka(rows),
    )


def _logit_lens(rows: Records, palette: Palette) -> Section:
    return Section(
        "logit_lens",
        "What could be read out early: the logit lens",
        [
            "Each representation goes through the final norm and the head, as if the model ended there: its loss on "
            "the next token, its divergence from the model's own output, and how often both name the same token. Not "
            "in the paper. The head was trained for the last representation only; a bad early reading may be a matter "
            "of basis.",
            *(["In LIMe it may also be what later layers read from earlier ones."] if routes(palette) else []),
        ],
        rows,
        curves.logit_lens(rows, palette),
    )

"""The section on semantic circuits (Table 2): the clearest routes of each model; all of them are in the CSV."""

import unicodedata

from markupsafe import Markup

from limelm.analysis.circuits import CLEAR, CLEAR_ABOVE, UNCLEAR
from limelm.records import Record, Records
from limelm.report.columns import Column, number
from limelm.report.figures.style import by_model
from limelm.report.html import Section

WELL_USED = 0.2  # the authors' first bin ends here
CLEAREST = 25  # routes per model on the page
SPACE = "␣"
hundredths, whole = number(".2f"), number(".0f")
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


def circuit_sections(records: Records) -> list[Section]:
    """Make the section on the clearest routes of each model; none if there are no routes."""
    if not records:
        return []
    return [
        Section(
            "circuits",
            "Semantic circuits: the clearest routes (Table 2)",
            [
                "A route is a head H of a layer L that reads a representation R. Its tokens are those of the "
                "vocabulary that open it most, found from the weights alone; its examples are the places in the data "
                "where it was open widest. Usage is the mean weight of the route on data, coherence the mean cosine "
                f"similarity of its tokens' embeddings. Here are up to {CLEAREST} routes per model, those whose tokens "
                f"are most alike, their frequency aside, among all that carry {WELL_USED:g} or more of their head's "
                "weight on data and do not lead to the layer's own input. The CSV has all routes.",
                "The percentile compares with random routes of the same layer, one of which stands beside: neighbors "
                "in an embedding look related whatever the direction. The matched percentile compares with random "
                "routes to tokens that are as frequent in the data, after the direction along which embeddings change "
                f"with frequency is taken out. A route is marked “{CLEAR}” where both are above {CLEAR_ABOVE}, "
                "“frequent tokens” where the first alone is: its tokens are alike because they are frequent. Even so, "
                "these are the clearest of many, and some of them are so by luck. A space is shown as ␣.",
                *shares_above(records),
            ],
            records,
            columns=COLUMNS,
            shown=[{**route, "opened": route} for _, routes in by_model(records) for route in _clearest(routes)],
        )
    ]


def shares_above(records: Records) -> list[str]:
    """Write a sentence per model: how many routes stand out, and how many would by chance."""
    sentences = []
    for model, routes in by_model(records):
        of_any = sum(route["clear"] != UNCLEAR for route in routes) / len(routes)
        of_own = sum(route["matched_percentile"] > CLEAR_ABOVE for route in routes) / len(routes)
        both = sum(route["clear"] == CLEAR for route in routes)
        sentences.append(
            f"{model}: {of_any:.0%} of {len(routes):,} routes are above the {CLEAR_ABOVE}th percentile of random "
            f"routes, {of_own:.0%} above that of random routes to equally frequent tokens (chance: "
            f"{1 - CLEAR_ABOVE / 100:.0%}), {both:,} above both."
        )
    return sentences


def visible(text: str) -> str:
    """Write out the control and format characters of a text."""
    return "".join(_escaped(character) if _is_hidden(character) else character for character in text)


def visible_token(token: str) -> str:
    """Write out a token, with visible spaces."""
    return visible(token).replace(" ", SPACE)


def _is_hidden(character: str) -> bool:
    is_odd_space = character.isspace() and character != " "
    return is_odd_space or unicodedata.category(character) in HIDDEN_CATEGORIES


def _escaped(character: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character, f"\\u{{{ord(character):x}}}")


def _clearest(routes: Records) -> Records:
    """Choose the most coherent routes, frequency aside, that are used and do not lead to the layer's own input."""
    used = [route for route in routes if route["usage"] >= WELL_USED and not route["is_own"]]
    order = ("matched_percentile", "coherence_percentile", "matched_coherence")
    return sorted(used, key=lambda route: [-route[key] for key in order])[:CLEAREST]


def _opened(route: Record) -> Markup:
    """A cell with the route's tokens that unfolds to a random route's tokens and to places in the data."""
    examples = (
        Markup("<li>{} <bdi>{}<mark>{}</mark>{}</bdi></li>").format(
            hundredths(place["weight"]),
            visible(place["before"]),
            visible_token(place["token"]),
            visible(place["after"]),
        )
        for place in route["examples"]
    )
    return Markup("{}<details><summary>a random route's, and examples</summary>{}<ol>{}</ol></details>").format(
        _token_list(route["tokens"]), _token_list(route["control_tokens"]), Markup().join(examples)
    )


def _token_list(tokens: Records) -> Markup:
    return Markup(" ").join(Markup('<bdi class="token">{}</bdi>').format(visible_token(t["token"])) for t in tokens)


COLUMNS = [
    Column("model", "model"),
    Column("layer", "L"),
    Column("source", "R"),
    Column("head", "H"),
    Column("usage", "usage", hundredths),
    Column("coherence", "coherence", hundredths),
    Column("coherence_percentile", "percentile", whole),
    Column("matched_percentile", "matched", whole),
    Column("clear", "above 95"),
    Column("opened", "tokens that open it", _opened, is_text=True),
]

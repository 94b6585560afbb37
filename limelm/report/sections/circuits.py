"""The section on semantic circuits (Table 2): the clearest routes of each model; all of them are in the CSV."""

import unicodedata

from markupsafe import Markup

from limelm.analysis.circuits import CLEAR, CLEAR_ABOVE, UNCLEAR
from limelm.records import Record, Records
from limelm.report.captions import Words
from limelm.report.figures.style import by_model
from limelm.report.writer import Section

WELL_USED = 0.2  # the authors' first bin ends here
CLEAREST = 25  # routes per model on the page
SPACE = "␣"
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


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


def _clearest(records: Records) -> Records:
    """Choose each model's most coherent routes, frequency aside, that are used and do not lead to the own input."""
    order = ("matched_percentile", "coherence_percentile", "matched_coherence")
    used = [route for route in records if route["usage"] >= WELL_USED and not route["is_own"]]
    own = dict(by_model(sorted(used, key=lambda route: [-route[key] for key in order])))
    clearest = (route for model, _ in by_model(records) for route in own.get(model, [])[:CLEAREST])
    return [route | {"opened": _opened(route)} for route in clearest]


def _opened(route: Record) -> Markup:
    """A cell with the route's tokens that unfolds to a random route's tokens and to places in the data."""
    examples = (
        Markup("<li>{} <bdi>{}<mark>{}</mark>{}</bdi></li>").format(
            f"{place['weight']:.2f}",
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


def _words(routes: Records) -> Words:
    return {
        "clearest": CLEAREST,
        "well_used": WELL_USED,
        "clear": CLEAR,
        "clear_above": CLEAR_ABOVE,
        "shares": " ".join(shares_above(routes)),
    }


CIRCUITS = Section("circuits", words=_words, rows=_clearest)

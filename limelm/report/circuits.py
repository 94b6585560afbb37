"""The sections on semantic circuits (Table 2): the clearest routes, and all of them to browse."""

import json
import math
import unicodedata
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from limelm.report.figures.style import by_model
from limelm.report.html import Column, Records, Section
from limelm.text import printable

# As in limelm.analysis.circuits: what a route's `clear` says, and from where on.
CLEAR_ABOVE, CLEAR, UNCLEAR = 95, "yes", "no"
WELL_USED = 0.2  # the authors' first bin ends here
CLEAREST, FIRST, MOST = 5, 10, 2_000  # routes per model: in the short table, without scripts, in the browser
SPACE = "␣"
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}


def circuit_sections(records: Records) -> list[Section]:
    """The clearest routes as a table, where any is used enough, and all to browse; nothing without routes."""
    if not records:
        return []
    clearest = [route for _, routes in by_model(records) for route in _clearest(routes)]
    return [*([_clearest_section(clearest)] if clearest else []), _browser_section(records)]


def shares_above(records: Records) -> list[str]:
    """A sentence per model: how many routes stand out, and how many would by chance."""
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
    """Text whose control and format characters are written out."""
    return "".join(_escaped(character) if _is_hidden(character) else character for character in text)


def visible_token(token: str) -> str:
    """A token as it is shown, spaces too."""
    return visible(token).replace(" ", SPACE)


def _is_hidden(character: str) -> bool:
    is_odd_space = character.isspace() and character != " "
    return is_odd_space or unicodedata.category(character) in HIDDEN_CATEGORIES


def _escaped(character: str) -> str:
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character, f"\\u{{{ord(character):x}}}")


def _clearest(routes: Records) -> Records:
    """The most coherent routes, frequency aside, of those that are used and do not lead to the layer's own input."""
    used = [route for route in routes if route["usage"] >= WELL_USED and not route["is_own"]]
    order = ("matched_percentile", "coherence_percentile", "matched_coherence")
    return sorted(used, key=lambda route: [-route[key] for key in order])[:CLEAREST]


def _clearest_section(routes: Records) -> Section:
    return Section(
        "circuits_clearest",
        "Semantic circuits: the clearest (Table 2)",
        [
            "A route is a head H of a layer L that reads a representation R. Its tokens are those of the vocabulary "
            f"that open it most, found from the weights alone. Here are up to {CLEAREST} routes per model, those whose "
            f"tokens are most alike in the embedding, their frequency aside, among all that carry {WELL_USED:g} or "
            "more of their head's weight on data and do not lead to the layer's own input.",
            "The percentile compares with random routes of the same layer, one of which stands beside: neighbours in "
            "an embedding look related whatever the direction. The matched percentile compares with random routes "
            "to tokens that are as frequent in the data, after the direction along which embeddings change with "
            f"frequency is taken out. A route is marked “{CLEAR}” where both are above {CLEAR_ABOVE}, “frequent "
            "tokens” where the first alone is: its tokens are alike because they are frequent. Even so, these are the "
            "clearest of many, and some of them are so by luck.",
        ],
        routes,
        columns=[
            Column("model", "model"),
            *ROUTE_COLUMNS,
            Column("tokens", "tokens that open it", _token_list, is_text=True),
            Column("control_tokens", "a random route's", _token_list, is_text=True),
        ],
    )


def _browser_section(records: Records) -> Section:
    models = {model: sorted(routes, key=lambda route: -route["usage"]) for model, routes in by_model(records)}
    shortened = [
        f"Of {model}'s {len(routes):,} routes the {MOST:,} most used are here." + " The CSV has all."
        for model, routes in models.items()
        if len(routes) > MOST
    ]
    return Section(
        "circuits",
        "Semantic circuits: all routes",
        [
            "Every route with the tokens that open it most, from the weights, and the places in the data where it was "
            "open widest. Usage is the mean weight of the route on data. Coherence is the mean cosine similarity of "
            "its tokens' embeddings, the percentile its place among random routes of the layer, the matched one that "
            "among random routes to equally frequent tokens: by chance one route in twenty stands above 95. A space is "
            "shown as ␣.",
            *shares_above(records),
            *shortened,
        ],
        records,
        template="circuits.html",
        data={
            "first": {model: routes[:FIRST] for model, routes in models.items()},
            "columns": [*ROUTE_COLUMNS, Column("tokens", "tokens that open it", _token_list, is_text=True)],
            "json": _script_json(
                {
                    "models": [printable(model) for model in models],
                    "routes": [
                        _packed(place, route) for place, routes in enumerate(models.values()) for route in routes[:MOST]
                    ],
                }
            ),
        },
    )


def _packed(model: int, route: dict[str, Any]) -> dict[str, Any]:
    """A route as the browser's script reads it."""
    return {
        "model": model,
        "layer": route["layer"],
        "source": route["source"],
        "head": route["head"],
        "own": route["is_own"],
        "usage": _number(route["usage"]),
        "bin": route["usage_bin"],
        "coherence": _number(route["coherence"]),
        "percentile": _number(route["coherence_percentile"]),
        "matched": _number(route["matched_percentile"]),
        "clear": route["clear"],
        "tokens": [_packed_token(token) for token in route["tokens"]],
        "control": [_packed_token(token) for token in route["control_tokens"]],
        "controlCoherence": _number(route["control_coherence"]),
        "examples": [
            [visible(place["before"]), visible_token(place["token"]), visible(place["after"]), _number(place["weight"])]
            for place in route["examples"]
        ],
    }


def _packed_token(token: dict[str, Any]) -> list[Any]:
    return [visible_token(token["token"]), _number(token["logit"]), _number(token["weight"])]


def _number(value: float | None) -> float | None:
    """To four digits; None where there is none, as JSON knows no NaN."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _script_json(value: Any) -> Markup:
    """JSON that no text can end the script element from."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _token_list(tokens: list[dict[str, Any]]) -> Markup:
    """Tokens in one cell."""
    return Markup(" ").join(Markup('<bdi class="token">{}</bdi>').format(visible_token(t["token"])) for t in tokens)


def _digits(count: int) -> Callable[[float | None], str]:
    return lambda value: "" if value is None or math.isnan(value) else f"{value:.{count}f}"


ROUTE_COLUMNS = (
    Column("layer", "L"),
    Column("source", "R"),
    Column("head", "H"),
    Column("usage", "usage", _digits(2)),
    Column("coherence", "coherence", _digits(2)),
    Column("coherence_percentile", "percentile", _digits(0)),
    Column("matched_percentile", "matched", _digits(0)),
    Column("clear", "above 95"),
)

"""Data as the explorer's page takes it, made up by numpy, of any size."""

import numpy as np

from limelm.explorer.page import block

WORDS = (
    "<s> The| old| clock| maker| of| Ghent| kept| the| key| of| the| tower| in| a| small| tin| box|,| and| the| key|"
    " never| left| the| box|.|\n|\t|He| said|:| \u201c|time| is| a| tower| too|\u200b|.|\u201d"
)
SENTENCE = [WORDS[:3], *WORDS[4:].split("|")]


def tokens(count, texts=None):
    """The first tokens of the sentence, again and again; the first is special."""
    texts = texts or SENTENCE
    numbers = {text: 10 + number for number, text in enumerate(dict.fromkeys(texts))}
    chosen = [texts[place % len(texts)] for place in range(count)]
    return [{"id": numbers[text], "text": text, "special": text == "<s>"} for text in chosen]


def sample(models=1, *, text="The old clock maker", kind="checkpoints", live=False, **options):
    """DATA of some models, which differ by their seed."""
    labels = ["static", "dynamic", "kv", "llama"]
    made = []
    for number in range(models):
        label = f"step {100 * 4**number}" if kind == "steps" else labels[number % 4]
        step = 100 * 4**number if kind == "steps" else None
        made.append({**model(seed=number, **options), "label": label, "step": step})
    return {"text": text, "kind": kind, "live": live, "models": made}


def model(
    seed=0, count=24, layers=8, sets=("keys", "values"), heads=2, columns=1, dynamic=True, effects=True, texts=None
):
    random = np.random.default_rng(seed)
    read = tokens(count, texts)
    vocabulary = {str(token["id"]): token["text"] for token in read}
    ids = list(map(int, vocabulary))
    rows = [{"set": name, "head": head} for name in sets for head in range(heads)]
    places = [_place(random, number, rows, columns, count, dynamic, effects) for number in range(1, layers)]
    measured, error = _measured(random, places) if effects and places else ([], None)
    names = ["embedding", *(f"layer {layer}" for layer in range(layers))]
    return {
        "label": "static",
        "step": None,
        "description": f"LIMe {'dynamic' if dynamic else 'static'}, {layers} layers",
        "tokens": read,
        "vocabulary": vocabulary,
        "sourceNames": names,
        "places": [{key: value for key, value in place.items() if key != "plain"} for place in places],
        "loss": [None, *random.gamma(2, 1.4, count - 1).round(3).tolist()],
        "predictions": [_predictions(random, ids) for _ in range(count)],
        "measured": measured,
        "effectError": error,
        "effectsMissing": None if effects else "The sentence is too long for effects.",
        "sourcesAre": "A source is what a layer left, as it was made up.",
        "ownSource": "input",
        "lens": _lens(random, names, read, ids),
        "lensMissing": None,
        "sourceLens": _lens(random, names[:-1], read, ids),
    }


def _place(random, number, rows, columns, count, dynamic, effects):
    sources = number + 1
    pull = np.concatenate([[1.5], np.linspace(-1, 1, sources - 2), [2.5]]) if sources > 1 else np.ones(1)
    logits = pull[None, :, None] + random.normal(0, 1, (len(rows), sources, columns))
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) * random.choice([1, 1, 1, -0.6], logits.shape)
    if dynamic:
        weights = weights + random.normal(0, 0.08, (count, *weights.shape))
    by_token = np.abs(weights if dynamic else np.broadcast_to(weights, (count, *weights.shape))).mean(-1)
    by_token = by_token * random.gamma(0.4, 0.12, by_token.shape) * random.choice([1, 1, -0.5], by_token.shape) / count
    place = {
        "place": number,
        "name": f"layer {number}",
        "sources": list(range(sources)),
        "rows": rows,
        "dependsOnTokens": dynamic,
        "columns": columns,
        "weights": block(weights.astype(np.float16 if dynamic else np.float32)),
        "effects": None,
        "effectsByToken": None,
        "plain": by_token.sum(0),
    }
    if effects:
        place |= {
            "effects": block(by_token.sum(0).astype(np.float32)),
            "effectsByToken": block(by_token.astype(np.float16)),
        }
    return place


def _measured(random, places):
    routes = []
    for place in places[:: max(1, len(places) // 12)]:
        effects = place["plain"]
        row, source = np.unravel_index(np.abs(effects).argmax(), effects.shape)
        estimate = float(effects[row, source])
        loss = estimate * float(random.normal(1.1, 0.1))
        route = {"place": place["place"], "row": int(row), "source": int(source), "estimate": estimate, "loss": loss}
        routes.append({**route, "kl": abs(loss) * 2})
    for place in places[1::3]:  # all heads together of one cell
        estimate = float(place["plain"][:, 0].sum())
        whole = {"place": place["place"], "row": None, "source": 0, "estimate": estimate, "loss": estimate + 0.02}
        routes.append({**whole, "kl": 0.05})
    return routes, {"routes": len(routes), "meanAbsolute": 0.011, "correlation": 0.97}


def _predictions(random, ids):
    chances = np.sort(random.dirichlet(np.full(7, 0.5)))[::-1][:5]
    chosen = random.choice(ids, 5, replace=len(ids) < 5)
    return [{"id": int(token), "probability": float(chance)} for token, chance in zip(chosen, chances, strict=True)]


def _lens(random, names, read, ids):
    shape = (len(names), len(read))
    depth = np.linspace(0.05, 0.9, len(names))[:, None]
    chosen = random.choice(ids, shape)
    following = np.array([token["id"] for token in read[1:]] + [-1])
    right = (random.random(shape) < depth**2) & (following >= 0)
    chosen = np.where(right, following, chosen)
    best = np.clip(random.beta(2, 2, shape) * (0.2 + depth), 0, 1)
    after = np.where(right, best, best * random.random(shape) * 0.5)
    return {
        "names": names,
        "ids": block(chosen.astype(np.int32)),
        "probabilities": block(best.astype(np.float16)),
        "nextProbabilities": block(after.astype(np.float16)),
    }

"""The sentences of model cards on connections over depth and their papers, and on what must not be concluded."""

from importlib import import_module

from limelm.registration import CLASSES, MODELS

_LIME = "2502.09245"
#: By routing, attached routing or kind of connection, written with hyphens: what it does, and the paper that has its
#: formulas. The configurations of other connections say it themselves.
_ABOUT: dict[str, tuple[str, str | None]] = {
    "static": (
        "Each key/value head reads a learned mix of the representations that all earlier layers left, the same mix for "
        "every token",
        _LIME,
    ),
    "dynamic": (
        "Each key/value head reads a mix of the representations that all earlier layers left, with weights computed "
        "for every token",
        _LIME,
    ),
    "kv": (
        "Keys and values of each head are mixed with those of all earlier layers by a learned, signed matrix",
        _LIME,
    ),
    "value-residual": ("Values are mixed with those of the first layer by learned scalars", "2410.17897"),
    "depth-attention": (
        "Values are mixed with those of earlier layers by attention over the same token's keys, without parameters",
        "2606.05014",
    ),
    "none": ("It does not route: it computes what a Llama computes, as a baseline", None),
    "llama": ("It is a plain Llama, as a baseline", None),
    "scale": ("Each key/value head is scaled by a learned number and reads no other layer, as a baseline", None),
    "mhc": ("Several residual streams are mixed by doubly stochastic matrices, computed for every token", "2512.24880"),
}
_ALIASES = {"dense": "dense-former", "attnres": "attention-residuals", "delta-attnres": "delta-attention-residuals"}


def about(names: tuple[str, ...]) -> str:
    """Say what a connection over depth does, with a link to its paper; "" where nothing is known of it.

    Args:
        names: of the connection, the most special one last.
    """
    for name in reversed(names):
        what, paper = _known(_ALIASES.get(name, name))
        if what:
            link = f" The formulas are those of [arXiv {paper}](https://arxiv.org/abs/{paper})." if paper else ""
            return f"{what}.{link}"
    return ""


def _known(name: str) -> tuple[str, str | None]:
    """Look up what a connection does, "" where nothing is known of it, and its paper."""
    model_type = name.replace("-", "_")
    if name in _ABOUT or model_type not in MODELS:
        return _ABOUT.get(name, ("", None))
    config = getattr(import_module(f"limelm.models.{model_type}"), CLASSES[model_type][0])
    return config.about, config.paper


def limits(has_base: bool, is_trained_here: bool) -> str:
    """The limits of a model, as a list in Markdown.

    Args:
        has_base: whether it was made from another model.
        is_trained_here: whether the card tells of its training.
    """
    of_base = [
        "Nothing was done here to make it follow instructions, or safe. What its base cannot do, and what it does "
        "wrong, is to be expected here too: read the base's card.",
    ]
    of_its_own = [
        "It continues text. It was not tuned to follow instructions, and not to be safe: what it writes may be false "
        "or harmful, and should not be relied on.",
        "It can only know the languages and subjects of the text that it was trained on.",
    ]
    lines = of_base if has_base else of_its_own
    if is_trained_here:
        lines += [
            "The numbers above are of one training with one seed. Another seed gives others, so a small difference "
            "between two models says little.",
            "A small model trained on little text does not show how a connection over depth does at a larger scale, on "
            "other text, or after a longer training.",
        ]
    return "\n".join(f"- {line}" for line in lines)

"""Model cards: the `README.md` beside a model or an adapter, with the metadata that the hub reads at its top.

`library_name` is "transformers" for models, for the hub then shows transformers' snippet with `trust_remote_code=True`,
which works; adapters have "limelm", as nothing else loads them, and PEFT's LoRA has "peft".

A card holds no date and nothing of the machine: equal trainings write equal cards. A card that is there already stays,
since somebody may have filled it in. A license is nothing that we could know.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from transformers import PreTrainedConfig

from limelm.files import is_dir, write_text
from limelm.models.card_text import about, limits
from limelm.provenance import shown_path
from limelm.text import markdown_cell, printable

CARD = "README.md"
TEXT_GENERATION = "text-generation"
_MODEL = '"NAME OR FOLDER OF THIS MODEL"'
_NATIVE = f"""\
```python
import limelm  # registers the model with transformers
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({_MODEL})
```

Without `import limelm`, `trust_remote_code=True` imports it; it must be installed either way:

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({_MODEL}, trust_remote_code=True)
```"""
_PLAIN = f"""\
```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({_MODEL})
```"""
_PEFT = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(model, "NAME OR FOLDER OF THIS LORA")
```"""
_ADAPTER = """\
```python
import limelm
from transformers import {auto_class}

model = {auto_class}.from_pretrained({base})
limelm.load_adapter(model, "NAME OR FOLDER OF THIS ADAPTER")
```"""
_OR_BOTH = """

limelm also loads it together with its base, which its commands do too:

```python
import limelm

model = limelm.load_model("NAME OR FOLDER OF THIS ADAPTER")
```"""


@dataclass(frozen=True)
class Training:
    """A training, as a card tells of it.

    Attributes:
        name: of the model and its recipe, which becomes the card's heading.
        data: what it read, in words.
        data_sha256: the fingerprint of the prepared data.
        datasets: the data's names on the hub, where they are known.
        settings: what was chosen, by its name.
        train_loss, held_out_loss: in nats per token; the first is None where nothing was trained.
        perplexity: of the held-out text.
    """

    name: str
    data: str
    data_sha256: str
    datasets: tuple[str, ...]
    settings: Mapping[str, str]
    train_loss: float | None
    held_out_loss: float
    perplexity: float


@dataclass(frozen=True)
class _Described:
    """The parts of a card that depend on what it is for.

    Attributes:
        base: the model that it is made from, and `relation` how, in the hub's word for it.
    """

    title: str
    what: str
    library: str
    load: str
    tags: tuple[str, ...]
    pipeline_tag: str | None = TEXT_GENERATION
    base: str | None = None
    relation: str | None = None

    @property
    def has_base(self) -> bool:
        """Whether the model is made from another one."""
        return self.base is not None or self.relation == "adapter"


def write_card(folder: Path, text: str) -> None:
    """Write a card into a folder, unless there is one."""
    if not (folder / CARD).exists():
        write_text(folder / CARD, text)


def model_card(
    config: PreTrainedConfig, training: Training | None = None, base: str | None = None, origin: str = ""
) -> str:
    """Write the card of a whole model, in Markdown with the hub's metadata at its top.

    Args:
        config: of the model: one of ours, or of another family.
        base: the model that it was trained or converted from, if any: a name on the hub, or a folder.
        origin: where it comes from, as a sentence.
    """
    keys = _keys(config)
    kind = getattr(config, "kind", "") or f"Language model of the family {config.model_type}"
    text = config.get_text_config()
    sizes = f"{text.num_hidden_layers} layers, hidden size {text.hidden_size}, vocabulary {text.vocab_size}"
    what = f"{f'{kind}. ' if training else ''}{about(keys)}".strip()
    described = _Described(
        title=training.name if training else kind,
        what=f"{what}\n\nMade with limelm: {sizes}. {origin}".strip(),
        library="transformers",
        load=_NATIVE if getattr(config, "auto_map", None) else _PLAIN,
        tags=keys,
        base=base,
        relation="finetune",
    )
    return _card(described, training)


def lora_card(base: str, training: Training) -> str:
    """Write the card of a LoRA in PEFT's format that was trained alone."""
    what = f"A LoRA (PEFT) for {_code(shown_path(base))}, trained with limelm."
    load = _PEFT.format(base=_python(shown_path(base)))
    return _card(_Described(training.name, what, "peft", load, ("lora",), base=base, relation="adapter"), training)


def adapter_card(
    name: str,
    kind: str,
    tags: tuple[str, ...],
    routing: str,
    base: str | None,
    beside: str,
    model_class: str,
    training: Training | None,
) -> str:
    """Write the card of an adapter.

    Args:
        name: of its folder.
        kind: what it is, in words.
        tags: on the hub, beside "adapter" and the routing.
        routing: of `limelm.attach`.
        base: what its base was loaded from: a name on the hub, or a folder; None where it is not known.
        beside: what was trained beside the routers, or "".
        model_class: the name of the base's class.
    """
    shown = shown_path(base) if base else "BASE"
    auto_class, pipeline_tag = _classes(model_class)
    what = f'{kind} (`routing="{routing}"`) for {_code(shown)}, made with limelm{beside}. {about((routing,))}'
    load = _ADAPTER.format(base=_python(shown), auto_class=auto_class)
    described = _Described(
        title=training.name if training else name,
        what=what,
        library="limelm",
        load=load + (_OR_BOTH if base and pipeline_tag == TEXT_GENERATION else ""),
        tags=(*tags, "adapter", routing),
        pipeline_tag=pipeline_tag,
        base=base,
        relation="adapter",
    )
    return _card(described, training)


def name_on_hub(model: str | None) -> str | None:
    """The name of a model on the hub; None for one that is not known, or a folder."""
    return model if model and model.count("/") == 1 and model == shown_path(model) and not is_dir(model) else None


def _card(described: _Described, training: Training | None) -> str:
    base = name_on_hub(described.base)
    data = ModelCardData(
        library_name=described.library,
        pipeline_tag=described.pipeline_tag,
        tags=["limelm", *(printable(tag) for tag in described.tags)],
        base_model=base,
        base_model_relation=described.relation if base else None,
        datasets=list(training.datasets) or None if training else None,
        model_name=printable(described.title) if training else None,
        eval_results=_eval_results(training) if training else None,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {markdown_cell(described.title)}",
        described.what,
        f"## How to load it\n\n{described.load}",
        _training_section(training),
        f"## Limits\n\n{limits(described.has_base, training is not None)}",
        _license_section(described),
    ]
    return "\n\n".join(sections) + "\n"


def _eval_results(training: Training) -> list[EvalResult]:
    dataset = training.datasets[0] if training.datasets else "text"
    return [
        EvalResult(
            task_type=TEXT_GENERATION,
            dataset_type=dataset,
            dataset_name=printable(training.data),
            dataset_split="held-out",
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for metric, name, value in (
            ("loss", "held-out loss, nats per token", training.held_out_loss),
            ("perplexity", "held-out perplexity", training.perplexity),
        )
        if math.isfinite(value)
    ]


def _training_section(training: Training | None) -> str:
    if training is None:
        return "## Training\n\nWhat it was trained on, and how well it does, is not said here yet."
    trained = "not trained" if training.train_loss is None else f"{training.train_loss:.4f}"
    results = {
        "held-out loss, nats per token": f"{training.held_out_loss:.4f}",
        "held-out perplexity": f"{training.perplexity:.2f}",
        "training loss, last steps": trained,
    }
    return (
        f"## Training\n\nData: {markdown_cell(training.data)}. The fingerprint (SHA-256) of the prepared data is "
        f"`{training.data_sha256}`.\n\n{_table('setting', training.settings)}\n\n"
        "## Results\n\nMeasured at the end of the training, on text of the same source that was held out.\n\n"
        f"{_table('measure', results)}"
    )


def _license_section(described: _Described) -> str:
    also = " and of the base" if described.has_base else ""
    return (
        "## License\n\nNot said yet. Whoever publishes this chooses one, writes it as `license:` into the metadata at "
        f"the top and here, and minds the licenses of the data{also}."
    )


def _table(heading: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {heading} | |", "|---|---|"]
    return "\n".join(lines + [f"| {markdown_cell(name)} | {markdown_cell(value)} |" for name, value in rows.items()])


def _keys(config: PreTrainedConfig) -> tuple[str, ...]:
    """The model type, and what else names its connection over depth: the tags of the card."""
    names = [config.model_type, getattr(config, "routing", None)]
    names += [
        getattr(config, "connection", None),
        None if config.model_type in ("lime", "llama") else "depth-connection",
    ]
    return tuple(dict.fromkeys(str(name).replace("_", "-") for name in names if name))


def _classes(model_class: str) -> tuple[str, str | None]:
    """The Auto class that loads a class of model, and the hub's name for its task."""
    if model_class.endswith("ForSequenceClassification"):
        return "AutoModelForSequenceClassification", "text-classification"
    is_causal = model_class.endswith(("ForCausalLM", "LMHeadModel"))
    return ("AutoModelForCausalLM", TEXT_GENERATION) if is_causal else ("AutoModel", None)


def _code(text: str) -> str:
    """Text of others as code inside a line of Markdown."""
    return f"`{printable(text).replace('`', chr(39))}`"


def _python(text: str) -> str:
    """Text of others as a string literal in a block of Python."""
    return json.dumps(printable(text), ensure_ascii=False)

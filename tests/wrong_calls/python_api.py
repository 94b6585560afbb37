"""What is called from Python: configurations, attach, adapters, readers."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.recipes import corpus
from tests.wrong_calls.case import NO_OBJECT, Case, write
from tests.wrong_calls.fixtures import SIZES

CONFIG_VALUES = {
    "hidden_size": (0, -1, "x", 1.5, 33, None, float("nan")),
    "num_hidden_layers": (0, -1, "x", 1.5),
    "num_attention_heads": (0, -1, "x", 5),
    "num_key_value_heads": (0, -1, "x", 3),
    "intermediate_size": (0, -1, "x"),
    "vocab_size": (0, -1, "x"),
    "hidden_act": ("nope", 5),
    "rms_norm_eps": (float("nan"), float("inf"), -1.0, "x"),
    "initializer_range": (float("nan"), -1.0, "x"),
    "attention_dropout": (float("nan"), -1.0, 2.0, "x"),
    "head_dim": (0, -1, "x"),
}
OWN_VALUES = {
    "LimeConfig": {
        "routing": ("psychic", None, 5),
        "routing_top_p": (0, 1.5, -1, "x", float("nan"), True),
        "routing_init": ("nope", 5),
        "routing_sources": ({"first": -1}, {"frist": 1}, 5, "x", {}),
        "routing_backend": ("nope", 5),
    },
    "HyperConnectionConfig": {"expansion_rate": (0, -1, "x", 1.5), "dynamic": ("x", 5)},
    "DenseFormerConfig": {"period": (0, -1, "x", 1.5), "dilation": (0, -1, "x", 1.5)},
    "AttentionResidualsConfig": {
        "block_size": (0, -1, "x", 1.5),
        "num_heads": (0, -1, "x", 1.5, 5),
        "softmax_temperature": (0, -1.0, "x", float("nan")),
        "scale_by_sources": ("x", 5),
    },
    "MUDDFormerConfig": {"pre_post_norm": ("x", 5)},
    "DeepCrossAttentionConfig": {"num_recent": (0, -1, "x", 1.5), "sum_rest": ("x", 5)},
    "DeltaAttentionResidualsConfig": {"block_size": (0, -1, "x", 1.5), "gated": ("x", 5)},
}


def cases() -> Iterator[Case]:
    """Configurations by field; attach and adapters; readers of folders."""
    import limelm

    for name, own in OWN_VALUES.items():
        for field, values in (CONFIG_VALUES | own).items():
            for value in values:
                call = _config(getattr(limelm, name), field, value)
                yield Case("API configs", (f"{name}({field}={value!r})",), (field,), call=call)
    for what, call, *names in _calls():
        yield Case("API", (what,), tuple(names), call=call)
    for what, content in NO_OBJECT.items():
        for path, call in _readers().items():
            folder = path.split("/", maxsplit=1)[0]
            yield Case("API readers", ("read", folder), (folder,), write(path, content), f"{path}: {what}", call)


def _config(kind: Any, field: str, value: Any) -> Callable[[], object]:
    return lambda: kind(**{**SIZES, field: value})


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(vocab_size=300, **SIZES))


def _calls() -> Iterator[tuple]:
    import torch
    from transformers import BertConfig, BertLMHeadModel

    import limelm
    from limelm.data.dataset import TokenDataset
    from limelm.data.listing import list_files
    from limelm.data.prepare import prepare
    from limelm.training import load_recipe

    texts = corpus()
    yield "attach(llama, 'nope')", lambda: limelm.attach(_llama(), "nope"), "nope"
    yield "attach(llama, 5)", lambda: limelm.attach(_llama(), 5), "5"
    yield "attach twice", lambda: limelm.attach(limelm.attach(_llama(), "kv"), "kv"), "attached|routers"
    yield "attach(linear)", lambda: limelm.attach(torch.nn.Linear(2, 2), "kv"), "Linear"
    yield (
        "attach(bert)",
        lambda: limelm.attach(BertLMHeadModel(BertConfig(**SIZES, vocab_size=30, is_decoder=True)), "kv"),
        "Bert",
    )
    yield "attach(5)", lambda: limelm.attach(5, "kv"), "int"
    yield "detach without routers", lambda: limelm.detach(_llama()), "Llama"
    yield "save_adapter without routers", lambda: limelm.save_adapter(_llama(), "o"), "Llama"
    yield "save_adapter to ''", lambda: limelm.save_adapter(limelm.attach(_llama(), "kv"), ""), "folder"
    yield "save_adapter to a file", lambda: limelm.save_adapter(limelm.attach(_llama(), "kv"), "/dev/null"), "/dev/null"
    yield "load_adapter from nowhere", lambda: limelm.load_adapter(_llama(), "./nowhere"), "nowhere"
    yield "load_adapter from ''", lambda: limelm.load_adapter(_llama(), ""), "adapter"
    yield "set_trainable('nope')", lambda: limelm.set_trainable(limelm.attach(_llama(), "kv"), "nope"), "nope"
    yield "load_recipe('nope')", lambda: load_recipe("nope"), "nope"
    yield "load_recipe('')", lambda: load_recipe(""), "recipe"
    yield "TokenDataset(nowhere)", lambda: TokenDataset(Path("nowhere"), "train", 8), "nowhere"
    yield "list_files([])", lambda: list_files([Path("nowhere")]), "nowhere"
    for name, value in [
        ("vocab_size", 0),
        ("vocab_size", -1),
        ("validation_fraction", float("nan")),
        ("validation_fraction", 2.0),
        ("max_documents", 0),
        ("processes", 0),
        ("tokenizer", ""),
        ("tokenizer", "./nowhere"),
    ]:
        options = {"vocab_size": 300, name: value} if name != "tokenizer" else {name: value}
        call = _prepare(prepare, texts, options)
        yield f"prepare({name}={value!r})", call, name
    for length in (0, -1, 10**9):
        yield f"TokenDataset(T, length {length})", _dataset(TokenDataset, length), "sequence_length|length|tokens|T"


def _prepare(prepare: Callable, texts: list[str], options: dict[str, Any]) -> Callable[[], object]:
    return lambda: prepare(Path("o"), lambda: texts, "a test", **options)


def _dataset(kind: Any, length: int) -> Callable[[], object]:
    return lambda: kind(Path("T"), "train", length)


def _readers() -> dict[str, Callable[[], object]]:
    import limelm
    from limelm.data.shards import Manifest
    from limelm.loading import load_checkpoint
    from limelm.training.result import read_result

    return {
        "T/manifest.json": lambda: Manifest.load(Path("T")),
        "M/config.json": lambda: load_checkpoint("M"),
        "A/lime_adapter.json": lambda: limelm.load_adapter(_llama(), "A"),
        "K/result.json": lambda: read_result(Path("K")),
    }

"""Checkpoints and adapters: configurations, weights, tokenizers, and what stands beside them."""

import json
from collections.abc import Iterator
from pathlib import Path

from tests.wrong_calls.case import (
    DEEP,
    NO_OBJECT,
    Case,
    Change,
    broken,
    command,
    cut,
    drop,
    edit,
    fields,
    remove,
    write,
)

GENERATE = "generate M x --max-new-tokens 2"
READERS = (
    GENERATE,
    "eval M --domain held=T --out o",
    "analyze M --data T --only collapse --tokens 64 --out o",
    "convert M --out o",
    "bench --from M --cases kv --workloads forward --rounds 1 --out o",
    "train attach --model full --from M --data T --steps 1 --out o",
)
CONFIG = "M/config.json"
COUNT = (None, 0, -1, 1.5, "x", [], True, 2**62, DEEP)
FLOAT = ("x", [], -1.0, float("nan"), float("inf"))
CONFIG_FIELDS = {
    "model_type": (None, 5, "", "nope", "../x", "\x1b]0;pwned\x07gpt", [], DEEP, "bert"),
    "hidden_size": (*COUNT, 33),
    "num_hidden_layers": (*COUNT, 4),
    "num_attention_heads": (*COUNT, 5),
    "num_key_value_heads": (0, -1, "x", 5, []),
    "intermediate_size": (*COUNT, 65),
    "vocab_size": (*COUNT, 299),
    "max_position_embeddings": (0, -1, "x", []),
    "head_dim": (0, -1, "x", 7, []),
    "hidden_act": (None, "nope", 5, []),
    "rms_norm_eps": FLOAT,
    "initializer_range": FLOAT,
    "attention_dropout": ("x", [], float("nan"), -1.0, 2.0),
    "rope_parameters": ("x", 5, [], {"rope_type": "nope"}, {"rope_type": "default", "rope_theta": "x"}),
    "dtype": ("nope", 5, [], "int32"),
    "routing": (None, "psychic", 5, [], "kv", "dynamic"),
    "routing_top_p": (0, 1.5, -1, "x", float("nan")),
    "routing_init": ("nope", 5, "identity"),
    "routing_sources": ("x", 5, {"first": -1}, {"frist": 1}, [1, 2]),
    "routing_backend": ("nope", 5, None),
    "quantization_config": ("x", 5, {"quant_method": "nope"}, {"quant_method": "gptq", "bits": 4}),
    "tie_word_embeddings": ("x", 5),
}


def cases() -> Iterator[Case]:
    """Every field of a configuration; weights; tokenizers; what else a folder holds; adapters."""
    yield from fields("configuration", GENERATE, CONFIG, CONFIG_FIELDS, "config.json|M:|M/|M ")
    yield from broken("configuration", GENERATE, CONFIG, "config.json|M:")
    yield command("configuration", GENERATE, "M", change=remove(CONFIG), what="no config.json")
    yield command("configuration", GENERATE, "M", change=drop(CONFIG, "model_type"), what="no model_type")
    for reader in READERS:
        for what, change in WEIGHTS.items():
            yield command("weights", reader, "M", change=change, what=what)
        for what, change in CODE.items():
            yield command("code", reader, "M", change=change, what=what)
    for reader in (GENERATE, "eval M --tasks induction --limit 2 --out o", *READERS[1:4]):
        for what, change in NOT_FINITE.items():
            yield command("not finite", reader, "M", change=change, what=what)
    for reader in (GENERATE, READERS[3]):
        for what, change in TOKENIZERS.items():
            yield command("tokenizers", reader, "tokenizer", change=change, what=what)
    for what, content in GENERATION.items():
        change = write("M/generation_config.json", content)
        yield command("generation", GENERATE, "generation_config|M:", change=change, what=what)
    yield from _adapters()
    yield from _peft()
    yield from _labels()


def _tensors(path: str, change: "Change | None" = None, value: float | None = None, drop_one: bool = False) -> Change:
    def alter() -> None:
        import torch
        from safetensors.torch import load_file, save_file

        tensors = load_file(path)
        if value is not None:
            tensors = {name: torch.full_like(tensor, value) for name, tensor in tensors.items()}
        if drop_one:
            tensors.pop(sorted(tensors)[0])
        save_file(tensors, path, metadata={"format": "pt"})

    return alter


FILE = "M/model.safetensors"
PICKLE = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94."
HUGE = json.dumps({"x": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}).encode()
WEIGHTS = {
    "no weights": remove(FILE),
    "weights cut off": cut(FILE),
    "weights empty": write(FILE, b""),
    "weights of text": write(FILE, b"hello" * 100),
    "a header of 2**60 bytes": write(FILE, (2**60).to_bytes(8, "little") + b"{}"),
    "a tensor of 2**62 bytes": write(FILE, len(HUGE).to_bytes(8, "little") + HUGE),
    "one tensor fewer": _tensors(FILE, drop_one=True),
    "a pickle": lambda: (Path(FILE).unlink(), write("M/pytorch_model.bin", PICKLE)()),
    "an index of nothing": lambda: (Path(FILE).unlink(), write("M/model.safetensors.index.json", "{}")()),
    "an index that is a list": lambda: (Path(FILE).unlink(), write("M/model.safetensors.index.json", "[]")()),
    "an index of what is not there": lambda: (
        Path(FILE).unlink(),
        write(
            "M/model.safetensors.index.json", '{"metadata": {}, "weight_map": {"lm_head.weight": "x.safetensors"}}'
        )(),
    ),
}
NOT_FINITE = {
    "weights are NaN": _tensors(FILE, value=float("nan")),
    "weights are infinite": _tensors(FILE, value=float("inf")),
}
EVIL = "raise SystemExit('the code of the checkpoint ran')\n"
CODE = {
    "code for an unknown type": lambda: (
        edit(CONFIG, "model_type", "evil")(),
        edit(CONFIG, "auto_map", {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})(),
        write("M/evil.py", EVIL)(),
    ),
}
TOKENIZERS = {
    **{
        f"tokenizer.json {what}": write("M/tokenizer.json", NO_OBJECT[what])
        for what in ("empty", "cut off", "a list", "a number", "null", "binary", "nested")
    },
    "tokenizer.json {}": write("M/tokenizer.json", "{}"),
    "tokenizer.json of another version": edit("M/tokenizer.json", "version", "9.9"),
    "no tokenizer": lambda: [path.unlink() for path in Path("M").glob("tokenizer*")],
    "tokenizer_config.json []": write("M/tokenizer_config.json", "[]"),
    "tokenizer_config.json nested": write("M/tokenizer_config.json", NO_OBJECT["nested"]),
    "a tokenizer with more entries than the model": lambda: _larger_tokenizer(),
    "a tokenizer with code": lambda: (
        edit("M/tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil.Evil", None]})(),
        edit("M/tokenizer_config.json", "tokenizer_class", "Evil")(),
        write("M/evil.py", EVIL)(),
    ),
}


def _larger_tokenizer() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("M")
    tokenizer.add_tokens([f"word{number}" for number in range(20)])
    tokenizer.save_pretrained("M")


GENERATION = {
    **{what: NO_OBJECT[what] for what in ("a list", "a number", "nested", "cut off", "binary")},
    "temperature a text": b'{"temperature": "x"}',
    "num_beams negative": b'{"num_beams": -1}',
    "cache_implementation unknown": b'{"cache_implementation": "nope"}',
    "max_length a text": b'{"max_length": "x"}',
}

A = "generate A x --max-new-tokens 2"
ADAPTER = "A/lime_adapter.json"
ADAPTER_FIELDS = {
    "format_version": (None, 0, 2, "1", [], DEEP),
    "routing": (None, 5, "", "nope", [], "static"),
    "share_kv": (None, 5, "x", []),
    "base_model": (None, 5, [], "", "../../../../etc", "./nowhere", "A", ".", "\x1b[2J", DEEP),
    "base": (None, 5, [], {}, "x", DEEP),
    "replaces": (None, 5, "x", {}, [5], [["x"]], ["../x"], ["model.norm.weight"]),
    "lora": (None, 5, "x", True),
    "surprise": (1,),
}


def _adapters() -> Iterator[Case]:
    yield from fields("adapters", A, ADAPTER, ADAPTER_FIELDS, "lime_adapter.json|A:|A/")
    yield from broken("adapters", A, ADAPTER, "lime_adapter.json|A:|A ")
    weights = "A/lime_adapter.safetensors"
    for what, change in {
        "weights missing": remove(weights),
        "weights cut off": cut(weights),
        "weights of text": write(weights, "hello" * 100),
        "one router fewer": _tensors(weights, drop_one=True),
        "another base": _tensors("L/model.safetensors", value=0.5),
        "no base": remove("L"),
    }.items():
        yield command("adapters", A, "A|L", change=change, what=what)
    for reader in (
        "convert A --out o",
        "eval A --domain held=T --out o",
        "analyze A --data T --only retrieval --out o",
    ):
        yield command("adapters", reader, "A", change=cut(weights), what="weights cut off")
        yield command("adapters", reader, "A", change=edit(ADAPTER, "routing", 5), what="routing = 5")
        yield command("adapters", reader, "A", change=write(ADAPTER, "[]"), what="a list")
    yield command("adapters", A, "A", change=_circle, what="two adapters that name each other as base")
    yield command(
        "adapters", A, "A|weights|finite", change=_tensors(weights, value=float("nan")), what="routers are NaN"
    )


def _circle() -> None:
    import shutil

    shutil.copytree("A", "A2")
    edit("A/lime_adapter.json", "base_model", "A2")()
    edit("A2/lime_adapter.json", "base_model", "A")()


def _peft() -> Iterator[Case]:
    text, path = "generate P x --max-new-tokens 2", "P/adapter_config.json"
    wrong = {
        "base_model_name_or_path": (None, 5, [], "", "./nowhere", "P", "\x1b[2J"),
        "peft_type": (None, 5, "nope", []),
        "r": (None, 0, -1, "x", 1.5, 10**30),
        "target_modules": (5, ["nope"], {"a": 1}),
        "lora_alpha": ("x", []),
    }
    yield from fields("PEFT", text, path, wrong, "adapter_config.json|P:|P/|P ")
    yield from broken("PEFT", text, path, "adapter_config.json|P:|P ")
    weights = "P/adapter_model.safetensors"
    for what, change in {
        "weights missing": remove(weights),
        "weights cut off": cut(weights),
        "weights of text": write(weights, "hello" * 100),
        "weights a pickle": lambda: (Path(weights).unlink(), write("P/adapter_model.bin", PICKLE)()),
        "no base": remove("L"),
    }.items():
        yield command("PEFT", text, "P|L", change=change, what=what)


def _labels() -> Iterator[Case]:
    """The label of a checkpoint is in `result.json`, where there is one. (Any text is one: test_item_files.py)"""
    for reader in ("eval M --domain held=T --out o", "analyze M --data T --only collapse --tokens 64 --out o"):
        for value in (
            5,
            None,
            [],
            ["x"],
            {},
            "",
            "x" * 400,
            "\x1b]0;pwned\x07",
        ):  # "a/b" is a label, and safe: test_item_files.py
            content = json.dumps({"label": value})
            yield command(
                "labels", reader, "result.json|label", change=write("M/result.json", content), what=f"{value!r:.40}"
            )
        for what in ("a list", "cut off", "binary", "nested"):
            yield command("labels", reader, "result.json", change=write("M/result.json", NO_OBJECT[what]), what=what)

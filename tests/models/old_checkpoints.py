"""Checkpoints as they were on 28 November 2026, before the house was rebuilt, as a record that can be read.

`old_checkpoints.json` says of every kind of model: its config.json; the names and shapes of its state dict and, as a
checksum of each tensor, what a fresh model of a fixed seed starts from; its logits with weights that follow from names
and shapes, and the tokens that it then generates.

python -m tests.models.old_checkpoints

compares what today's code makes with the record, adds what the record does not have, and changes nothing that it has.
"""

import functools
import json
import re
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from tests.models.variants import TINY, VARIANTS, tiny_config

RECORD = Path(__file__).with_suffix(".json")
TOKENS = torch.tensor([[11, 53, 7, 90, 2, 53, 31], [64, 19, 19, 5, 77, 40, 3]])
SHOWN = 8  # of the vocabulary's logits
GENERATED = 6  # tokens
SEED = 5
BOUNDS = {"routing_sources": {"first": 1, "last": 2}}
#: Beside the variants of the suites: a variant and what is changed in it.
BESIDE = {
    "static_bounded": ("static_gqa", BOUNDS),
    "static_top_p_bounded": ("static_top_p", BOUNDS),
    "dynamic_bounded": ("dynamic_gqa", BOUNDS),
    "kv_bounded": ("kv_gqa", BOUNDS),
    "static_untied": ("static", {"tie_word_embeddings": False}),
    "dynamic_reference": ("dynamic", {"routing_backend": "reference"}),
    "kv_chunked": ("kv", {"routing_backend": "chunked"}),
}
#: Not ours: where these differ, it is torch or transformers that has changed.
LLAMAS = {"llama": {}, "llama_gqa": {"num_key_value_heads": 2}}
RECORDED = [*LLAMAS, *VARIANTS, *BESIDE]


def record_of(recorded: str) -> dict[str, Any]:
    """What the record says of a kind of model, as today's code makes it.

    It must NOT be used to make a failing test pass: the record stands for checkpoints that people have. Where it no
    longer holds, their files no longer load, or their results no longer come out, and it is the code that is wrong.
    """
    variant, changes = BESIDE.get(recorded, (recorded, {}))
    is_llama = recorded in LLAMAS
    config = LlamaConfig(**TINY | LLAMAS[recorded]) if is_llama else tiny_config(variant, **changes)
    with tempfile.TemporaryDirectory() as folder:
        fresh_model(config).save_pretrained(folder)
        saved = json.loads((Path(folder) / "config.json").read_text())
    del saved["transformers_version"]
    entry = {"config": saved, "state_dict": by_layer(described(fresh_model(config)))}
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), entry)
        model = AutoModelForCausalLM.from_pretrained(folder)
    return {**entry, "logits": shown(logits_of(model)), "generated": generate(model)}


def fresh_model(config) -> PreTrainedModel:
    """As a training builds its model."""
    torch.manual_seed(SEED)
    return AutoModelForCausalLM.from_config(config)


@functools.cache
def draws_as_then() -> bool:
    """Whether torch and transformers still give a Llama of their own the fresh weights that are recorded."""
    entry = json.loads(RECORD.read_text())["llama"]
    model = fresh_model(LlamaConfig(**entry["config"]))
    return described(model) == approximately(by_name(entry["state_dict"]))


def write_checkpoint(folder: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    """Write a checkpoint from the record alone, with none of the models' code; returns its weights."""
    (folder / "config.json").write_text(json.dumps(entry["config"]))
    tensors = {name: weight(name, shape) for name, (shape, _) in by_name(entry["state_dict"]).items()}
    if entry["config"]["tie_word_embeddings"]:
        del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


def weight(name: str, shape: list[int]) -> Tensor:
    """Values that depend on name and shape alone, the same on every machine, which keep activations near one."""
    noise = numpy.random.RandomState(zlib.crc32(name.encode())).random_sample(shape) * 2 - 1
    kind = name.removesuffix(".weight")
    if kind.endswith(("norm", "static_beta", "_scale", "_connection.bias")):
        values = 1 + 0.5 * noise
    elif "router" in kind and not kind.endswith("proj"):
        values = noise
    elif len(shape) == 1:
        values = 0.3 * noise
    else:
        values = noise * (3 / (shape[0] if "dynamic_" in kind else shape[1])) ** 0.5
    return torch.from_numpy(values).float()


def described(model: nn.Module) -> dict[str, Any]:
    """Of every tensor of a state dict the shape and the checksum, by name in alphabetical order."""
    return {name: [list(value.shape), checksum(value)] for name, value in sorted(model.state_dict().items())}


def by_layer(entries: dict[str, Any]) -> dict[str, Any]:
    """Shorter, with a * for the layer in a name: `{"model.layers.*.x": {"0": ..., "1": ...}}`."""
    short: dict[str, Any] = {}
    for name, entry in entries.items():
        found = re.search(r"\.(\d+)\.", name)
        if found is None:
            short[name] = entry
        else:
            short.setdefault(name.replace(found[0], ".*."), {})[found[1]] = entry
    return short


def by_name(short: dict[str, Any]) -> dict[str, Any]:
    """Undo `by_layer`."""
    entries = {}
    for name, entry in short.items():
        layers = entry if "*" in name else {"": entry}
        entries |= {name.replace("*", layer): each for layer, each in layers.items()}
    return entries


def checksum(values: Tensor) -> float:
    """One number that is another when the values are, or stand in another order."""
    flat = values.detach().double().flatten()
    return rounded(float(flat @ torch.arange(1, len(flat) + 1).double().cos()))


def rounded(value: float) -> float:
    """To six digits, and nothing to zero."""
    return float(f"{value:.6g}") if abs(value) > 1e-9 else 0.0


@torch.no_grad()
def logits_of(model: nn.Module) -> Tensor:
    """For the fixed tokens, cut to what the record shows, `[B, T, SHOWN]`."""
    return model(TOKENS).logits[..., :SHOWN]


def shown(logits: Tensor) -> list:
    return [[[rounded(value) for value in row] for row in sequence.tolist()] for sequence in logits]


def generate(model: PreTrainedModel) -> list[int]:
    """The most likely tokens after the first sequence; refused where a hair decides between two."""
    tokens = model.generate(TOKENS[:1], max_new_tokens=GENERATED, do_sample=False, pad_token_id=0)
    with torch.no_grad():
        best = model(tokens).logits[0, -GENERATED - 1 : -1].topk(2).values
    assert ((best[:, 0] - best[:, 1]) > 1e-3).all(), "two tokens are about equally likely: take other tokens"
    return tokens[0, -GENERATED:].tolist()


def approximately(entries: dict[str, Any]) -> dict[str, Any]:
    """What `described` gives, to compare with: checksums to the digits that are recorded."""
    return {name: [shape, pytest.approx(value, rel=1e-5, abs=1e-7)] for name, (shape, value) in entries.items()}


def assert_close(actual: Tensor, expected: list) -> None:
    """Equal but for the order in which a machine adds up in float32, and for the record's six digits."""
    wanted = torch.tensor(expected)
    torch.testing.assert_close(actual.float(), wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


def laid_out(value: Any, indent: str = "") -> str:
    """JSON with whatever fits on a line in one line."""
    line = json.dumps(value)
    if len(indent + line) <= 118 or not isinstance(value, dict | list):
        return line
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {laid_out(each, inner)}" for key, each in value.items()]
    else:
        parts = [laid_out(each, inner) for each in value]
    ends = "{}" if isinstance(value, dict) else "[]"
    return f"{ends[0]}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{ends[1]}"


def differences(actual: Any, recorded: Any, where: str) -> list[str]:
    """Where today's code makes something else than what is recorded."""
    if isinstance(actual, dict) and isinstance(recorded, dict):
        names = sorted(actual.keys() | recorded.keys())
        return [
            line for name in names for line in differences(actual.get(name), recorded.get(name), f"{where}: {name}")
        ]
    return [] if actual == recorded else [f"{where}: {recorded} was recorded; today it is {actual}"]


def main(path: Path, names: list[str], make: Callable[[str], dict[str, Any]]) -> int:
    """Compare with the record, and add what it does not have."""
    record = json.loads(path.read_text()) if path.exists() else {}
    today = {name: make(name) for name in names}
    found = [line for name in record for line in differences(today.get(name), record[name], name)]
    print("\n".join(found) or "all as recorded")
    if today.keys() - record.keys():
        path.write_text(laid_out({**today, **record}) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(RECORD, RECORDED, record_of))

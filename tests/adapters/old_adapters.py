"""Adapters, and models saved with routers, as they were on 28 November 2026, before the house was rebuilt.

`old_adapters.json` says of every kind of attached routing: the adapter's description; the names and shapes of what its
file of weights holds and, as a checksum of each router, what freshly attached ones start from; what config.json of the
same model, saved whole, says of its routers; and the logits with weights that follow from names and shapes.

python -m tests.adapters.old_adapters

compares what today's code makes with the record, adds what the record does not have, and changes nothing that it has.
"""

import contextlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from limelm import attach, save_adapter
from tests.models import old_checkpoints
from tests.models.old_checkpoints import by_layer, by_name, described, logits_of, main, shown, weight, write_checkpoint

RECORD = Path(__file__).with_suffix(".json")
BASE, ADAPTER, WHOLE = "base", "adapter", "whole"  # folders beside each other
DESCRIPTION, WEIGHTS = "lime_adapter.json", "lime_adapter.safetensors"
ROUTING = "attached_routing"  # in config.json of a model that was saved whole
BOUNDS = {"first": 1, "last": 2}
KINDS: dict[str, dict[str, Any]] = {
    f"{routing}_{'shared' if share_kv else 'apart'}": {"routing": routing, "share_kv": share_kv}
    for routing in ("kv", "static", "dynamic", "scale")
    for share_kv in (True, False)
} | {
    "kv_bounded": {"routing": "kv", "share_kv": False, "routing_sources": BOUNDS},
    "static_bounded": {"routing": "static", "routing_sources": BOUNDS},
    "dynamic_bounded": {"routing": "dynamic", "share_kv": False, "routing_sources": BOUNDS},
    "kv_replaced": {"routing": "kv"},
    "static_resized": {"routing": "static"},
}
#: What was trained of the base itself, beside the routers.
TRAINED_BESIDE = {
    "kv_replaced": ["model.layers.2.self_attn.k_proj.weight"],
    "static_resized": ["model.embed_tokens.weight"],
}
NEW_TOKENS = 3  # in static_resized


def record_of(kind: str) -> dict[str, Any]:
    """What the record says of a kind of adapter, as today's code makes it.

    It must NOT be used to make a failing test pass: the record stands for adapters that people have. Where it no
    longer holds, their files no longer load, or their results no longer come out, and it is the code that is wrong.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a model is saved with its routers
        write_base(Path())
        model = fresh_routers(Path(BASE), KINDS[kind])
        fresh = described(model)
        if kind.endswith("resized"):
            model.resize_token_embeddings(model.config.vocab_size + NEW_TOKENS)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "router" in name or name in TRAINED_BESIDE.get(kind, ()):
                    parameter.copy_(trained(name, list(parameter.shape)))
        save_adapter(model, ADAPTER)
        model.save_pretrained(WHOLE)
        shapes = {name: list(tensor.shape) for name, tensor in sorted(load_file(f"{ADAPTER}/{WEIGHTS}").items())}
        checksums = {name: fresh[name][1] if "router" in name else None for name in shapes}
        return {
            "description": json.loads(Path(ADAPTER, DESCRIPTION).read_text()),
            ROUTING: json.loads(Path(WHOLE, "config.json").read_text())[ROUTING],
            "weights": by_layer({name: [shape, checksums[name]] for name, shape in shapes.items()}),
            "logits": shown(logits_of(model)),
        }


def fresh_routers(base: Path, options: dict[str, Any]) -> PreTrainedModel:
    """The base with routers as `attach` leaves them, of a fixed seed."""
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(old_checkpoints.SEED)
    return attach(model, **options)


def write_base(parent: Path) -> dict[str, Tensor]:
    """Write the adapters' base, of the record of checkpoints; returns its weights."""
    (parent / BASE).mkdir()
    return write_checkpoint(parent / BASE, base_entry())


def base_entry() -> dict[str, Any]:
    return json.loads(old_checkpoints.RECORD.read_text())["llama_gqa"]


def write_adapter(parent: Path, entry: dict[str, Any]) -> dict[str, Tensor]:
    """Write an adapter from the record alone, with none of our code; returns its weights."""
    folder = parent / ADAPTER
    folder.mkdir()
    tensors = trained_weights(entry)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / DESCRIPTION).write_text(json.dumps(entry["description"], indent=2) + "\n")
    return tensors


def write_whole(parent: Path, entry: dict[str, Any]) -> None:
    """Write the same model as `save_pretrained` has, routers and all, from the record alone."""
    folder = parent / WHOLE
    folder.mkdir()
    tensors = write_checkpoint(folder, base_entry()) | trained_weights(entry)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        **base_entry()["config"],
        ROUTING: entry[ROUTING],
        "vocab_size": len(tensors["model.embed_tokens.weight"]),
    }
    (folder / "config.json").write_text(json.dumps(config))


def trained_weights(entry: dict[str, Any]) -> dict[str, Tensor]:
    return {name: trained(name, shape) for name, (shape, _) in by_name(entry["weights"]).items()}


def trained(name: str, shape: list[int]) -> Tensor:
    """Other values than those of the base's own weight of this name."""
    return weight(f"trained.{name}", shape)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(RECORD, list(KINDS), record_of))

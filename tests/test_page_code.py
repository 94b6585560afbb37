"""Python in pages runs: in a folder that holds what `make demo` leaves, one block of a page after the other."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

import limelm
from limelm.data.dataset import TokenDataset, load_prepared_tokenizer
from limelm.routing import History, make_routers
from tests.recipes import prepared

ROOT = Path(limelm.__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
#: What pushes to a hub runs in a test of its own, against a folder (tests/test_hub.py).
ELSEWHERE = {"hub.md"}
PAGES = [
    page
    for page in sorted(ROOT.glob("docs/**/*.md"))
    if BLOCK.search(page.read_text(encoding="utf-8")) and page.name not in ELSEWHERE
]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder with the checkpoints that pages name, and tokens to train on."""
    folder = tmp_path_factory.mktemp("demo")
    tokens = prepared(folder / "tokens")
    tokenizer = load_prepared_tokenizer(tokens)
    sizes = SIZES | {"vocab_size": len(tokenizer)}
    models = {
        "demo/seed-42/llama": LlamaForCausalLM(LlamaConfig(**sizes)),
        "HuggingFaceTB/SmolLM2-135M": LlamaForCausalLM(LlamaConfig(**sizes)),
        "demo/seed-42/static": limelm.LimeForCausalLM(limelm.LimeConfig(routing="static", **sizes)),
        "demo/seed-42/dynamic": limelm.LimeForCausalLM(limelm.LimeConfig(routing="dynamic", **sizes)),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


class Step(nn.Module):
    """What a page calls a block: the modules that its lines name."""

    def __init__(self):
        super().__init__()
        self.norm, self.k_proj, self.v_proj = nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 32)


def own_model() -> dict:
    """What docs/own_model.md takes for granted: a model that routes, and a forward that is under way."""
    routers = make_routers("kv", num_layers=4, hidden_size=32, num_heads=4)
    model = limelm.LimeForCausalLM(limelm.LimeConfig(routing="kv", vocab_size=64, **SIZES))
    cache = [(torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 8))]
    return {
        "c_attn": nn.Linear(32, 96),
        "model": model,
        "tokens": torch.tensor([[1, 2, 3]]),
        "self": Step(),
        "router": routers[0],
        "history": History(routers),
        "x": torch.randn(1, 1, 32),
        "i": 0,
        "cache": cache,
        "rotate": lambda states: states,
    }


def attach() -> dict:
    """What docs/attach.md takes for granted: texts to train on."""
    return {"texts": Dataset.from_dict({"text": ["def main(argv):"] * 8})}


def footguns() -> dict:
    """What docs/footguns.md takes for granted: a model, its data and the Trainer's arguments."""
    model = limelm.LimeForCausalLM(limelm.LimeConfig(routing="static", vocab_size=300, **SIZES))
    return {
        "model": model,
        "data": TokenDataset(Path("tokens"), "train", 32),
        "arguments": TrainingArguments("out", report_to="none"),
    }


GIVEN = {"attach.md": attach, "own_model.md": own_model, "footguns.md": footguns}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_python_of_a_page_runs(page, demo, monkeypatch):
    monkeypatch.chdir(demo)
    names = {"torch": torch, "nn": nn, "limelm": limelm, "transformers": transformers}
    names |= GIVEN.get(page.name, dict)()
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), names)


def test_pages_with_python_are_found():
    assert {"attach.md", "analysis.md", "own_model.md", "routing.md"} <= {page.name for page in PAGES}

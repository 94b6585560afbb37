"""The promise of CONTRIBUTING: a new routing is one class and one line, and everything else knows it.

`recency.py` is the routing. What is said of it here is what would be said of any: its formula in float64 with all
gradients, decoding from a cache, saving and loading in a fresh process, a recipe that trains it, router statistics,
`limelm analyze`, `limelm bench` and parameter groups.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import limelm
from limelm import LimeConfig, LimeForCausalLM
from limelm.analysis import retrieval_weights, route_effects
from limelm.routing import ROUTERS
from tests.models.naive import NaiveLime, softmax
from tests.models.variants import TINY, assert_same_gradients, gradients, randomize, token_ids
from tests.recipes import prepared, write_recipe
from tests.routing.recency import RecencyRouter

ROOT = Path(__file__).parents[2]
BACKENDS = ("reference", "chunked")


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(ROUTERS, "recency", RecencyRouter)


def recency_model(**changes) -> LimeForCausalLM:
    config = LimeConfig(**(TINY | {"routing": "recency", "num_key_value_heads": 2} | changes))
    return randomize(LimeForCausalLM(config)).eval()


def with_recency(*command: str) -> str:
    """Run `limelm` in a fresh process that knows the routing."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.routing.recency", *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class NaiveRecency(NaiveLime):
    def routing_weights(self, i, h, current):
        slope = self.weight(i, "self_attn.router.slope")[h]
        return list(softmax(torch.stack([slope * (j - i) for j in range(i + 1)])))


@pytest.mark.parametrize("backend", BACKENDS)
def test_its_formula_and_all_gradients(backend):
    model = recency_model(routing_backend=backend, num_hidden_layers=3).double().train()
    weights = {name: p.detach().clone().double().requires_grad_() for name, p in model.named_parameters()}
    naive = NaiveRecency(model.config, weights)
    input_ids = token_ids(batch=2, tokens=6)
    logits, expected = model(input_ids).logits, naive.logits(input_ids)
    torch.testing.assert_close(logits, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    probe = torch.randn_like(logits)
    (logits * probe).sum().backward()
    (expected * probe).sum().backward()
    assert_same_gradients(gradients(model), {name: weight.grad for name, weight in weights.items()})


@torch.no_grad()
def test_decoding_from_a_cache_equals_the_full_forward():
    model, input_ids = recency_model(), token_ids(batch=2, tokens=7)
    past = model(input_ids[:, :3], use_cache=True).past_key_values
    steps = [model(input_ids[:, t : t + 1], past_key_values=past, use_cache=True).logits for t in range(3, 7)]
    torch.testing.assert_close(torch.cat(steps, dim=1), model(input_ids).logits[:, 3:], atol=1e-5, rtol=1e-5)


def test_it_is_loaded_in_a_fresh_process(tmp_path):
    model = recency_model()
    model.save_pretrained(tmp_path / "model")
    torch.save(model(token_ids()).logits.detach(), tmp_path / "logits.pt")
    code = (
        "import sys, torch; from tests.routing.recency import register; register();"
        "from limelm import load_model; from tests.models.variants import token_ids; model = load_model(sys.argv[1]);"
        "torch.testing.assert_close(model(token_ids()).logits, torch.load(sys.argv[2], weights_only=True))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "logits.pt")], env=environment, check=True
    )


def test_options_that_it_does_not_have_are_refused():
    LimeConfig(routing="recency", routing_sources={"first": 1, "last": 2})
    with pytest.raises(ValueError, match=r"routing_top_p=0\.9 needs routing='static', not 'recency'"):
        LimeConfig(routing="recency", routing_top_p=0.9)


def test_its_retrieval_weights_are_its_formulas():
    model = recency_model(routing_sources={"first": 1, "last": 2})
    weights = retrieval_weights(model, "recency")
    slope = model.model.layers[3].self_attn.router.slope.detach()
    logits = slope.unsqueeze(-1) * torch.tensor([-3, -1, 0])
    torch.testing.assert_close(
        torch.tensor(weights.layers[3][:, [0, 2, 3]]), logits.double().softmax(-1), atol=1e-6, rtol=0
    )
    assert (weights.layers[3][:, 1] == 0).all() and weights.head_mixes == {}


def test_its_routes_are_cut_and_measured():
    model, ids = recency_model(), token_ids()
    found = route_effects(model, [ids], largest=2, random=1)
    assert len(found.routes) == 2 * (2 + 3 + 4) and any(route.estimate for route in found.routes)
    with torch.no_grad():
        own = model(ids).logits
        with limelm.routes(model).cut(layer=2, head=0, source=-1):
            assert not torch.allclose(model(ids).logits, own, atol=1e-3)
        assert torch.equal(model(ids).logits, own)


def test_its_parameters_learn_as_routing_weights():
    model = recency_model()
    groups = {group["name"]: group for group in limelm.parameter_groups(model)}
    slopes = {id(layer.self_attn.router.slope) for layer in model.model.layers[1:]}
    assert {id(parameter) for parameter in groups["router"]["params"]} == slopes
    assert (groups["router"]["lr"], groups["router"]["weight_decay"]) == (1e-2, 0.0)


def test_a_recipe_trains_it_and_every_command_knows_it(tmp_path):
    added = '[models.recency]\nlabel = "Recency"\nmodel_type = "lime"\nrouting = "recency"\n\n[data]'
    recipe = write_recipe(tmp_path, ("[data]", added), ('["llama", "dynamic"]', '["llama", "recency"]'))
    data = prepared(tmp_path / "data")
    with_recency("reproduce", str(recipe), "--data", str(data), "--out", str(tmp_path / "run"))
    folder = tmp_path / "run" / "seed-1" / "recency"
    lines = [json.loads(line) for line in (folder / "routers.jsonl").read_text().splitlines()]
    assert [layer["layer"] for layer in lines[-1]["layers"]] == [1, 2]
    assert all(0 < layer["self_weight"] < 1 for layer in lines[-1]["layers"])
    assert "Recency" in (tmp_path / "run" / "report.html").read_text()

    few = ["--tokens", "64", "--only", "retrieval,effects"]
    with_recency("analyze", str(folder), "--data", str(data), "--out", str(tmp_path / "analysis"), *few)
    table = next((tmp_path / "analysis").rglob("*weights*.csv"))
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"Recency"} and {row["layer"] for row in rows} == {"1", "2"}

    sizes = [
        "--num-hidden-layers",
        "3",
        "--hidden-size",
        "32",
        "--num-attention-heads",
        "4",
        "--sequence-length",
        "16",
        "--batch-size",
        "1",
        "--vocab-size",
        "97",
    ]
    out = tmp_path / "bench"
    with_recency("bench", "--cases", "recency", "--workloads", "train", "--rounds", "1", "--out", str(out), *sizes)
    assert "recency" in "".join(path.read_text() for path in out.glob("*.csv"))

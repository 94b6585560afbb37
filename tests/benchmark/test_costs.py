"""What a run's models cost: bytes of a cache against their formula, and times beside the baseline's."""

import pytest
import torch

from limelm.benchmark import costs
from limelm.benchmark.costs import cache_bytes_per_token, measure_costs
from limelm.benchmark.shape import Inputs
from tests.models.variants import tiny_model


@pytest.mark.parametrize("variant", ["none", "kv_gqa", "dense_former"])
def test_a_cache_keeps_the_keys_and_values_of_every_layer(variant):
    config = tiny_model(variant).config
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert cache_bytes_per_token(tiny_model(variant), 6) == 4 * values  # float32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_times_stand_beside_the_baselines(monkeypatch, precision):
    monkeypatch.setattr(costs, "ROUNDS", 1)
    inputs = Inputs(batch_size=2, sequence_length=8, decode_from=4)
    models = {"a": tiny_model("none"), "b": tiny_model("static")}
    seen = set()
    models["a"].register_forward_hook(
        lambda model, *_: seen.add((model.training, torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
    )
    models["a"].lm_head.weight.register_hook(lambda _: seen.add(("backward", torch.is_autocast_enabled("cpu"))))
    plain, static = measure_costs(models, "a", inputs, precision)
    is_bf16 = precision == "bf16"
    assert seen == {(True, is_bf16, True), ("backward", False), (False, False, False)}
    assert plain["precision"] == precision
    assert plain["step_milliseconds"] > 0 and plain["decoding_milliseconds"] > 0
    assert {plain[key] for key in ("step_ratio", "decoding_ratio", "decoding_upper_quartile", "cache_ratio")} == {None}
    assert static["model"] == "b" and static["cache_ratio"] == 1.0
    for task in ("step", "decoding"):
        assert 0 < static[f"{task}_lower_quartile"] <= static[f"{task}_ratio"] <= static[f"{task}_upper_quartile"]

"""What decoding costs: bytes of a cache against their formula, and times beside the baseline's."""

import pytest

from limelm.benchmark import decoding
from limelm.benchmark.decoding import cache_bytes_per_token, decoding_costs
from tests.models.variants import tiny_model


@pytest.mark.parametrize("variant", ["none", "kv_gqa", "dense_former"])
def test_a_cache_keeps_the_keys_and_values_of_every_layer(variant):
    config = tiny_model(variant).config
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert cache_bytes_per_token(tiny_model(variant), 6) == 4 * values  # float32


def test_times_stand_beside_the_baselines(monkeypatch):
    monkeypatch.setattr(decoding, "ROUNDS", 1)
    plain, static = decoding_costs({"a": tiny_model("none"), "b": tiny_model("static")}, "a", 4)
    assert plain["ratio"] is None and plain["milliseconds"] > 0 and plain["cache_ratio"] is None
    assert static["ratio"] > 0 and static["cache_ratio"] == 1.0 and static["model"] == "b"

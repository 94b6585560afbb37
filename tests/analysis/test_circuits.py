import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from limelm import LimeConfig, LimeForCausalLM
from limelm.analysis import ActivationReader, circuit_records, tokens_of_routes, vocabulary_directions
from limelm.analysis.circuits import CONTEXT, CONTROLS, EXAMPLES, OpenRoutes
from limelm.data.tokenization import train_tokenizer
from tests.models.variants import randomise, tiny_model, token_ids

PLANTED = [11, 23, 42, 57, 80]
LAYER, SOURCE, HEAD = 2, 1, 3


def planted(tie: bool = True):
    """A model in which five tokens share a direction that the gains hide, and one route listens to it."""
    config = LimeConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        routing="dynamic",
        tie_word_embeddings=tie,
    )
    model = randomise(LimeForCausalLM(config)).eval()
    layer = model.model.layers[LAYER]
    with torch.no_grad():
        concept = torch.randn(64)
        read_as = torch.randn(300, 64)
        read_as[PLANTED] += 3 * concept
        # The head reads token t from the residual stream x where norm.weight * x / rms(x) is along its embedding.
        model.lm_head.weight.copy_(read_as * model.model.norm.weight)
        P = layer.self_attn.router.proj.weight
        P.copy_(0.1 * torch.randn(P.shape))
        P[HEAD * 3 + SOURCE] = 2 * concept / layer.routing_layernorm.weight
    return model


@pytest.mark.parametrize("tie", [True, False])
def test_a_planted_circuit_is_found_and_random_routes_are_less_coherent(tie):
    model = planted(tie)
    routes, controls = tokens_of_routes(model.model.layers[LAYER], vocabulary_directions(model), k=5)
    row = HEAD * 3 + SOURCE
    assert sorted(routes.tokens[row].tolist()) == PLANTED
    assert routes.logits[row].tolist() == sorted(routes.logits[row].tolist(), reverse=True)
    assert (routes.weights[row] > 0.9).all()
    others = [other for other in range(12) if other != row]
    assert routes.coherence[row] > 0.5 > routes.coherence[others].max()
    assert controls.tokens.shape == (CONTROLS, 5) and routes.coherence[row] > controls.coherence.max()


def test_logits_and_weights_are_those_of_the_forward():
    """A residual stream along a token's direction, put through the layer's own routing."""
    model = planted()
    layer = model.model.layers[LAYER]
    directions = vocabulary_directions(model)
    routes, _ = tokens_of_routes(layer, directions)
    row = HEAD * 3 + SOURCE
    X = directions[routes.tokens[row]]
    with torch.no_grad():
        A = layer.self_attn.router.routing_weights(layer.routing_layernorm(X[None]))[0]
        torch.testing.assert_close(
            model.lm_head.weight[routes.tokens[row]], directions[routes.tokens[row]] * model.model.norm.weight
        )
    torch.testing.assert_close(routes.weights[row], A[:, HEAD, SOURCE])


def test_coherence_by_hand():
    model = planted()
    directions = vocabulary_directions(model)
    routes, _ = tokens_of_routes(model.model.layers[1], directions, k=4)
    centred = directions - directions.mean(0)
    tokens = routes.tokens[5].tolist()
    pairs = [
        float(torch.nn.functional.cosine_similarity(centred[a], centred[b], dim=0))
        for a in tokens
        for b in tokens
        if a != b
    ]
    assert float(routes.coherence[5]) == pytest.approx(np.mean(pairs), abs=1e-5)


def test_the_places_where_a_route_is_open_widest_whatever_the_batches():
    model = tiny_model("dynamic")
    ids = token_ids(batch=6, tokens=11)
    reader = ActivationReader(model, "m")
    everything, in_parts = OpenRoutes(), OpenRoutes()
    everything.update(reader(ids))
    for part in ids.split([1, 3, 2]):
        in_parts.update(reader(part))
    for layer in (1, 2, 3):
        torch.testing.assert_close(in_parts.weights[layer], everything.weights[layer])
    A = reader(ids).routing[3]
    head, source, before = 2, 1, CONTEXT[0]
    best = A[:, :, head, source].flatten().topk(EXAMPLES)
    route = head * 4 + source
    torch.testing.assert_close(in_parts.weights[3][route], best.values)
    assert in_parts.windows[3][route, :, before].tolist() == ids.flatten()[best.indices].tolist()


def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["the cat sat on the mat and the dog ate the hat of the rat " * 20], 280)


def test_records():
    model, words = planted(), tokenizer()
    reader, routes = ActivationReader(model, "m"), OpenRoutes()
    routes.update(reader(torch.tensor([words("the cat sat on the mat and the dog ate the hat").input_ids])))
    usage = {layer: np.full((4, layer + 1), 1 / (layer + 1)) for layer in (1, 2, 3)}
    usage[LAYER][HEAD] = [0.05, 0.9, 0.05]
    records = circuit_records("m", model, words, usage, routes)
    assert len(records) == 4 * (2 + 3 + 4)
    (found,) = [r for r in records if (r["layer"], r["source"], r["head"]) == (LAYER, SOURCE, HEAD)]
    assert found["usage"] == 0.9 and found["usage_bin"] == "0.8-1" and not found["is_own"]
    assert found["coherence_percentile"] > 95 and found["coherence"] > found["control_coherence"]
    assert [len(found[key]) for key in ("tokens", "control_tokens", "examples")] == [10, 10, 5]
    assert found["control_tokens"][0]["weight"] is None and 0 <= found["tokens"][0]["weight"] <= 1
    example = found["examples"][0]
    assert example["token"].strip() and example["token"] in "the cat sat on the mat and the dog ate the hat<bos>"
    assert any(r["is_own"] for r in records) and {r["usage_bin"] for r in records} == {
        "0-0.2",
        "0.2-0.4",
        "0.4-0.6",
        "0.8-1",
    }

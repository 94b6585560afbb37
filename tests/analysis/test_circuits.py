import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from limelm import LimeConfig, LimeForCausalLM
from limelm.analysis import ActivationReader, circuit_records, tokens_of_routes, vocabulary_directions
from limelm.analysis.circuits import CONTEXT, CONTROLS, EXAMPLES, OpenRoutes, matched_coherence, random_route_logits
from limelm.analysis.frequency import SMALLEST_BIN, MatchedRoutes, frequency_bins, without_frequency
from limelm.data.tokenization import train_tokenizer
from tests.models.variants import randomize, tiny_model, token_ids

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
    model = randomize(LimeForCausalLM(config)).eval()
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
    centered = directions - directions.mean(0)
    tokens = routes.tokens[5].tolist()
    pairs = [
        float(torch.nn.functional.cosine_similarity(centered[a], centered[b], dim=0))
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
    named = {entry["token"] for record in records for key in ("tokens", "control_tokens") for entry in record[key]}
    assert not any("\ufffd" in token for token in named) and any(token.startswith("\\x") for token in named)
    assert found["control_tokens"][0]["weight"] is None and 0 <= found["tokens"][0]["weight"] <= 1
    example = found["examples"][0]
    assert example["token"].strip() and example["token"] in "the cat sat on the mat and the dog ate the hat<bos>"
    assert any(r["is_own"] for r in records) and {r["usage_bin"] for r in records} == {
        "0-0.2",
        "0.2-0.4",
        "0.4-0.6",
        "0.8-1",
    }


# ---- frequency

RARE = [100, 130, 171, 210, 222, 260, 271, 280, 290, 299]  # a concept


def young():
    """A young model: frequent tokens lie farther along a direction. It has a route there, one to a concept, others."""
    model = planted()
    layer = model.model.layers[LAYER]
    with torch.no_grad():
        frequent, concept = torch.randn(2, 64)
        rank = torch.arange(300.0)
        read_as = torch.randn(300, 64) + 4 / (1 + rank[:, None] / 20) * frequent
        read_as[RARE] += 3 * concept
        model.lm_head.weight.copy_(read_as * model.model.norm.weight)
        P = layer.self_attn.router.proj.weight
        P.copy_(0.1 * torch.randn(P.shape))
        P[3 * 0] = 2 * frequent / layer.routing_layernorm.weight
        P[3 * 1] = 2 * concept / layer.routing_layernorm.weight
    return model, (500 / (1 + rank)).long()  # Zipf's law, and the rarest do not occur in the sample


def bins_by_hand(counts):
    """Ranks 0-31, 32-95, ...; those that never occur by themselves, and too few of anything with what is before."""
    order = sorted(range(len(counts)), key=lambda token: (-counts[token], token))
    seen = [token for token in order if counts[token]]
    parts, start, size = [], 0, 32
    while start < len(seen):
        parts.append(seen[start : start + size])
        start, size = start + size, 2 * size
    parts.append(order[len(seen) :])
    joined = []
    for part in parts:
        if joined and (len(part) < 32 or len(joined[-1]) < 32):
            joined[-1] = joined[-1] + part
        elif part:
            joined.append(part)
    return joined


@pytest.mark.parametrize("seen", [0, 1, 31, 32, 33, 96, 100, 268, 280, 300])
def test_bins_of_like_frequency(seen):
    counts = torch.zeros(300, dtype=torch.long)
    counts[torch.randperm(300)[:seen]] = torch.randint(1, 50, (seen,))
    bins = [tokens.tolist() for tokens in frequency_bins(counts)]
    assert bins == bins_by_hand(counts.tolist())
    assert sorted(token for tokens in bins for token in tokens) == list(range(300))
    assert all(len(tokens) >= SMALLEST_BIN for tokens in bins)


def test_a_small_vocabulary_is_one_bin():
    assert [tokens.tolist() for tokens in frequency_bins(torch.tensor([0, 3, 1]))] == [[1, 2, 0]]


def test_matched_routes_choose_as_many_tokens_of_each_frequency():
    """Against a loop over the definition: of each bin those with the largest logits."""
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 60, (300,), generator=generator)
    logits = torch.randn(300, 7, generator=generator)
    bins = frequency_bins(counts)
    matched = MatchedRoutes(logits, bins, k=10)
    own = torch.randperm(300, generator=generator)[:10]
    chosen = matched.tokens(matched.profile(own))
    assert chosen.shape == (7, 10)
    for route in range(7):
        expected = []
        for tokens in bins:
            wanted = len(set(tokens.tolist()) & set(own.tolist()))
            expected += sorted(tokens.tolist(), key=lambda token: -float(logits[token, route]))[:wanted]
        assert chosen[route].tolist() == expected


def test_a_route_to_frequent_tokens_is_no_clearer_than_they_are():
    model, counts = young()
    layer, directions = model.model.layers[LAYER], vocabulary_directions(model)
    routes, random = tokens_of_routes(layer, directions)
    assert max(routes.tokens[0].tolist()) < 40 and sorted(routes.tokens[3].tolist()) == RARE
    aside, matched = matched_coherence(random_route_logits(layer, directions), directions, routes.tokens, counts)
    assert aside.shape == (12,) and matched.shape == (12, CONTROLS)
    share = lambda others, value: float((others < value).float().mean())  # noqa: E731
    assert min(share(random.coherence, routes.coherence[row]) for row in (0, 3)) > 0.95
    assert share(matched[0], aside[0]) < 0.95 < share(matched[3], aside[3])


def test_records_say_which_routes_are_clear():
    model, counts = young()
    examples = OpenRoutes()
    examples.counts = counts[: int(counts.nonzero().max()) + 1]  # the largest ids do not occur
    for layer in (1, 2, 3):
        examples.weights[layer] = torch.zeros(4 * (layer + 1), EXAMPLES)
        examples.windows[layer] = torch.zeros(4 * (layer + 1), EXAMPLES, sum(CONTEXT) + 1, dtype=torch.long)
    usage = {layer: np.full((4, layer + 1), 1 / (layer + 1)) for layer in (1, 2, 3)}
    rows = {(r["layer"], r["source"], r["head"]): r for r in circuit_records("m", model, tokenizer(), usage, examples)}
    frequent, concept = rows[LAYER, 0, 0], rows[LAYER, 0, 1]
    assert (frequent["clear"], concept["clear"]) == ("frequent tokens", "yes")
    assert frequent["matched_percentile"] < 95 < frequent["coherence_percentile"]
    for row in rows.values():
        clear = row["coherence_percentile"] > 95, row["matched_percentile"] > 95
        assert row["clear"] == {(True, True): "yes", (True, False): "frequent tokens"}.get(clear, "no")


def test_random_routes_are_above_95_one_time_in_twenty():
    """Routes that are random directions, among matched ones."""
    model, counts = young()
    layer, directions = model.model.layers[LAYER], vocabulary_directions(model)
    logits = layer.routing_layernorm(directions) @ torch.randn(64, 400, generator=torch.Generator().manual_seed(7))
    tokens = logits.T.topk(10).indices
    aside, matched = matched_coherence(random_route_logits(layer, directions), directions, tokens, counts)
    above = (matched < aside[:, None]).float().mean(dim=1) > 0.95
    assert 0.01 < float(above.float().mean()) < 0.12


def test_what_changes_with_frequency_is_taken_out():
    model, counts = young()
    directions = vocabulary_directions(model)
    beside = without_frequency(directions, counts).double().numpy()
    frequency = np.log1p(counts.numpy())
    slopes = np.polyfit(frequency, beside, 1)[0]
    assert np.abs(slopes).max() < 1e-5 and np.abs(beside.mean(axis=0)).max() < 1e-5
    centered = (directions - directions.mean(0)).double().numpy()
    assert np.linalg.matrix_rank(centered - beside, tol=1e-3) == 1
    same = torch.full((300,), 7)
    torch.testing.assert_close(without_frequency(directions, same), directions - directions.mean(0))


def test_coherence_frequency_aside_by_hand():
    model, counts = young()
    directions = vocabulary_directions(model)
    tokens = torch.tensor([[3, 17, 60, 299], [100, 5, 7, 9]])
    controls = random_route_logits(model.model.layers[LAYER], directions)
    aside, _ = matched_coherence(controls, directions, tokens, counts)
    unit = torch.nn.functional.normalize(without_frequency(directions, counts), dim=-1)
    for row, own in enumerate(tokens.tolist()):
        pairs = [float(unit[a] @ unit[b]) for a in own for b in own if a != b]
        assert float(aside[row]) == pytest.approx(np.mean(pairs), abs=1e-5)


def test_tokens_are_counted_over_batches():
    model, ids = tiny_model("dynamic"), token_ids(batch=6, tokens=11)
    reader, routes = ActivationReader(model, "m"), OpenRoutes()
    for part in ids.split([1, 3, 2]):
        routes.update(reader(part))
    assert routes.counts.tolist() == np.bincount(ids.flatten().numpy()).tolist()

"""What the explorer shows, against the functions that it comes from."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

import limelm
from limelm.analysis import ActivationReader, route_effects
from limelm.analysis.logit_lens import final_norm_and_head
from limelm.analysis.retrieval import readers_of
from limelm.errors import UserError
from limelm.explorer import Subject, checkpoints, explore_subjects
from limelm.explorer import measure as measuring
from limelm.explorer.measure import Change, cut_routes
from limelm.explorer.page import data_of
from tests.analysis.models_on_text import write_study
from tests.analysis.routed import ROUTED, routed_model
from tests.models.variants import tiny_model

TEXT = "one day it was late"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("explorer"))


class Letters:
    """A tokenizer of letters, for models with few tokens."""

    bos_token, eos_token, all_special_ids = "<", None, [0]

    def __call__(self, text, add_special_tokens):
        return type("Encoded", (), {"input_ids": ["<abcdefghijklmnopqrstuvwxyz ".index(letter) for letter in text]})

    def convert_ids_to_tokens(self, token):
        return self.decode([token])

    def decode(self, ids):
        return "".join(chr(96 + token) if token else "<" for token in ids)


def explored(model, text="hello world"):
    return limelm.explore(model, Letters(), text.replace(" ", "z")).data["models"][0]


@pytest.mark.parametrize("variant", ROUTED)
def test_weights_and_effects_are_those_of_the_functions(variant):
    model = routed_model(variant)
    found = explored(model)
    ids = torch.tensor([[token["id"] for token in found["tokens"]]])
    effects = route_effects(model, [ids], 12, 6, 40, with_means=False)
    of_place = {}
    for reader in readers_of(model):
        of_place.setdefault(reader.place, []).append(reader)
    assert [place["place"] for place in found["places"]] == list(of_place)
    for place in found["places"]:
        readers = of_place[place["place"]]
        n, rows = len(place["sources"]), sum(reader.num_rows for reader in readers)
        assert len(place["rows"]) == rows and place["sources"] == list(readers[0].source_ids)
        shape = (rows, n, place["columns"])
        assert place["weights"].shape == ((len(ids[0]), *shape) if place["dependsOnTokens"] else shape)
        np.testing.assert_allclose(place["effectsByToken"], effects.by_token[place["place"]][0], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(place["effects"], place["effectsByToken"].sum(axis=0), rtol=1e-5, atol=1e-8)
        if not place["dependsOnTokens"]:
            expected = torch.cat([reader.effective_weights().detach().reshape(shape) for reader in readers])
            np.testing.assert_array_equal(place["weights"], expected)
    measured = {(each["place"], each["row"], each["source"]): each for each in found["measured"]}
    for number, cut in effects.cut.items():
        route = effects.routes[number]
        assert measured[route.place, route.row, route.source]["loss"] == pytest.approx(cut.loss, abs=1e-6)
    for (place, source), cut in effects.cells.items():
        rows = sum(reader.num_rows for reader in of_place[place])
        each = measured[place, None if rows > 1 else 0, source]
        assert each["loss"] == pytest.approx(cut.loss, abs=1e-6) and each["kl"] == pytest.approx(cut.kl, abs=1e-6)
        assert each["estimate"] == pytest.approx(effects.estimated_cells()[place, source], abs=1e-6)
    something = [each for each in measured.values() if each["loss"] or each["estimate"]]  # not of what top-p prunes
    assert found["effectError"]["routes"] == len(something)


def test_weights_of_tokens_are_those_of_the_call():
    model = tiny_model("dynamic_gqa")
    found = explored(model)
    seen = {}
    for reader in readers_of(model):
        reader.register_forward_pre_hook(
            lambda reader, call: seen.update({reader.place: reader.effective_weights(call)})
        )
    with torch.no_grad():
        model(torch.tensor([[token["id"] for token in found["tokens"]]]))
    for place in found["places"]:
        np.testing.assert_allclose(place["weights"][..., 0], seen[place["place"]][0], atol=1e-6)


@pytest.mark.parametrize("variant", ["none", "static_gqa", "hc_dynamic", "attention_residuals", "attached kv"])
def test_predictions_losses_and_lens_are_the_models(variant):
    model = routed_model(variant) if variant in ROUTED else tiny_model(variant)
    found = explored(model)
    ids = torch.tensor([[token["id"] for token in found["tokens"]]])
    with torch.no_grad():
        logits = model(ids).logits[0]
    assert found["loss"][0] is None and len(found["loss"]) == len(found["predictions"]) == len(ids[0])
    np.testing.assert_allclose(found["loss"][1:], cross_entropy(logits[:-1], ids[0, 1:], reduction="none"), rtol=1e-4)
    for own, predicted in zip(logits.softmax(dim=-1), found["predictions"], strict=True):
        values, tokens = own.topk(5)
        assert [each["id"] for each in predicted] == tokens.tolist()
        np.testing.assert_allclose([each["probability"] for each in predicted], values, rtol=1e-4)
    norm, head = final_norm_and_head(model)
    for row, states in enumerate(ActivationReader(model, "")(ids).hidden):
        with torch.no_grad():
            read = head(norm(states[0])).softmax(dim=-1)
        np.testing.assert_array_equal(found["lens"]["ids"][row], read.argmax(dim=-1))
        following = read[:-1].gather(1, ids[0, 1:, None])[:, 0]
        np.testing.assert_allclose(found["lens"]["nextProbabilities"][row, :-1], following, rtol=1e-3)
    assert np.isnan(found["lens"]["nextProbabilities"][:, -1]).all()
    assert (found["sourceLens"] is not None) == (variant == "attention_residuals")
    assert set(found["vocabulary"]) >= {str(token) for token in np.unique(found["lens"]["ids"])}


def test_a_plain_model_has_predictions_and_no_places():
    found = explored(tiny_model("none"))
    assert found["places"] == found["measured"] == found["sourceNames"] == [] and found["effectError"] is None


@pytest.mark.parametrize(
    ("variant", "sources", "places"),
    [
        ("static_gqa", ["embedding", "after layer 0", "after layer 1", "after layer 2"], "layer 1"),
        ("kv_gqa", ["layer 0", "layer 1", "layer 2", "layer 3"], "layer 1"),
        ("delta_attention_residuals", ["embedding", "what attention 0 added", "what MLP 0 added"], "MLP 0"),
        ("deep_cross_attention", ["embedding", "what layer 0 added"], "layer 1"),
        ("attached attnres", ["embedding", "what layer 0 added"], "layer 1"),
        ("attached dense", ["embedding", "after layer 0"], "layer 1"),
    ],
)
def test_places_and_sources_have_names(variant, sources, places):
    found = explored(routed_model(variant))
    assert found["sourceNames"][: len(sources)] == sources and found["places"][0]["name"] == places
    ends = {"static_gqa": "layer 3", "kv_gqa": "layer 3", "delta_attention_residuals": "MLP 3"}
    assert found["places"][-1]["name"] == ends.get(variant, "final norm")


def test_one_token_has_no_effects():
    found = explored(tiny_model("static_gqa"), "<")
    assert len(found["tokens"]) == 1 and found["places"][0]["effects"] is None and found["loss"] == [None]
    assert found["effectsMissing"].startswith("1 token predicts nothing")


def test_a_page_holds_what_was_measured_and_notebooks_show_it(tmp_path, folder):
    model, tokenizer = limelm.load_model(folder / "dynamic"), AutoTokenizer.from_pretrained(folder / "dynamic")
    exploration = limelm.explore(model, tokenizer, TEXT, "dynamic")
    saved = exploration.save(tmp_path / "new" / "page.html")
    again = data_of(saved.read_text(encoding="utf-8"))
    for place, read in zip(exploration.data["models"][0]["places"], again["models"][0]["places"], strict=True):
        for name in ("weights", "effects", "effectsByToken"):
            np.testing.assert_array_equal(place[name], read[name])
    assert again["text"] == TEXT and again["live"] is False
    assert "".join(token["text"] for token in again["models"][0]["tokens"][1:]) == TEXT
    shown = exploration._repr_html_()
    assert shown.startswith("<iframe") and "allow-same-origin" not in shown and "<script" not in shown


def test_of_many_tokens_numbers_are_kept_in_half_precision(monkeypatch):
    model = tiny_model("dynamic")
    full = explored(model)["places"][1]["weights"]
    monkeypatch.setattr(measuring, "WIDE", 10)
    half = explored(model)["places"][1]["weights"]
    assert (full.dtype, half.dtype) == (np.float32, np.float16)
    np.testing.assert_allclose(half, full, rtol=1e-3)


def test_models_are_left_as_they_were():
    model = tiny_model("static_gqa", attention_dropout=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    explored(model)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(reader.change is None and not reader._forward_pre_hooks for reader in readers_of(model))


def test_texts_that_cannot_be_read_are_refused():
    subject = Subject("tiny", tiny_model("static_gqa"), Letters())
    with pytest.raises(UserError, match="the text has 65 tokens; tiny reads at most 64"):
        explore_subjects([subject], "a" * 64)
    with pytest.raises(UserError, match="the text is empty; give some"):
        explore_subjects([subject], "")
    broken = tiny_model("static_gqa")
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or infinity"):
        explore_subjects([Subject("tiny", broken, Letters())], "abc")


@pytest.mark.parametrize(
    "place, row, source, message",
    [
        (2, 9, 0, "layer 2 has no head 9; its heads are 0 to 7"),
        (2, -1, 0, "no head -1"),
        (0, None, 0, "layer 0 reads nothing that can be cut"),
        (99, None, 0, "layer 99 reads nothing"),
        (1, None, 3, "layer 1 does not read source 3"),
    ],
)
def test_routes_that_are_not_there_are_refused(place, row, source, message):
    model = tiny_model("static_apart_gqa", num_key_value_heads=4)
    with pytest.raises(UserError, match=message):
        cut_routes(model, [Change(place, source, row)])


@pytest.mark.parametrize(
    ("variant", "own", "words"),
    [
        ("static_gqa", "input", "residual stream that a layer is given"),
        ("kv_gqa", "made", "keys and values that a layer makes"),
        ("attached kv", "made", "keys and values that a layer makes"),
        ("depth_attention_gqa", "made", "values that a layer makes"),
        ("attention_residuals", "input", "what layers or sublayers add"),
        ("dense_former", "input", "residual stream after a layer"),
    ],
)
def test_it_is_said_what_sources_are(variant, own, words):
    found = explored(routed_model(variant))
    assert found["ownSource"] == own and words in found["sourcesAre"]


@pytest.mark.parametrize(("checkpoint", "of"), [("/model", "/model"), ("/checkpoint-3", "/")])
def test_a_checkpoint_may_lie_at_the_root(monkeypatch, checkpoint, of):
    monkeypatch.setattr(checkpoints, "load_model", lambda path: tiny_model("static"))
    monkeypatch.setattr(checkpoints, "load_tokenizer", str)
    (subject,) = checkpoints.load_subjects([checkpoint], torch.device("cpu"))
    assert subject.tokenizer == of


def test_rows_count_over_all_sets():
    model = tiny_model("static_apart_gqa")  # two heads for keys, then two for values
    ids = torch.arange(1, 9)[None]
    found = []
    for cut in (cut_routes(model, [Change(2, 1, row=3)]), limelm.routes(model).cut(2, 1, 1, "values")):
        with torch.no_grad(), cut:
            found.append(model(ids).logits)
    assert torch.equal(*found)

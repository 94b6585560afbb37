import math

import pytest
import torch

from limelm.analysis import ActivationReader, LogitLens
from tests.families import CONFIGS, family_model
from tests.models.variants import main_variants, tiny_model, token_ids


def lens_rows(model, ids):
    reader = ActivationReader(model, "m")
    lens = LogitLens(reader, ids[0])
    for batch in ids.split(1):
        lens.update(reader(batch))
    return lens.records("m")["logit_lens"]


def check(model):
    ids = token_ids(batch=2, tokens=12) % model.config.vocab_size
    rows = lens_rows(model, ids)
    with torch.no_grad():
        logits = model(ids).logits.double()
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    assert len(rows) == len(ActivationReader(model, "m").layers) + 1
    assert rows[-1]["loss"] == pytest.approx(float(losses.mean()), abs=1e-4)
    assert rows[-1]["loss_standard_error"] == pytest.approx(float(losses.std()) / 22**0.5, rel=1e-3)
    assert rows[-1]["kl"] == pytest.approx(0, abs=1e-6) and rows[-1]["agreement"] == 1
    assert all(row["kl"] > 1e-8 for row in rows[:-1])
    return rows, logits, ids


@main_variants
def test_the_last_representation_gives_the_models_own_loss(variant):
    check(tiny_model(variant))


@pytest.mark.parametrize("family", sorted(CONFIGS.keys() - {"gemma2"}))
def test_of_other_families(family):
    check(family_model(family))


def test_an_earlier_representation_by_hand():
    model = tiny_model("none")
    rows, logits, ids = check(model)
    with torch.no_grad():
        read = model.lm_head(model.model.norm(model.model.embed_tokens(ids)))[:, :-1].double().softmax(-1)
    own = logits[:, :-1].softmax(-1)
    assert rows[0]["kl"] == pytest.approx(float((own * (own / read).log()).sum(-1).mean()), abs=1e-5)
    assert rows[0]["agreement"] == pytest.approx(float((own.argmax(-1) == read.argmax(-1)).double().mean()))
    assert rows[0]["loss"] == pytest.approx(
        float(-read.gather(-1, ids[:, 1:, None]).log().mean()), abs=1e-4
    ) and math.isfinite(rows[0]["loss"])


def test_a_cap_on_the_logits_is_noticed():
    with pytest.raises(LookupError, match="not its head applied to its final norm"):
        LogitLens(ActivationReader(family_model("gemma2", final_logit_softcapping=0.5), "m"), token_ids()[0] % 61)

"""Losses by what stands before a token and by how frequent it is, against sums over single tokens."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from limelm.evaluation.breakdown import (
    SHARE_NAMES,
    SHARES,
    Breakdown,
    breakdown_rows,
    context_classes,
    context_name,
    share_classes,
)
from limelm.evaluation.perplexity import Document, items_of_text, score_text, text_score
from tests.models.variants import tiny_model

DOCUMENTS = [Document([5, 6, 7, 5, 5, 9, 11], 9), Document([5], 1), Document([6] * 20, 20)]


def test_classes_of_contexts_double():
    assert context_classes(1, 9).tolist() == [0, 1, 1, 2, 2, 2, 2, 3]
    assert [context_name(number) for number in (0, 1, 2, 10)] == ["1", "2 to 3", "4 to 7", "1,024 to 2,047"]


def test_classes_of_shares_are_by_the_part_of_all_tokens():
    documents = [[1] * 9_889, [2] * 100, [3] * 10, [4]]  # 10,000 tokens
    classes = share_classes(documents)
    assert classes[[1, 2, 3, 4]].tolist() == [0, 0, 1, 2] and classes[0] == len(SHARES) - 1
    assert len(SHARE_NAMES) == len(SHARES)


@pytest.mark.parametrize("window, stride", [(64, 32), (8, 4)])
def test_sums_are_those_of_single_tokens(window, stride):
    model = tiny_model("static_gqa")
    shares = share_classes(document.ids for document in DOCUMENTS)
    score = score_text(model, DOCUMENTS, 0, window, stride, shares=shares)
    for place, document in enumerate(DOCUMENTS):
        ids = [0, *document.ids]
        by_context, by_share = {}, {}
        for position in range(1, len(ids)):
            begin = 0 if position < window else math.ceil((position - window + 1) / stride) * stride
            read = torch.tensor([ids[begin : position + 1]])
            with torch.no_grad():
                loss = float(cross_entropy(model(read).logits[0, -2], read[0, -1]))
            for classes, number in (
                (by_context, int(math.log2(position - begin))),
                (by_share, int(shares[ids[position]])),
            ):
                nats, count = classes.get(number, (0, 0))
                classes[number] = nats + loss, count + 1
        for breakdown, expected in ((score.by_context, by_context), (score.by_share, by_share)):
            for number in breakdown.classes:
                nats, tokens = breakdown.of_class(number)
                own = expected.get(number, (0, 0))
                assert nats[place] == pytest.approx(own[0], abs=1e-4) and tokens[place] == own[1]
    assert text_score(items_of_text(score)) == score
    for breakdown in (score.by_context, score.by_share):
        assert sum(sum(row) for row in breakdown.tokens) == sum(score.tokens)


def test_rows_have_intervals_over_documents_and_differences_to_another_model():
    first, other = Breakdown(), Breakdown()
    for document, nats in enumerate(([2.0, 4.0], [3.0], [4.0])):
        for breakdown, more in ((first, 0.0), (other, -0.5)):
            breakdown.begin_document()
            breakdown.add(document, np.zeros(len(nats), int), np.array(nats) + more)
    (alone,) = breakdown_rows("a", "d", first, None, context_name)
    assert (alone["tokens_are"], alone["tokens"], alone["loss"]) == ("1", 4, 3.25)
    assert alone["low"] < 3.25 < alone["high"] and alone["difference"] is None
    (compared,) = breakdown_rows("b", "d", other, first, context_name)
    for key in ("difference", "difference_low", "difference_high"):
        assert compared[key] == pytest.approx(-0.5)


def test_one_document_has_no_interval_and_classes_without_tokens_no_row():
    breakdown = Breakdown()
    breakdown.begin_document()
    breakdown.add(0, np.array([2]), np.array([1.0]))
    (row,) = breakdown_rows("a", "d", breakdown, None, context_name)
    assert row["number"] == 2 and row["low"] is row["high"] is None

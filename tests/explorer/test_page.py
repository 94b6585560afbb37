"""The explorer's page as text: what goes in comes out, and nothing of it is markup."""

import json
import math
import re

import numpy as np
import pytest

from limelm.explorer.page import SCRIPTS, STATIC, block, data_of, page, to_json
from tests.explorer.sample import sample


@pytest.mark.parametrize("kind", ["float32", "float16", "int32"])
def test_a_block_keeps_every_number(kind):
    numbers = np.arange(-12, 12).reshape(2, 3, 4).astype(kind)
    data = data_of(page({"weights": block(numbers.T)}))
    assert data["weights"].dtype == np.dtype(kind)
    np.testing.assert_array_equal(data["weights"], numbers.T)


def test_a_block_of_other_numbers_is_refused():
    with pytest.raises(TypeError, match="float64"):
        block(np.zeros(3))


def test_data_come_back_out_of_a_page():
    data = sample(2, kind="steps", text="<!-- data --> <!-- script -->")
    back = data_of(page(data))
    assert back["text"] == data["text"]
    for one, other in zip(data["models"], back["models"], strict=True):
        assert [*one] == [*other]
        assert one["tokens"] == other["tokens"]
        assert one["places"][2]["rows"] == other["places"][2]["rows"]
        assert block(other["places"][2]["effectsByToken"]) == one["places"][2]["effectsByToken"]
        assert block(other["lens"]["ids"]) == one["lens"]["ids"]


def test_another_page_has_no_data():
    with pytest.raises(ValueError, match="no page of the explorer"):
        data_of("<html></html>")


def test_text_is_never_markup():
    text = "</script><img src=x onerror=alert(1)><!-- <script>"
    made = page({**sample(), "text": text})
    assert "<img" not in made
    assert data_of(made)["text"] == text
    assert made.count("<script") == made.count("</script>")


def test_numbers_that_are_not_finite_become_null():
    assert json.loads(to_json({"loss": [math.nan, (math.inf, 1.5)]})) == {"loss": [None, [None, 1.5]]}


def test_a_page_stands_alone():
    made = page(sample())
    assert not re.search(r"""(src|href)=["'](?!data:,)""", made)
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|eval|import)\b", made)


def test_every_script_is_in_the_page_and_can_be_read_in_one_sitting():
    assert sorted(SCRIPTS) == sorted(path.name for path in STATIC.glob("*.js"))
    for path in STATIC.iterdir():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 400, path.name

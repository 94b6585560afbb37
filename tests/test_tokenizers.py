"""Broken tokenizers of other people end in one line that names the folder; tokens are written as people read them."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from limelm.data.tokenization import train_tokenizer
from limelm.errors import UserError
from limelm.tokenizers import check_vocabulary, load_tokenizer, token_text
from tests.recipes import corpus


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(corpus(), 300).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("content", ["{", "[]", "null", "3", '"x"', "[" * 100_000, "\0"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_what_is_no_object_is_named(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=rf"copy: no readable tokenizer \({name} is not a JSON object\)$"):
        load_tokenizer(folder)


PARTS = ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "decoder", "model")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [3, "x", {"type": "Unheard"}], ids=str)
def test_a_part_that_is_not_understood_ends_in_one_line(folder, part, value):
    change(folder / "tokenizer.json", **{part: value})
    with pytest.raises(UserError, match=r"copy: no readable tokenizer \(.+\)$") as raised:
        load_tokenizer(folder)
    assert "\n" not in str(raised.value)


def test_an_empty_object_and_another_version_are_refused(folder):
    change(folder / "tokenizer.json", version="9.0")
    with pytest.raises(UserError, match=r"no readable tokenizer \(Exception: Unknown tokenizer version '9.0'"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="no readable tokenizer"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "fields",
    [{"bos_token": 3}, {"pad_token": []}, {"tokenizer_class": {}}, {"model_max_length": "x"}, {"model_max_length": 0}],
    ids=str,
)
def test_a_field_of_another_type_is_refused(folder, fields):
    change(folder / "tokenizer_config.json", **fields)
    with pytest.raises(UserError, match=r"copy: no readable tokenizer"):
        load_tokenizer(folder)


def test_code_of_a_tokenizer_is_refused_without_a_question(folder, monkeypatch):
    (folder / "theirs.py").write_text(f"open({str(folder / 'was-run')!r}, 'w')\nclass Theirs: pass\n")
    change(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["theirs.Theirs", None]}, tokenizer_class="Theirs"
    )
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with pytest.raises(UserError, match="needs Python code of its own, which limelm does not run"):
        load_tokenizer(folder)
    assert not (folder / "was-run").exists()


def test_what_is_no_folder_of_a_tokenizer_is_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: no readable tokenizer \(a file; name the folder"):
        load_tokenizer(folder / "tokenizer.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no readable tokenizer \(the folder has no tokenizer\.json\)"):
        load_tokenizer(tmp_path / "empty")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no readable tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(whole):
    tokenizer = load_tokenizer(whole)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    check_vocabulary(tokenizer, 300, "tokens", "the model")
    with pytest.raises(UserError, match=r"tokens: .* token ids up to 299, but the model has vocab_size=299"):
        check_vocabulary(tokenizer, 299, "tokens", "the model")


def test_parts_of_characters_are_written_as_bytes(whole):
    tokenizer = load_tokenizer(whole)
    ids = tokenizer("é\U0001f642", add_special_tokens=False).input_ids
    assert "".join(token_text(tokenizer, token) for token in ids) == "\\xC3\\xA9\\xF0\\x9F\\x99\\x82"
    assert token_text(tokenizer, 1_000_000) == "#1000000"


def test_a_space_before_a_word_is_written_and_a_byte_without_a_character_too():
    """As in a vocabulary of SentencePiece's, whose decoder drops the first space of a text."""
    model = BPE({"\u2581is": 0, "is": 1, "<0xD7>": 2, "<0x0A>": 3}, [], byte_fallback=True)
    tokenizer = Tokenizer(model)
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert [token_text(theirs, token) for token in range(4)] == [" is", "is", "\\xD7", "\n"]

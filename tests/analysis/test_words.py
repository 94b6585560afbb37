import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from limelm.analysis import ActivationReader
from limelm.analysis.words import collect_states, find_occurrences, token_of_word
from limelm.errors import UserError
from tests.models.variants import tiny_model


def tokenizer(marks_start: bool):
    """Words that are one token after a space; with or without a mark for the beginning of a text."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "\u2581"]
    space = "\u2581" if marks_start else "\u0120"
    merges = [(space, "i"), (space + "i", "s"), ("i", "s"), (space, "a")]
    vocabulary = alphabet + [a + b for a, b in merges]
    bpe = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    if marks_start:
        bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        bpe.decoder = decoders.Metaspace()
    else:
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


@pytest.mark.parametrize("marks_start", [True, False])
def test_a_word_is_its_token_after_a_space(marks_start):
    own = tokenizer(marks_start)
    token = own.convert_ids_to_tokens(token_of_word("is", own))
    assert token == ("\u2581is" if marks_start else "\u0120is")


@pytest.mark.parametrize("marks_start", [True, False])
def test_a_word_of_several_tokens_is_refused_by_name(marks_start):
    with pytest.raises(UserError, match=r"--words: 'was' is \d tokens .*give words that are one token each"):
        token_of_word("was", tokenizer(marks_start))


@pytest.mark.parametrize("word", ["", " is"])
def test_what_is_no_word_is_refused(word):
    with pytest.raises(UserError, match="is not a word"):
        token_of_word(word, tokenizer(False))


SEQUENCES = [torch.tensor(row) for row in ([5, 7, 5, 5, 1], [2, 2, 2, 2, 2], [7, 7, 5, 1, 1])] * 6


def test_as_many_of_each_word_and_only_the_sequences_that_hold_them():
    occurrences, read = find_occurrences(iter(SEQUENCES), {"five": 5, "seven": 7}, most=11)
    counts = [sum(o.word == word for o in occurrences) for word in ("five", "seven")]
    assert counts == [11, 11]
    assert all((sequence != 2).all() for sequence in read)
    assert all(read[o.sequence][o.position] == {"five": 5, "seven": 7}[o.word] for o in occurrences)
    assert len({(o.sequence, o.position) for o in occurrences}) == 22


@pytest.mark.parametrize(
    ("token", "message"), [(40, "no occurrences of 'rare' in the data"), (2, "--words: 5 occurrences of 'rare' in")]
)
def test_words_that_are_too_rare_are_refused(token, message):
    with pytest.raises(UserError, match=message):
        find_occurrences(SEQUENCES[:4] + SEQUENCES[::3], {"five": 5, "rare": token}, most=20)


def test_states_are_those_at_the_occurrences_whatever_the_batches():
    model = tiny_model("kv")
    reader = ActivationReader(model, "m")
    occurrences, read = find_occurrences(SEQUENCES, {"five": 5, "seven": 7}, most=10)
    states = collect_states(reader, occurrences, iter(torch.stack(read).split(3)))
    assert sorted(states.words) == ["five"] * 10 + ["seven"] * 10
    assert {name: len(layers) for name, layers in states.states.items()} == {
        "hidden states": 5,
        "values": 4,
        "values before routing": 4,
    }
    by_place = sorted(occurrences, key=lambda o: o.sequence)
    assert [o.word for o in by_place] == states.words.tolist()
    for row in (0, 7, 19):
        place = by_place[row]
        alone = reader(read[place.sequence][None])
        np.testing.assert_allclose(states.states["values"][2][row], alone.values[2][0, place.position], atol=1e-5)
        np.testing.assert_allclose(
            states.states["hidden states"][4][row], alone.hidden[4][0, place.position], atol=1e-5
        )

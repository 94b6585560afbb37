import io
import sys

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from limelm import LimeConfig, LimeForCausalLM
from limelm.cli import main
from limelm.data.dataset import load_prepared_tokenizer
from tests.recipes import prepared

SIZES = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_prepared_tokenizer(prepared(tmp_path_factory.mktemp("data") / "tokens"))


@pytest.fixture
def saved(tmp_path, tokenizer):
    def save(model):
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


def lime():
    return LimeForCausalLM(
        LimeConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, **SIZES)
    )


def refused(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main(["generate", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("value", [3e38, -3e38])  # finite, as weights that can be read are
@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_logits_that_are_not_finite_are_refused(saved, capsys, value, temperature):
    model = lime()
    torch.nn.init.constant_(model.lm_head.weight, value)
    checkpoint = saved(model)
    line = refused(capsys, checkpoint, "memory", "--temperature", temperature)
    assert line.startswith(f"limelm: error: {checkpoint}") and ("finite" in line or "NaN" in line)


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_logits_that_overflow_are_refused(saved, capsys, monkeypatch, temperature):
    checkpoint = saved(lime())
    monkeypatch.setattr(LimeForCausalLM, "forward", _changed(lambda logits: logits * float("inf")))
    line = refused(capsys, checkpoint, "memory", "--temperature", temperature)
    assert line == f"limelm: error: {checkpoint}: its logits are not finite; weights may be NaN or infinite"


def test_sampling_cuts_nothing_off_that_was_not_asked_for(saved, capsys, monkeypatch):
    checkpoint, given = saved(lime()), {}
    monkeypatch.setattr(LimeForCausalLM, "generate", lambda self, **options: given.update(options))
    assert main(["generate", checkpoint, "memory", "--top-p", "0.5"]) == 0
    assert (given["top_p"], given["top_k"], given["do_sample"]) == (0.5, 0, True)


def test_more_tokens_than_there_are_learned_positions(saved, capsys):
    checkpoint = saved(GPT2LMHeadModel(GPT2Config(n_positions=8, n_embd=32, n_layer=1, n_head=2, **SIZES)))
    line = refused(capsys, checkpoint, "memory " * 20)
    assert "--max-new-tokens 100: with the PROMPT's" in line and "more than the 8 that" in line


def test_a_rotary_model_reads_beyond_its_context(saved, capsys):
    assert main(["generate", saved(lime()), "memory " * 10, "--max-new-tokens", "2"]) == 0


def test_control_characters_of_a_model_are_written_out(saved, capsys, tokenizer, monkeypatch):
    (escape,) = tokenizer.encode("\x1b", add_special_tokens=False)
    model = lime()
    only = torch.full((SIZES["vocab_size"],), -1e4)
    only[escape] = 1e4
    monkeypatch.setattr(LimeForCausalLM, "forward", _changed(lambda logits: only.expand_as(logits)))
    assert main(["generate", saved(model), "x", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out == "x" + "\\x1b" * 3 + "\n"


def _changed(change):
    """The model's forward, with other logits."""
    forward = LimeForCausalLM.forward

    def changed(self, *arguments, **options):
        output = forward(self, *arguments, **options)
        output.logits = change(output.logits)
        return output

    return changed


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_the_encoding_of_stdout_does_not_have_is_replaced(saved, monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert main(["generate", saved(lime()), "naïve ☃", "--max-new-tokens", "3"]) == 0
    assert raw.getvalue().startswith("naïve ?".encode(encoding, "replace"))

"""What the wrong calls are made upon: small folders of every kind that the commands read, made once."""

import json
import os
from pathlib import Path

from tests.recipes import corpus, prepared, write_recipe

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}


def make(folder: Path) -> None:
    """Make all fixtures in `folder`.

    T a folder of token shards, L a Llama, M and H native checkpoints (static LIMe, Hyper-Connections), A an adapter
    upon L, P a LoRA of PEFT upon L, R a finished run of two models, K a training that was broken off, E an evaluation,
    B a benchmark, N an analysis, S a folder of problems; `small.toml`, and texts.
    """
    folder.mkdir(parents=True)
    os.chdir(folder)
    _make_texts()
    prepared(Path("T"))
    write_recipe(Path())
    _make_checkpoints()
    _make_runs()


def _make_texts() -> None:
    Path("a.txt").write_text("".join(corpus()))
    Path("short.txt").write_text("too short\nto train on\n")
    Path("a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus()))
    Path("file").write_text("not a folder\n")


def _make_checkpoints() -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    import limelm

    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, **SIZES}
    models = {
        "L": LlamaForCausalLM(LlamaConfig(**sizes)),
        "M": limelm.LimeForCausalLM(limelm.LimeConfig(routing="static", **sizes)),
        "H": limelm.HyperConnectionForCausalLM(limelm.HyperConnectionConfig(**sizes)),
    }
    tokenizer = AutoTokenizer.from_pretrained("T/tokenizer")
    for name, model in models.items():
        model.save_pretrained(name)
        tokenizer.save_pretrained(name)
    attached = limelm.attach(AutoModelForCausalLM.from_pretrained("L"), "kv")
    limelm.save_adapter(attached, "A")
    lora = get_peft_model(AutoModelForCausalLM.from_pretrained("L"), LoraConfig(task_type="CAUSAL_LM", r=2))
    lora.save_pretrained("P")


def _make_runs() -> None:
    import limelm.training.run
    from limelm.cli import main
    from limelm.data.problems import prepare_problems

    prepare_problems(Path("S"), "arithmetic-3", True, 20, 10)
    commands = [
        "reproduce small.toml --data T --out R --models llama,static",
        "eval M --domain held=T --out E",
        "bench --num-hidden-layers 1 --hidden-size 32 --num-attention-heads 2 --num-key-value-heads 1 "
        "--intermediate-size 32 --vocab-size 100 --sequence-length 8 --batch-size 1 --decode-from 4 --rounds 1 "
        "--cases static --workloads forward --out B",
        "analyze M --data T --only collapse --tokens 128 --out N",
    ]
    for command in commands:
        assert main(command.split()) == 0, command

    def broken_off(*arguments, **options):
        raise KeyboardInterrupt

    limelm.training.run.summarize = broken_off
    assert main(["train", "small.toml", "--model", "static", "--data", "T", "--out", "K"]) == 130

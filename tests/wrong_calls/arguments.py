"""Options and positional arguments."""

import argparse
from collections.abc import Iterator

from limelm.cli.main import SUBCOMMANDS
from limelm.cli.parser import Parser
from tests.wrong_calls.case import Case, command

#: By the name of an option's type: what it does not take.
WRONG = {
    "positive_int": ("0", "-1", "x", "1.5", "nan", "1e3", "9" * 30, "9" * 5000, "0x10", ""),
    "at_least_two": ("1", "-2", "x", "2.5", "9" * 30, ""),
    "new_tokens": ("0", "-1", "x", "1.5", "1000001", "9" * 30, ""),
    "number_of_seeds": ("1", "1001", "x", ""),
    "seed": ("-1", "4294967296", "x", "0.5", ""),
    "shots": ("-1", "x", "1.5", "9" * 30, ""),
    "float": ("nan", "inf", "-inf", "x", "1e999", ""),
    "any_float": ("x", "", "1,5"),
    "_positive": ("0", "-1", "nan", "inf", "x", ""),
    "_share": ("0", "1.1", "nan", "x", ""),
    "listed": (",", "", " , "),
    "_integers": ("", "0", "x", "1,,2", "1,-1"),
}
NAMES = ("", "  ", "x" * 5000)
#: What each command needs besides the wrong argument.
COMPLETE = {
    "reproduce": "--scale small.toml --data T --out o",
    "train": "small.toml --model static --data T --out o",
    "plan": "small.toml --model static",
    "convert": "A --out o",
    "data prepare": "a.txt --out o",
    "generate": "M x",
    "eval": "M --text held=T --out o",
    "analyze": "M --data T --out o",
    "bench": "--out o",
}


def cases() -> Iterator[Case]:
    """Each option of each command with each value that its type does not take; then combinations."""
    for name, parser in _parsers().items():
        for action in parser._actions:
            if action.option_strings and action.nargs != 0:
                yield from _option(name, action)
    for text, *names in COMBINATIONS:
        yield command("arguments", text, *names)


def _parsers() -> dict[str, argparse.ArgumentParser]:
    root = Parser(prog="limelm")
    commands = root.add_subparsers(parser_class=Parser)
    for subcommand in SUBCOMMANDS:
        subcommand.add_parser(commands, argparse.ArgumentParser(add_help=False))
    parsers = dict(commands.choices)
    (actions,) = (action for action in parsers.pop("data")._actions if isinstance(action, argparse._SubParsersAction))
    return parsers | {f"data {name}": parser for name, parser in actions.choices.items()}


def _option(name: str, action: argparse.Action) -> Iterator[Case]:
    option = action.option_strings[-1]
    wrong = ("nope", "") if action.choices else WRONG.get(getattr(action.type, "__name__", ""), NAMES)
    for value in wrong:
        arguments = (*name.split(), *COMPLETE[name].split(), f"{option}={value}")
        yield Case("options", arguments, (option,))


COMBINATIONS: list[tuple[str, ...]] = [
    ("",),
    ("frobnicate", "frobnicate"),
    ("data", "ACTION"),
    ("data frobnicate", "frobnicate"),
    ("reproduce --scale tiny", "--out"),
    ("reproduce --out o", "--scale"),
    ("reproduce --scale huge --out o", "huge", "tiny"),
    ("reproduce --scale nowhere.toml --out o", "nowhere.toml"),
    ("reproduce --scale T --out o", "T"),
    ("reproduce --scale small.toml --data T --out o --models mamba", "mamba", "llama"),
    ("reproduce --scale small.toml --data T --out o --seed 4294967295 --seeds 2", "seed"),
    ("reproduce --scale small.toml --data T --out o --seeds 2 --seed 4294967296", "seed"),
    ("reproduce --scale small.toml --data nowhere --out o", "nowhere"),
    ("reproduce --scale small.toml --data file --out o", "file"),
    ("reproduce --scale small.toml --data L --out o", "L"),
    ("reproduce --scale small.toml --data T --out file", "file"),
    ("reproduce --scale small.toml --data T --out file/o", "file"),
    ("reproduce --scale attach --out o", "data"),
    ("reproduce --scale attach --from ./nowhere --data T --out o", "./nowhere"),
    ("reproduce --scale attach --from L --out o", "data"),
    ("reproduce --scale attach --from T --data T --out o", "T"),
    ("reproduce --scale synthetic-arithmetic-3 --data T --out o", "--data"),
    ("reproduce --scale synthetic-arithmetic-3 --task arithmetic-99 --out o", "arithmetic-99"),
    ("reproduce --scale synthetic-arithmetic-3 --task nope --out o", "nope"),
    ("reproduce --scale synthetic-arithmetic-3 --train-problems 100000000 --out o", "train"),
    ("reproduce --scale synthetic-arithmetic-3 --train-problems 0 --out o", "train"),
    ("reproduce --scale synthetic-arithmetic-3 --sequence-length 8 --out o", "sequence_length"),
    ("reproduce --scale synthetic-prosqa --test-file nowhere.json --out o", "nowhere.json|GiB"),
    ("reproduce --scale small.toml --data T --out o --stepz 3", "stepz", "steps"),
    ("reproduce --scale small.toml --data T --out o --steps", "--steps"),
    ("reproduce --scale small.toml --data T --out o --seed=1 --seed=2", "--seed"),
    ("reproduce --scale small.toml --data T --out o --base L --from L", "base"),
    ("reproduce --scale small.toml --data T --out o --from L", "base|from"),
    ("train --out o", "RECIPE"),
    ("train small.toml --data T --out o", "model"),
    ("train small.toml --model nope --data T --out o", "nope"),
    ("train tiny-statik --out o", "statik"),
    ("train teeny-static --out o", "teeny-static"),
    ("train tiny-static --model kv --out o", "kv"),
    ("train tiny-static", "--out"),
    ("train small.toml --attach kv --from L --data T --out o", "RECIPE|recipe"),
    ("train --attach nope --from L --data T --out o", "nope"),
    ("train --attach kv --data T --out o", "base|from"),
    ("train --attach kv --from L --out o", "data"),
    ("train --attach kv --from ./nowhere --data T --out o", "./nowhere"),
    ("train --attach kv --from A --data T --out o", "A"),
    ("train --attach kv --from L --data T --out o --trains nope", "trains"),
    ("train --attach kv --from L --data T --out o --trains lora --lora-targets nope", "lora_targets"),
    ("train --attach kv --from L --data T --out o --trains lora --lora-layers 99", "lora_layers"),
    ("train small.toml --model static --data T --out o --sequence-length 100000", "sequence_length"),
    ("train small.toml --model static --data T --out o --batch-size 99999", "99999"),
    ("train small.toml --model static --data T --out o --sharding fsdp", "sharding"),
    ("train small.toml --model static --data T --out o --report-to trackio", "trackio"),
    ("train small.toml --model static --data T --out T", "T"),
    ("train small.toml --model static --data T --out L", "L"),
    ("plan", "RECIPE"),
    ("plan nothing", "nothing", "tiny"),
    ("plan tiny", "model"),
    ("plan nowhere.toml --model static", "nowhere.toml"),
    ("plan tiny-static --hidden-size 4611686018427387904", "hidden_size"),
    ("plan tiny-static --num-hidden-layers 100000000", "num_hidden_layers"),
    ("plan tiny-static --vocab-size 1000000000000000", "vocab_size"),
    ("convert L --out o", "L"),
    ("convert A --out L", "L"),
    ("convert A --out .", "."),
    ("convert A --out file", "file"),
    ("convert T --out o", "T"),
    ("convert ./nowhere --out o", "./nowhere"),
    ("convert H --out o", "H"),
    ("convert P --out o", "P"),
    ("data prepare nowhere.txt --out o", "nowhere.txt"),
    ("data prepare a.txt --out T", "T"),
    ("data prepare a.txt --out file/o", "file"),
    ("data prepare a.txt --out o --vocab-size 10", "10"),
    ("data prepare a.txt --out o --vocab-size 1000000000", "vocab"),
    ("data prepare short.txt --out o", "4096"),
    ("data prepare a.jsonl --out o --text-field nope", "nope"),
    (
        "data prepare a.jsonl --out o --vocab-size 300 --validation-fraction 2",
        "validation_fraction|validation-fraction",
    ),
    (
        "data prepare a.jsonl --out o --vocab-size 300 --validation-fraction 0",
        "validation_fraction|validation-fraction",
    ),
    (
        "data prepare a.jsonl --out o --vocab-size 300 --validation-fraction -0.1",
        "validation_fraction|validation-fraction",
    ),
    ("data prepare a.jsonl --out o --tokenizer ./nowhere", "nowhere"),
    ("data prepare a.jsonl --out o --tokenizer file", "file"),
    ("data prepare a.jsonl --out o --tokenizer T", "T"),
    ("data prepare a.jsonl --out o --tokenizer T/tokenizer --vocab-size 300", "vocab-size"),
    ("data prepare a.jsonl --out o --dataset T", "--dataset"),
    ("data prepare a.jsonl --out o --preset fineweb-edu", "--preset"),
    ("data prepare a.jsonl --out o --dataset-split x", "--dataset-split"),
    ("data prepare --dataset ./nowhere --out o", "./nowhere"),
    ("data prepare --dataset T --out o --vocab-size 300", "T"),
    ("generate M", "PROMPT"),
    ("generate nowhere x", "nowhere"),
    ("generate file x", "file"),
    ("generate T x", "T"),
    ("generate M x --temperature nan", "temperature"),
    ("generate M x --temperature -1", "temperature"),
    ("generate M x --temperature 1e9", "temperature"),
    ("generate M x --top-p 0", "top-p"),
    ("generate M x --top-p 1.5", "top-p"),
    ("generate M x --max-new-tokens 2147483647", "max-new-tokens"),
    ("eval M --out o", "--tasks"),
    ("eval --tasks x --out o", "CHECKPOINT"),
    ("eval M --tasks nope --out o", "nope"),
    ("eval M --tasks ./evil.yaml --out o", "evil.yaml"),
    ("eval M --tasks induction --out file", "file"),
    ("eval M --tasks induction --out L", "L"),
    ("eval M --tasks induction --out o --window 8", "--window"),
    ("eval M --text held=T --out o --shots 1", "--shots"),
    ("eval M --text held=T --out o --window 8 --stride 9", "stride"),
    ("eval M --text held=T --out o --window 100000", "window"),
    ("eval M --text held=T --text held=a.txt --out o", "held"),
    ("eval M --text =T --out o", "T"),
    ("eval M --text held= --out o", "held"),
    ("eval M --text held=nowhere --out o", "nowhere"),
    ("eval M --text held=L --out o", "L"),
    ("eval M --tasks induction --local-data nowhere --out o", "nowhere"),
    ("eval M --tasks hellaswag --local-data T --out o", "hellaswag"),
    ("eval ./nowhere --tasks induction --out o", "./nowhere"),
    ("eval M T --tasks induction --out o", "T"),
    ("eval M --text held=T --out o --device tpu", "--device"),
    ("eval M --text held=T --out o --device cuda:99", "--device"),
    ("analyze M --data T --out o --only nope", "nope"),
    ("analyze M --data nowhere --out o", "nowhere"),
    ("analyze M --data L --out o", "L"),
    ("analyze M --data file T --out o --only collapse --alpha -1", "alpha"),
    ("analyze M --data T --out o --alpha 0", "alpha"),
    ("analyze M --data T --out o --only collapse --sequence-length 100000", "sequence"),
    ("analyze M --data T --out o --device tpu", "--device"),
    ("analyze M --data T --out L", "L"),
    ("analyze T --data T --out o", "T"),
    ("analyze M ./nowhere --data T --out o --only collapse", "./nowhere"),
    ("bench --out T", "T"),
    ("bench --out o --preset nope", "nope"),
    ("bench --out o --cases nope", "nope"),
    ("bench --out o --tasks nope", "nope"),
    ("bench --out o --hidden 33", "33"),
    ("bench --out o --heads 3 --hidden 30 --grouped 2", "--grouped"),
    ("bench --out o --hidden 1048576", "GiB|memory"),
    ("bench --out o --layers 2147483647", "GiB|memory"),
    ("bench --out o --vocab 2147483647", "GiB|memory"),
    ("bench --out o --batch 2147483647", "GiB|memory"),
    ("bench --out o --attach L --preset small", "--preset"),
    ("bench --out o --attach L --layers 2", "--layers"),
    ("bench --out o --attach L --cases nope", "nope"),
    ("bench --out o --attach A", "A"),
    ("bench --out o --attach ./nowhere", "./nowhere"),
    ("bench --out o --attach T", "T"),
    ("bench --out o --depths 2 --layers 2", "--layers"),
    ("bench --out o --pruning --cases kv", "--cases"),
    ("bench --out o --pruning --layers 1", "--layers"),
    ("bench --out o --device tpu", "--device"),
]

"""Made-up items in the file format of every benchmark, and tiny checkpoints with a tokenizer that knows their words."""

import gzip
import json
import random
from pathlib import Path

from transformers import AutoTokenizer

from limelm.data.prepare import prepare
from limelm.evaluation.generated import WORDS
from tests.models.variants import tiny_model

LABELS = ["entailment", "not_entailment"]


def write_benchmarks(folder: Path, items: int) -> Path:
    """`folder/arc_easy/test.jsonl` and so on: so many scored items, and where the real one has it, a train split."""
    draw = random.Random(0)
    some = lambda count: draw.sample(WORDS, count)  # noqa: E731
    sentence = lambda count=4: " ".join(some(count))  # noqa: E731

    def arc(number):
        labels = ["A", "B", "C", "D"] if number % 3 else ["1", "2", "3", "4"]
        choices = {"text": [sentence(2) for _ in labels], "label": labels}
        return {"id": f"q{number}", "question": f"{sentence()}?", "choices": choices, "answerKey": draw.choice(labels)}

    def multirc(number):
        ask = lambda place: {  # noqa: E731
            "question": f"{sentence(3)}?",
            "answers": [
                {"text": word, "idx": 9 * number + 3 * place + k, "label": k % 2} for k, word in enumerate(some(3))
            ],
            "idx": 3 * number + place,
        }
        return {"idx": number, "passage": {"text": f"{sentence(6)}.", "questions": [ask(0), ask(1)]}}

    def wic(number):
        word, other = some(2)
        first, second = f"one {word} here", f"{other} {word}"
        places = {"start1": 4, "end1": 4 + len(word), "start2": 1 + len(other), "end2": len(second)}
        label = draw.random() < 0.5
        return {"word": word, "sentence1": first, "sentence2": second, "idx": number, "label": label, **places}

    def logical(_):
        names = some(3)
        statements = [f"The {name} is the leftmost." for name in names]
        shown = [*statements, statements[0]]
        lines = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", shown, strict=True))
        query = f"a set of three objects: {', '.join(names)}. {sentence(3)}.\n\n{lines}\nAnswer: "
        return {"query": query, "choices": shown, "gold": draw.randrange(1, 3)}

    kinds = {
        ("arc_easy", "train validation test"): arc,
        ("arc_challenge", "train test"): arc,
        ("openbookqa", "train validation test"): arc,
        ("hellaswag", "validation.gz"): lambda number: {
            "ind": number,
            "activity_label": sentence(1),
            "ctx_a": f"{sentence(3)}.",
            "ctx_b": sentence(1),
            "ctx": "",
            "endings": [f"{sentence(2)}." for _ in range(4)],
            "label": str(draw.randrange(4)),
        },
        ("winogrande", "train.gz validation"): lambda _: {
            "sentence": f"{sentence(3)} _ {sentence(2)}.",
            "option1": (pair := some(2))[0],
            "option2": pair[1],
            "answer": str(draw.randint(1, 2)),
        },
        ("piqa", "train validation"): lambda _: {
            "goal": sentence(3),
            "sol1": sentence(2),
            "sol2": sentence(2),
            "label": draw.randrange(2),
        },
        ("copa", "train val"): lambda number: {
            "premise": f"The {sentence(2)}.",
            "choice1": f"A {sentence(2)}.",
            "choice2": f"A {sentence(2)}.",
            "question": draw.choice(["cause", "effect"]),
            "label": draw.randrange(2),
            "idx": number,
        },
        ("rte", "train val"): lambda number: {
            "premise": f"{sentence()}.",
            "hypothesis": f"{sentence(2)}.",
            "label": draw.choice(LABELS),
            "idx": number,
        },
        ("multirc", "train val"): multirc,
        ("wic", "train val"): wic,
        ("qnli", "dev.tsv"): lambda number: {
            "index": number,
            "question": f'{sentence(2)} "?',  # a quote is a letter like any other
            "sentence": f"{sentence()}.",
            "label": draw.choice(LABELS),
        },
        ("lambada", "lambada_openai"): lambda _: {"context": sentence(6), "continuation": sentence(1)},
        ("blimp", "wh_island"): lambda _: {
            "sentence_good": f"{sentence(5)}.",
            "sentence_bad": f"{sentence(5)}.",
        },
        ("logical_deduction", "bigbench_logical_deduction"): logical,
    }
    for (name, files), make in kinds.items():
        for file in files.split():
            count = -(-items // 6) if name == "multirc" else items
            write_rows(folder / name, file, [make(number) for number in range(count)])
    return folder


def write_rows(folder: Path, file: str, rows: list[dict]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if file.endswith(".tsv"):
        lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
        (folder / file).write_text("\n".join(lines) + "\n")
        return
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if file.endswith(".gz"):
        (folder / file.replace(".gz", ".jsonl.gz")).write_bytes(gzip.compress(text.encode()))
    else:
        (folder / f"{file}.jsonl").write_text(text)


def write_checkpoint(folder: Path, variant: str, **changes) -> Path:
    """A tiny model of random weights, whose tokenizer has most of WORDS as single tokens."""
    tokens = folder.parent / "tokens"
    if not tokens.exists():
        draw = random.Random(0)
        frame = "Question: Answer: Is the answer correct? yes no True or False?"
        texts = [" ".join(draw.sample(WORDS, 60)) + f"\n{frame}\n" for _ in range(60)]
        prepare(tokens, lambda: texts, "words", vocab_size=640, validation_fraction=0.1)
    tokenizer = AutoTokenizer.from_pretrained(tokens / "tokenizer")
    config = {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "bos_token_id": 0} | changes
    tiny_model(variant, **config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""A recipe and a corpus so small that a whole run takes a second."""

from pathlib import Path

from limelm.data.prepare import prepare
from limelm.training import Recipe, load_recipe

RECIPE = """
description = "a test"
compare = ["llama", "dynamic"]

[architecture]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 3
num_attention_heads = 2
max_position_embeddings = 32
tie_word_embeddings = true

[models.llama]
label = "LLaMA"
model_type = "llama"
[models.hc]
model_type = "hyper_connection"
[models.static]
label = "LIMe static"
model_type = "lime"
routing = "static"
[models.dynamic]
label = "LIMe dynamic"
model_type = "lime"
routing = "dynamic"
[models.kv]
model_type = "lime"
routing = "kv"

[data]
preset = "python-library"
sequence_length = 32
vocab_size = 300
validation_fraction = 0.2

[training]
steps = 4
batch_size = 2
learning_rate = 1e-3
router_learning_rate = 1e-2
weight_decay = 0.1
adam_beta1 = 0.9
adam_beta2 = 0.95
adam_epsilon = 1e-8
warmup_steps = 2
min_lr_ratio = 1e-6
max_grad_norm = 1.0
precision = "fp32"
eval_steps = 3
seed = 1

[engine]
micro_batch_size = 2
sharding = "none"
activation_checkpointing = false
compile = false
save_steps = 3
keep_checkpoints = 2
"""


def write_recipe(folder: Path, *changes: tuple[str, str]) -> Path:
    """The recipe as a file, with text replaced."""
    text = RECIPE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "small.toml"
    path.write_text(text)
    return path


def small_recipe(folder: Path, *changes: tuple[str, str]) -> Recipe:
    return load_recipe(str(write_recipe(folder, *changes)))


def corpus(documents: int = 30) -> list[str]:
    """Distinct documents with some structure."""
    words = ["memory", "layer", "router", "head", "key", "value", "mix", "depth"]
    return [
        f"Document {number}. " + " ".join(words[(number * k + k * k) % len(words)] for k in range(60)) + "\n"
        for number in range(documents)
    ]


def prepared(folder: Path, documents: list[str] | None = None, **options) -> Path:
    """A prepared folder of `documents`."""
    texts = corpus() if documents is None else documents
    prepare(folder, lambda: texts, "a test corpus", **{"vocab_size": 300, "validation_fraction": 0.2, **options})
    return folder

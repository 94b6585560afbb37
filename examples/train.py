# %% [markdown]
# # Train a LIMe model with limelm's own Trainer
#
# A *recipe* says everything about a training: the model, the data, the optimizer. We take the recipe `tiny`, change
# some of its values, train one model, and let it write some Python. The text is the source code of Python's own
# standard library, so nothing is downloaded.
#
# It needs `pip install -e '.[lab]'` and takes one to two minutes on one CPU core. When it is stopped, the same file
# goes on from the newest checkpoint; when it has finished, it only reads the result.

# %%
import json
import math
from pathlib import Path

import torch

from limelm.data.presets import prepare_preset
from limelm.loading import load_checkpoint
from limelm.training import load_recipe, train_model

# %% tags=["parameters"]
MODEL = "dynamic"  # or another of the recipe: llama, hc, static, kv, top-p, ...
STEPS = 300
DOCUMENTS = 150  # files of the standard library; None takes all of them
LAYERS = 6
HIDDEN_SIZE = 96
PROMPT = "def __init__(self, "
OUT = "example-train"  # all that is written goes here

# %% [markdown]
# ## The data
# A tokenizer is trained on the text, then the text becomes shards of token ids. One document in twenty is held out.
# (For your own text there is `limelm data prepare my-folder/ --out tokens`.)

# %%
data = Path(OUT) / "data"
manifest = prepare_preset("python-library", data, vocab_size=2048, validation_fraction=0.05, max_documents=DOCUMENTS)
for name, split in manifest.splits.items():
    print(f"{name}: {split.documents} files, {split.tokens:,} tokens")

# %% [markdown]
# ## The recipe
# Fields are overridden by their names, wherever in the recipe they stand. A wrong name is refused with the nearest
# right one. `limelm recipes tiny` prints the whole recipe.

# %%
recipe = load_recipe(
    "tiny",
    {
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 4 * HIDDEN_SIZE,
        "sequence_length": 128,
        "batch_size": 8,
        "learning_rate": 4e-3,
        "steps": STEPS,
        "warmup_steps": max(1, STEPS // 10),
        "eval_steps": max(1, STEPS // 6),
        "save_steps": max(1, STEPS // 3),
    },
)
print(f"models of this recipe: {', '.join(recipe.models)}")

# %% [markdown]
# ## The training
# Loss is in nats per token. A model that guesses uniformly has the logarithm of the vocabulary's size.

# %%
run = Path(OUT) / MODEL
result = train_model(recipe, MODEL, data, run)
print(f"{result.label}: {result.parameters:,} parameters, {result.train_tokens:,} tokens in {result.seconds:.0f} s")

# %%
print(f"uniform guesses: {math.log(manifest.vocab_size):.2f} nats per token")
for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
    if "eval_loss" in line:
        print(f"step {line['step']:4}: training {line['loss']:.2f}, held out {line['eval_loss']:.2f} nats per token")

# %% [markdown]
# ## A sample
# The run's folder is an ordinary checkpoint with its tokenizer. `AutoModelForCausalLM.from_pretrained` reads it too,
# once limelm is imported.

# %%
model, tokenizer = load_checkpoint(run)
torch.manual_seed(0)
prompt = tokenizer(PROMPT, return_tensors="pt")
tokens = model.generate(**prompt, max_new_tokens=80, do_sample=True, temperature=0.7)
text = tokenizer.decode(tokens[0], skip_special_tokens=True)
print(text)

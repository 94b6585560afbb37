# %% [markdown]
# # Look at one sentence, and cut a route by hand
#
# `limelm.explore` shows what every layer of a model reads of the layers before it, how much that matters, and what the
# model expects next. `limelm.routes` changes what a layer reads, for as long as a `with` block lasts.
#
# It looks at the model that `make demo` has trained. Where that is missing, it trains a small one first, which takes
# about a minute on one CPU core. It needs `pip install -e '.[lab]'`.

# %%
from pathlib import Path

import torch

import limelm
from limelm.data.presets import prepare_preset
from limelm.loading import load_checkpoint
from limelm.training import load_recipe, train_model

# %% tags=["parameters"]
CHECKPOINT = "demo/seed-42/dynamic"  # a folder; where there is none, a small model is trained
TEXT = "def main(argv):\n    return 0 if argv else 1\n"
STEPS = 300  # of that training
DOCUMENTS = 100  # files of Python's standard library for it
OUT = "example-explore"  # all that is written goes here

# %%
checkpoint = Path(CHECKPOINT)
if not checkpoint.exists():
    checkpoint, data = Path(OUT) / "model", Path(OUT) / "data"
    prepare_preset("python-library", data, vocab_size=2048, validation_fraction=0.05, max_documents=DOCUMENTS)
    shape = {"num_hidden_layers": 6, "hidden_size": 96, "intermediate_size": 384, "sequence_length": 128}
    recipe = load_recipe("tiny", {**shape, "learning_rate": 4e-3, "steps": STEPS})
    train_model(recipe, "dynamic", data, checkpoint)
model, tokenizer = load_checkpoint(checkpoint)
print(f"{checkpoint}: {model.config.num_hidden_layers} layers, {model.config.model_type}")

# %% [markdown]
# ## The page
# One HTML file, which opens in any browser without a network. A notebook shows it when `exploration` is the last line
# of a cell.

# %%
exploration = limelm.explore(model, tokenizer, TEXT)
page = exploration.save(Path(OUT) / "explorer.html")
print(f"{page}: {page.stat().st_size / 1e6:.1f} MB, open it in a browser")

# %% [markdown]
# ## The numbers of the page
# `data` holds everything that the page shows. A *source* is a representation that a layer may read: 0 is the
# embedding, i + 1 is what comes after layer i.

# %%
shown = exploration.data["models"][0]
for place in shown["places"]:
    weights = abs(place["weights"])  # [..., heads, sources, columns], by tokens where they depend on them
    means = weights.reshape(-1, *weights.shape[-2:]).mean(axis=(0, 2))
    read = ", ".join(f"{mean:.2f} of source {source}" for source, mean in zip(place["sources"], means, strict=True))
    print(f"{place['name']} reads, by mean weights, {read}")

# %% [markdown]
# ## Cut a route by hand
# The page has cut many routes, one at a time, and measured what the loss on the sentence rises by. We take the one that
# matters most, and cut it ourselves. The two numbers must agree.

# %%
strongest = max(shown["measured"], key=lambda cut: cut["loss"])
layer, head, source = strongest["place"], strongest["row"], strongest["source"]  # head None: all heads of the layer
tokens = torch.tensor([[token["id"] for token in shown["tokens"]]])
with torch.no_grad():
    before = model(tokens, labels=tokens).loss.item()
    with limelm.routes(model).cut(layer=layer, head=head, source=source):
        after = model(tokens, labels=tokens).loss.item()

who = "all heads" if head is None else f"head {head}"
print(f"layer {layer}, {who}, without source {source}: loss {before:.4f} -> {after:.4f} nats per token")
print(f"it rises by {after - before:.4f}; the page says {strongest['loss']:.4f}")

# %% [markdown]
# ## A larger cut
# `cut` takes one number, several, or none for all: here no layer reads the embedding any more. Everything works inside
# the block, `generate` too. After it the model is as it was.

# %%
prompt = tokenizer("def __init__(self", return_tensors="pt")
sampling = {"max_new_tokens": 30, "do_sample": True, "temperature": 0.7}
torch.manual_seed(0)
whole = model.generate(**prompt, **sampling)
with limelm.routes(model).cut(source=0), torch.no_grad():
    torch.manual_seed(0)
    cut = model.generate(**prompt, **sampling)
    without = model(tokens, labels=tokens).loss.item()
print(f"no layer reads source 0: loss {before:.4f} -> {without:.4f} nats per token")
print("whole:", repr(tokenizer.decode(whole[0], skip_special_tokens=True)))
print("cut:  ", repr(tokenizer.decode(cut[0], skip_special_tokens=True)))

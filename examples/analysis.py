# %% [markdown]
# # Looking inside a LIMe model
#
# What `limelm analyze` measures, `limelm.analysis` has as functions of a model and of plain tensors. This file calls
# some of them: what the routers retrieve, what becomes of the representations with depth, a probe, and the tokens that
# open a route.
#
# It looks at the model that `make demo` has trained. Where that is missing, it trains a small one first, which takes
# about a minute on one CPU core. It needs `pip install -e '.[analysis]'`.

# %%
from pathlib import Path

import numpy as np
import torch

from limelm.analysis import (
    ActivationReader,
    cka,
    matrix_entropy,
    mean_by_source,
    neighbor_cosine,
    retrieval_weights,
    separability,
    tokens_of_routes,
    vocabulary_directions,
)
from limelm.data.dataset import TokenDataset
from limelm.data.presets import prepare_preset
from limelm.loading import load_checkpoint
from limelm.training import load_recipe, train_model

# %% tags=["parameters"]
CHECKPOINT = "demo/seed-42/dynamic"  # a folder; where there is none, a small model is trained
DATA = "demo/data"  # token shards, made with the checkpoint's tokenizer
MODEL = "dynamic"  # the kind of the small one: another of the recipe `tiny`, such as static, kv or hc
STEPS = 150  # of that training
DOCUMENTS = 100  # files of Python's standard library for it
SEQUENCES = 16  # held-out ones, to look at
OUT = "example-analysis"  # all that is written goes here

# %%
checkpoint, data = Path(CHECKPOINT), Path(DATA)
if not checkpoint.exists():
    checkpoint, data = Path(OUT) / MODEL, Path(OUT) / "data"
    prepare_preset("python-library", data, vocab_size=2048, validation_fraction=0.05, max_documents=DOCUMENTS)
    shape = {"num_hidden_layers": 6, "hidden_size": 96, "intermediate_size": 384, "sequence_length": 128}
    recipe = load_recipe("tiny", {**shape, "learning_rate": 4e-3, "steps": STEPS})
    train_model(recipe, MODEL, data, checkpoint)

# %%
model, tokenizer = load_checkpoint(checkpoint)
length = min(128, model.config.max_position_embeddings)
held_out = TokenDataset(data, "validation", length)
sequences = torch.stack([held_out[i]["input_ids"] for i in range(min(SEQUENCES, len(held_out)))])
print(f"{checkpoint}: {model.num_parameters():,} parameters; looked at on {sequences.numel():,} held-out tokens")

# %% [markdown]
# ## What the routers retrieve
# One matrix per layer: `[heads, r + 1]`, each row a distribution over the representations 0 ... r. Representation 0 is
# the embedding, r + 1 is what comes after layer r.

# %%
weights = retrieval_weights(model, "the model", [sequences])
if weights is None:
    print(f"{checkpoint} has no routers")
else:
    deepest = max(weights.layers)
    mean = ", ".join(f"{weight:.3f}" for weight in weights.layers[deepest].mean(axis=0))
    print(f"layer {deepest}, mean weights over heads: {mean}")
    for row in mean_by_source(weights):
        print(f"representation {row['source']}: {row['mean_weight']:.3f} (uniform: {row['uniform']:.3f})")

# %% [markdown]
# ## Representations
# `hidden[m]` is the residual stream X_m, `values[i]` what attention of layer i mixes, after routing. (`own_values[i]`
# is the same before routing.)

# %%
seen = ActivationReader(model, "the model")(sequences)
for layer, values in enumerate(seen.values):
    flat = values.double().flatten(0, 1)
    standardized = (values.double() - flat.mean(dim=0)) / flat.std(dim=0)
    entropy = matrix_entropy(standardized)
    error = entropy.std() / len(entropy) ** 0.5
    print(f"layer {layer}: entropy of values {entropy.mean():.3f} ± {error:.3f} nats")

# %%
for m, X in enumerate(seen.hidden):
    first, here = seen.hidden[0].flatten(0, 1), X.flatten(0, 1)
    print(f"X_{m}: CKA with the embedding {cka(first, here):.3f}, neighbors' cosine {neighbor_cosine(X).mean():.3f}")

# %% [markdown]
# ## A probe of your own
# Are tokens at even and odd places told apart by the last hidden state? They should not be.

# %%
states = seen.hidden[-1].flatten(0, 1).numpy()
places = np.tile(np.where(np.arange(length) % 2, "odd", "even"), len(sequences))
result = separability(states, places)
print(f"even or odd: accuracy {result.accuracy:.2f} ± {result.deviation:.2f}, chance {result.chance:.2f}")

# %% [markdown]
# ## Which tokens open a route
# Only dynamic routers look at the token.

# %%
if getattr(model.config, "routing", None) == "dynamic":
    layer = model.model.layers[-1]
    routes, controls = tokens_of_routes(layer, vocabulary_directions(model), k=8)
    best = int(routes.coherence.argmax())
    head, source = divmod(best, layer.self_attn.router.spec.num_sources)
    print(f"head {head} of the last layer reads representation {source} most for:")
    print("  ", [tokenizer.decode([token]) for token in routes.tokens[best]])
    print(f"coherence {routes.coherence[best]:.2f}; random routes reach {controls.coherence.max():.2f}")

# %% [markdown]
# # Looking inside a LIMe model
#
# Cells as in a notebook: run it as a script (`python examples/analysis.py demo/seed-42/dynamic demo/data`), or open it
# in an editor that runs `# %%` cells. The checkpoint and the token shards are those that `make demo` leaves behind.

# %%
import sys
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
from limelm.loading import load_checkpoint

arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
checkpoint, shards = arguments if len(arguments) == 2 else ("demo/seed-42/dynamic", "demo/data")
model, tokenizer = load_checkpoint(checkpoint)
length = min(128, model.config.max_position_embeddings)
held_out = TokenDataset(Path(shards), "validation", length)
sequences = torch.stack([held_out[i]["input_ids"] for i in range(min(16, len(held_out)))])

# %% [markdown]
# ## What the routers retrieve
# One matrix per layer: `[heads, r + 1]`, each row a distribution over the representations 0 ... r.

# %%
weights = retrieval_weights(model, "the model", [sequences])
if weights is None:
    print(f"{checkpoint} does not route")
else:
    deepest = max(weights.layers)
    print(f"layer {deepest}, mean over heads:", weights.layers[deepest].mean(axis=0).round(3))
    for row in mean_by_source(weights):
        print(f"representation {row['source']}: {row['mean_weight']:.3f} (uniform: {row['uniform']:.3f})")

# %% [markdown]
# ## Representations
# `hidden[m]` is the residual stream X_m, `values[i]` what attention of layer i mixes, after routing; `own_values[i]`
# before it.

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
print(f"even or odd: {result.accuracy:.2f} ± {result.deviation:.2f}, chance {result.chance:.2f}")

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

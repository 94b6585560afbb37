# %% [markdown]
# # Do two models differ, or was it luck?
#
# A single training says little: another seed gives another loss. So we train two models with five seeds each. Within a
# seed both see the same sequences in the same order and start from the same values wherever they share a parameter, so
# we take the difference seed by seed, and then ask whether its mean is different from zero.
#
# It needs `pip install -e '.[lab]'` and takes one to two minutes on one CPU core. When it is stopped, it goes on where
# it was.

# %%
from pathlib import Path

from limelm.data.presets import prepare_preset
from limelm.evaluation.seeds import compare_losses, final_losses
from limelm.evaluation.statistics import NOT_DISTINGUISHABLE
from limelm.training import load_recipe, read_summary, reproduce

# %% tags=["parameters"]
BASELINE = "llama"
CANDIDATE = "static"  # or another of the recipe: hc, dynamic, kv, top-p, ...
SEEDS = 5
STEPS = 100
DOCUMENTS = 60  # files of Python's standard library, on which the models are trained
OUT = "example-compare"  # all that is written goes here

# %% [markdown]
# ## Train
# `reproduce` trains what is missing in the folder. With more `SEEDS` later, it trains only the new ones.

# %%
data = Path(OUT) / "data"
prepare_preset("python-library", data, vocab_size=1024, validation_fraction=0.05, max_documents=DOCUMENTS)
recipe = load_recipe(
    "tiny",
    {
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "intermediate_size": 256,
        "sequence_length": 128,
        "learning_rate": 4e-3,
        "steps": STEPS,
        "warmup_steps": max(1, STEPS // 10),
        "eval_steps": STEPS,
        "save_steps": STEPS,
        "seeds": SEEDS,
    },
)
run = Path(OUT) / "run"
trained = reproduce(recipe, run, [BASELINE, CANDIDATE], data)
print(f"{len(trained)} models trained now; all lie in {run}")

# %% [markdown]
# ## The losses
# The held-out loss of each model after its last step, in nats per token.

# %%
losses = {BASELINE: {}, CANDIDATE: {}}
for training in read_summary(run)["trainings"]:
    losses[training["name"]][training["seed"]] = training["eval_loss"]

rows = final_losses(losses, BASELINE)
for row in rows:
    if row["model"] == CANDIDATE:
        both = f"{BASELINE} {losses[BASELINE][row['seed']]:.4f}, {CANDIDATE} {row['loss']:.4f}"
        print(f"seed {row['seed']}: {both}, difference {row['difference']:+.4f}")

# %% [markdown]
# ## The verdict
# The interval is Student's. When it holds zero, the seeds do not tell the models apart. That is no proof that they are
# equal: with more seeds the interval becomes narrower. And whatever comes out holds for this size, this text, this
# number of steps and this learning rate.

# %%
compared = {row["model"]: row for row in compare_losses(rows, BASELINE)}
for name, row in compared.items():
    scatter = f"standard deviation {row['standard_deviation']:.4f}"
    print(f"{name}: {row['mean']:.4f} nats per token, mean of {row['seeds']} seeds ({scatter})")

row = compared[CANDIDATE]
interval = f"{row['difference']:+.4f} nats per token, 95 % interval from {row['t_low']:+.4f} to {row['t_high']:+.4f}"
if row["verdict"] == NOT_DISTINGUISHABLE:
    print(f"{CANDIDATE} and {BASELINE} cannot be told apart with {row['seeds']} seeds ({interval}).")
else:
    print(f"{CANDIDATE} differs from {BASELINE}: its held-out loss is {row['verdict']} per token ({interval}).")

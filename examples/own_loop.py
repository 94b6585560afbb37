# %% [markdown]
# # Train a LIMe model in a loop of your own
#
# `LimeForCausalLM` is a PyTorch module like any other, so a plain loop is enough: batches, AdamW, a learning-rate
# schedule, gradient clipping, and a held-out loss. One line is special: `limelm.parameter_groups` gives the routers a
# higher learning rate than the rest, and keeps weight decay away from what should not decay.
#
# The model reads bytes, so it needs no tokenizer. The text is the source code of Python's own standard library.
# It needs `pip install -e .` and takes one to two minutes on one CPU core.

# %%
import math
import sysconfig
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

import limelm
from limelm import LimeConfig, LimeForCausalLM

# %% tags=["parameters"]
ROUTING = "kv"  # or "static", "dynamic", "value_residual", "depth_attention", "none"
STEPS = 300
LAYERS = 6
CONTEXT = 128  # bytes that the model reads at once
BATCH_SIZE = 16
OUT = "example-own-loop"  # the checkpoint goes here

# %% [markdown]
# ## The data
# Rows of bytes. The last tenth of them is held out.

# %%
torch.manual_seed(0)
library = Path(sysconfig.get_path("stdlib"))
text = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))[:2_000_000]
rows = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
rows = rows[: len(rows) // CONTEXT * CONTEXT].view(-1, CONTEXT)
training, held_out = rows[: -len(rows) // 10], rows[-len(rows) // 10 :]
held_out = held_out[:: len(held_out) // 32]  # some thirty rows, from all over it
print(f"{training.numel():,} bytes to train on, {held_out.numel():,} held out")

# %% [markdown]
# ## The model
# Llama's configuration fields, and `routing`.

# %%
config = LimeConfig(
    routing=ROUTING,
    vocab_size=256,
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    max_position_embeddings=CONTEXT,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=None,
)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = LimeForCausalLM(config).to(device)
training, held_out = training.to(device), held_out.to(device)
print(f"routing {ROUTING!r}: {model.num_parameters():,} parameters")

# %% [markdown]
# ## The optimizer
# Every group has its own rate and decay. The schedule scales all rates alike.

# %%
groups = limelm.parameter_groups(model, learning_rate=3e-3, router_learning_rate=1e-2, weight_decay=0.1)
for group in groups:
    size = sum(parameter.numel() for parameter in group["params"])
    print(f"{group['name']}: {size:,} parameters, rate {group['lr']}, decay {group['weight_decay']}")
optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=STEPS // 10, num_training_steps=STEPS)

# %% [markdown]
# ## The loop
# The model shifts the labels itself: it is given the same tokens twice. Losses are in nats per byte.

# %%
print(f"uniform guesses: {math.log(256):.2f} nats per byte")
losses = {}
for step in range(1, STEPS + 1):
    batch = training[torch.randint(len(training), (BATCH_SIZE,), device=device)]
    loss = model(batch, labels=batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if step == 1 or step % max(1, STEPS // 5) == 0:
        model.eval()
        with torch.no_grad():
            losses[step] = model(held_out, labels=held_out).loss.item()
        model.train()
        print(f"step {step:4}: training {loss.item():.3f}, held out {losses[step]:.3f} nats per byte", flush=True)

# %% [markdown]
# ## The checkpoint
# After `import limelm`, transformers' own `AutoModelForCausalLM` reads it, and `generate` works as always.

# %%
model.save_pretrained(OUT)
loaded = AutoModelForCausalLM.from_pretrained(OUT).to(device)
with torch.no_grad():
    difference = (loaded(held_out[:1]).logits - model.eval()(held_out[:1]).logits).abs().max().item()
print(f"saved in {OUT} and loaded: logits differ by {difference}")

# %%
prompt = torch.tensor([list(b"def ")], device=device)
tokens = loaded.generate(prompt, max_new_tokens=CONTEXT - 4, do_sample=True, temperature=0.5)
print(bytes(tokens[0].tolist()).decode(errors="replace"))

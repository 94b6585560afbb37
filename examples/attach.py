# %% [markdown]
# # Put routers into a pretrained model
#
# `limelm.attach` puts a router into every attention layer of a model that was trained without them. At first they
# change nothing. Then they are trained, here first alone with transformers' `Trainer`, and then beside a LoRA with
# TRL's `SFTTrainer`.
#
# It needs `pip install -e '.[lab,lora]'`, and the second part `pip install trl` too. It takes one to two minutes
# on one CPU core. Nothing is downloaded: the "pretrained" model is a small Llama that has read some of Python's source
# code, and it learns to read Python's documentation. With `BASE` below, take a real one.

# %%
from pathlib import Path
from pydoc_data.topics import topics

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import limelm
from limelm.data.presets import prepare_preset
from limelm.training import load_recipe, train_model

# %% tags=["parameters"]
BASE = ""  # name on the hub, such as "HuggingFaceTB/SmolLM2-135M", or a folder; "" trains a small Llama
BASE_STEPS = 200  # of that small Llama
STEPS = 60  # of the routers, and again of routers and LoRA
DOCUMENTS = 100  # files of Python's standard library for the small Llama
OUT = "example-attach"  # all that is written goes here

# %%
if not BASE:
    data, BASE = Path(OUT) / "data", str(Path(OUT) / "base")
    prepare_preset("python-library", data, vocab_size=2048, validation_fraction=0.05, max_documents=DOCUMENTS)
    shape = {"num_hidden_layers": 6, "hidden_size": 96, "intermediate_size": 384, "sequence_length": 128}
    recipe = load_recipe("tiny", {**shape, "learning_rate": 4e-3, "steps": BASE_STEPS})
    train_model(recipe, "llama", data, Path(BASE))
model = AutoModelForCausalLM.from_pretrained(BASE)
tokenizer = AutoTokenizer.from_pretrained(BASE)

# %% [markdown]
# ## The text
# Python's documentation, cut into blocks of 128 tokens. Every tenth block is held out.

# %%
ids = tokenizer("\n\n".join(topics.values())[:300_000], add_special_tokens=False, verbose=False).input_ids
blocks = torch.tensor(ids[: len(ids) // 128 * 128]).view(-1, 128)
rows = [{"input_ids": block, "labels": block} for block in blocks]
held_out = rows[::10][:24]
training = [row for number, row in enumerate(rows) if number % 10]
print(f"{len(training)} blocks to train on, {len(held_out)} held out")

# %% [markdown]
# ## Routers alone, with transformers' Trainer
# The logits are the same before and after `attach`. Then everything but the routers is frozen.

# %%
sample = blocks[:2]
with torch.no_grad():
    original = model(sample).logits
    limelm.attach(model, routing="kv")
    print(f"after attach, logits differ by {(model(sample).logits - original).abs().max().item()}")
trained = limelm.set_trainable(model, "routers")
print(f"trained: {trained:,} of {model.num_parameters():,} parameters")

# %%
settings = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "cosine",
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "bf16": False,
    "dataloader_pin_memory": False,
}
arguments = TrainingArguments(str(Path(OUT) / "trainer"), **settings)
trainer = Trainer(model, arguments, train_dataset=training, eval_dataset=held_out)
before = trainer.evaluate()["eval_loss"]
trainer.train()
after = trainer.evaluate()["eval_loss"]
print(f"held-out loss: {before:.3f} -> {after:.3f} nats per token")

# %% [markdown]
# ## Save, load, take out
# An adapter is a small folder, which names its base. `load_model` reads both. `detach` leaves the original model.

# %%
adapter = limelm.save_adapter(model, Path(OUT) / "routers")
size = sum(path.stat().st_size for path in adapter.iterdir())
sample = sample.to(model.device)
with torch.no_grad():
    routed = model(sample).logits
    loaded = limelm.load_model(adapter).to(model.device)(sample).logits
    limelm.detach(model)
    detached = model(sample).logits
print(f"adapter of {size / 1000:.0f} kB; loaded again, logits differ by {(loaded - routed).abs().max().item()}")
print(f"after detach, they differ from the original's by {(detached.cpu() - original).abs().max().item()}")

# %% [markdown]
# ## Routers and a LoRA, with TRL's SFTTrainer
# `modules_to_save=["router"]` tells PEFT to train the routers whole beside its LoRA. `save_adapter` writes both.

# %%
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

model = AutoModelForCausalLM.from_pretrained(BASE)
limelm.attach(model, routing="kv")
texts, held_out_texts = (
    Dataset.from_dict({"text": tokenizer.batch_decode([row["input_ids"] for row in part])})
    for part in (training, held_out)
)
trainer = SFTTrainer(
    model,
    SFTConfig(str(Path(OUT) / "sft"), max_length=128, **settings),
    train_dataset=texts,
    eval_dataset=held_out_texts,
    processing_class=tokenizer,
    peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["router"]),
)
before_sft = trainer.evaluate()["eval_loss"]
trainer.train()
after_sft = trainer.evaluate()["eval_loss"]
print(f"held-out loss: {before_sft:.3f} -> {after_sft:.3f} nats per token")

# %%
both = limelm.save_adapter(trainer.model, Path(OUT) / "routers-and-lora")
sample = sample.to(trainer.model.device)
with torch.no_grad():
    trained_logits = trainer.model.eval()(sample).logits
    loaded = limelm.load_model(both).to(sample.device)(sample).logits
print(f"saved in {both} and loaded: logits differ by {(loaded - trained_logits).abs().max().item()}")

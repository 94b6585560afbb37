# %% [markdown]
# # Serve a checkpoint to OpenAI-style clients
#
# `transformers serve` is a server that comes with transformers and speaks OpenAI's protocol. We start one on a free
# port of this machine, ask it for a completion that arrives piece by piece, and stop it.
#
# It needs `pip install -e '.[lab]' 'transformers[serving]'`, which brings FastAPI and OpenAI's client. It serves the
# model that `make demo` has trained. Where that is missing, it trains a small one first, which takes about a minute on
# one CPU core.
#
# **How the server learns of our model type.** It is a process of its own, and nobody imports limelm there. It looks for
# the model's class in transformers, and does not find it. With `--trust-remote-code` it runs the small Python file that
# every checkpoint of ours holds, and that file imports the installed limelm. So limelm must be installed where the
# server runs. As the option runs code of any checkpoint that a client names, listen on this machine only, or to clients
# that you trust.

# %%
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from openai import OpenAI

from limelm.data.presets import prepare_preset
from limelm.training import load_recipe, train_model

# %% tags=["parameters"]
CHECKPOINT = "demo/seed-42/dynamic"  # a folder; where there is none, a small model is trained
PROMPT = "def __init__(self"
TOKENS = 40  # to be written
STEPS = 150  # of that training
DOCUMENTS = 100  # files of Python's standard library for it
OUT = "example-serve"  # all that is written goes here

# %%
checkpoint = Path(CHECKPOINT)
if not checkpoint.exists():
    checkpoint, data = Path(OUT) / "model", Path(OUT) / "data"
    prepare_preset("python-library", data, vocab_size=2048, validation_fraction=0.05, max_documents=DOCUMENTS)
    shape = {"num_hidden_layers": 6, "hidden_size": 96, "intermediate_size": 384, "sequence_length": 128}
    recipe = load_recipe("tiny", {**shape, "learning_rate": 4e-3, "steps": STEPS})
    train_model(recipe, "dynamic", data, checkpoint)

# %% [markdown]
# ## The command
# In a terminal it is `transformers serve --trust-remote-code`. We ask the system for a port that is free, and start the
# server with the Python that runs this file. What it says goes into a log.

# %%
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
address = f"http://127.0.0.1:{port}"
start = "from transformers.cli.transformers import main; main()"  # what the command `transformers` does
command = [sys.executable, "-c", start, "serve", "--trust-remote-code", "--host", "127.0.0.1", "--port", str(port)]
log = Path(OUT) / "server.log"
log.parent.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Start, ask, stop
# All in one cell, so that the server is stopped whatever happens. A model's name is the folder that it lies in. The
# server always takes the most probable token; the penalty keeps a small model from repeating itself.

# %%
pieces = []
with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
    try:
        while True:  # until it answers
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None:
                    raise RuntimeError(f"the server has stopped; {log} says why") from None
                time.sleep(0.2)
        print(f"the server listens at {address}")
        client = OpenAI(base_url=f"{address}/v1", api_key="none")
        print(PROMPT, end="")
        name = str(checkpoint.resolve())
        for chunk in client.completions.create(
            model=name, prompt=PROMPT, max_tokens=TOKENS, frequency_penalty=0.3, stream=True
        ):
            pieces.append(chunk.choices[0].text)
            print(pieces[-1], end="", flush=True)
    finally:
        server.terminate()
print(f"\nthe server sent {len(pieces)} pieces, and is stopped")

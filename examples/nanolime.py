"""A small GPT whose attention heads read all earlier layers: one file, one minute on a laptop, no download.

    python examples/nanolime.py --routing kv

It learns to write Python, byte by byte, from the standard library of the Python that runs it. The model is a Llama
(RMSNorm, rotary positions, SwiGLU); what is there for limelm is marked. With `--routing none` nothing is routed, to
compare. Here each block holds its router; that they are handed to the blocks, as in docs/own_model.md, is as good.
"""

import argparse
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import limelm
from limelm.routing import History, LayerRouter, make_routers


@dataclass
class Config:
    """The sizes of the model."""

    routing: str = "kv"
    vocab_size: int = 256  # bytes
    context: int = 128
    hidden_size: int = 128
    intermediate_size: int = 384
    num_layers: int = 6
    num_heads: int = 4


class Attention(nn.Module):
    """Causal attention over x `[B, T, D]`, its norm before it."""

    def __init__(self, config: Config, router: LayerRouter):
        super().__init__()
        D, self.num_heads = config.hidden_size, config.num_heads
        self.norm = nn.RMSNorm(D, eps=1e-6)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(D, D, bias=False) for _ in range(4))
        self.router = router  # LIMe
        # Static and dynamic routing mix the representations of earlier layers before they are projected (layer 0 has
        # only its own). A mix gets a gain of its own; else keys and values share that of the queries.
        is_mixed = router.mixes_representations and router.has_choice
        self.source_norm = nn.RMSNorm(D, eps=1e-6) if is_mixed else None

    def forward(self, x: Tensor, history: History, cos: Tensor, sin: Tensor) -> Tensor:
        q = self.q_proj(self.norm(x)).unflatten(-1, (self.num_heads, -1))
        k, v = self.router.keys_values(history, x, self.source_norm or self.norm, self.k_proj, self.v_proj)  # LIMe
        q, k, v = (states.transpose(1, 2) for states in (q, k, v))  # [B, H, T, d]
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU, its norm before it."""

    def __init__(self, config: Config):
        super().__init__()
        D, inner = config.hidden_size, config.intermediate_size
        self.norm = nn.RMSNorm(D, eps=1e-6)
        self.gate_proj, self.up_proj = nn.Linear(D, inner, bias=False), nn.Linear(D, inner, bias=False)
        self.down_proj = nn.Linear(inner, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class GPT(nn.Module):
    """Bytes `[B, T]` in, logits of the next ones `[B, T, 256]` out."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        routers = make_routers(config.routing, config.num_layers, config.hidden_size, config.num_heads)  # LIMe
        self.attentions = nn.ModuleList(Attention(config, router) for router in routers)
        self.mlps = nn.ModuleList(MLP(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=1e-6)
        self.plan = routers.plan  # LIMe: which layer reads what
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "router" not in name:  # routers are initialized already
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        cos, sin = rotary(tokens.shape[1], self.config.hidden_size // self.config.num_heads)
        history = History(self.plan)  # LIMe: what the layers of this forward leave for later ones
        for attention, mlp in zip(self.attentions, self.mlps, strict=True):
            x = x + attention(x, history, cos, sin)
            x = x + mlp(x)
        return F.linear(self.norm(x), self.embedding.weight)

    @torch.no_grad()
    def sample(self, tokens: Tensor, length: int, generator: torch.Generator, temperature: float = 0.7) -> Tensor:
        """Go on from `[1, T]` by so many bytes."""
        for _ in range(length):
            logits = self(tokens[:, -self.config.context :])[:, -1] / temperature
            tokens = torch.cat((tokens, logits.softmax(-1).multinomial(1, generator=generator)), dim=1)
        return tokens


def rotary(tokens: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[T, d]` of the rotary embedding."""
    frequencies = 10_000 ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.outer(torch.arange(tokens), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys `[B, H, T, d]` by their positions."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def standard_library(limit: int = 4_000_000) -> Tensor:
    """The first bytes of Python's own modules."""
    text = b""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) > limit:
            break
    return torch.frombuffer(bytearray(text[:limit]), dtype=torch.uint8)


def batch_of(data: Tensor, size: int, context: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and targets `[B, T]` from random places."""
    starts = torch.randint(len(data) - context - 1, (size, 1), generator=generator)
    windows = data[starts + torch.arange(context + 1)].long()
    return windows[:, :-1], windows[:, 1:]


def loss_of(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats per byte."""
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def train(model: GPT, data: Tensor, steps: int, batch_size: int = 16) -> float:
    """Train, print losses, and return the last one on held-out bytes."""
    generator = torch.Generator().manual_seed(0)
    training, held_out = data[: -len(data) // 10], data[-len(data) // 10 :]
    batches = [batch_of(held_out, batch_size, model.config.context, generator) for _ in range(4)]
    optimizer = torch.optim.AdamW(limelm.parameter_groups(model, learning_rate=3e-3), betas=(0.9, 0.95))
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps, pct_start=0.1
    )
    held_out_loss, began = float("nan"), time.perf_counter()
    for step in range(1, steps + 1):
        loss = loss_of(model, *batch_of(training, batch_size, model.config.context, generator))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        if step == 1 or step % 50 == 0 or step == steps:
            with torch.no_grad():
                held_out_loss = sum(loss_of(model, *batch).item() for batch in batches) / len(batches)
            seconds = f"{time.perf_counter() - began:.0f} s"
            print(f"step {step:5}   loss {loss.item():.3f}   held out {held_out_loss:.3f}   {seconds}", flush=True)
    return held_out_loss


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routing", choices=["none", "static", "dynamic", "kv"], default="kv")
    parser.add_argument("--steps", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    model = GPT(Config(routing=options.routing))
    print(f"routing={options.routing}: {sum(p.numel() for p in model.parameters()):,} parameters")
    loss = train(model, standard_library(), options.steps)
    prompt = torch.tensor([list(b"def ")])
    text = model.sample(prompt, 200, torch.Generator().manual_seed(options.seed))
    print("\n" + bytes(text[0].tolist()).decode(errors="replace"))
    return loss


if __name__ == "__main__":
    main()

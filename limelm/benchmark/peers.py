"""Other people's implementations of the same ideas, each beside its own plain model: the extra `peers`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from limelm.benchmark.cases import CASES, NativeCase
from limelm.benchmark.shape import Shape
from limelm.extras import REQUIREMENTS, import_extra, missing_requirements, not_installed, require_extra

#: Residual streams of Hyper-Connections, as many as ours have by default.
NUM_STREAMS = 4


class XTransformersLM(PreTrainedModel):
    """A decoder of x-transformers between tied embeddings, called as transformers' models are.

    With `integrate_layers` a token's input to each sublayer (attention and MLP) is a mix of the inputs of all sublayers
    so far, by a softmax that depends on the token: one mix for queries, keys and values each, for all heads alike.
    """

    def __init__(self, shape: Shape, integrate_layers: bool):
        super().__init__(LlamaConfig(**shape.config_fields(is_grouped=False)))
        D = shape.hidden_size
        self.embedding = nn.Embedding(shape.vocab_size, D)
        nn.init.normal_(self.embedding.weight, std=self.config.initializer_range)
        self.decoder = import_extra("x_transformers", "peers").Decoder(
            dim=D,
            depth=shape.num_hidden_layers,
            heads=shape.num_attention_heads,
            attn_dim_head=D // shape.num_attention_heads,
            attn_flash=True,
            rotary_pos_emb=True,
            rotary_emb_dim=D // shape.num_attention_heads,
            use_rmsnorm=True,
            ff_mult=(shape.intermediate_size + 0.5) / D,  # it rounds down
            ff_glu=True,
            ff_swish=True,
            ff_no_bias=True,
            integrate_layers=integrate_layers,
            verbose=False,
        )

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, use_cache: bool = False, logits_to_keep: int = 0
    ) -> CausalLMOutputWithPast:
        """Run the decoder and the head, as `transformers.LlamaForCausalLM` does without a cache."""
        hidden_states = self.decoder(self.embedding(input_ids))
        logits = F.linear(hidden_states[:, -logits_to_keep:], self.embedding.weight)
        loss = None if labels is None else ForCausalLMLoss(logits, labels, self.config.vocab_size)
        return CausalLMOutputWithPast(loss, logits)


class AttentionBranch(nn.Module):
    """The first half of a Llama layer: norm and attention, without the residual."""

    def __init__(self, layer: LlamaDecoderLayer):
        super().__init__()
        self.norm, self.attention = layer.input_layernorm, layer.self_attn

    def forward(self, hidden_states: Tensor, **layer_inputs: Any) -> Tensor:
        """Return what is added to the residual stream."""
        return self.attention(hidden_states=self.norm(hidden_states), **layer_inputs)[0]


class HyperConnectedLayer(nn.Module):
    """A Llama layer whose two halves are connected by the package `hyper-connections` in place of residuals.

    Args:
        connect: makes one connection around a branch.
        before: what the first layer does with the embeddings, and
        after: the last with its result; nothing in others.
    """

    def __init__(
        self, layer: LlamaDecoderLayer, connect: Callable[..., nn.Module], before: nn.Module, after: nn.Module
    ):
        super().__init__()
        mlp = nn.Sequential(layer.post_attention_layernorm, layer.mlp)
        self.attention, self.mlp = connect(branch=AttentionBranch(layer)), connect(branch=mlp)
        self.before, self.after = before, after

    def forward(self, hidden_states: Tensor, **layer_inputs: Any) -> Tensor:
        """Run the layer; between layers the streams lie in the batch, `[B n, T, D]`."""
        return self.after(self.mlp(self.attention(self.before(hidden_states), **layer_inputs)))


def hyper_connected_llama(shape: Shape) -> PreTrainedModel:
    """LLaMA with Hyper-Connections of the package of that name, around the same layers."""
    package = import_extra("hyper_connections", "peers")
    connect, expand, reduce = package.get_init_and_expand_reduce_stream_functions(NUM_STREAMS, dim=shape.hidden_size)
    model = LlamaForCausalLM(LlamaConfig(**shape.config_fields(is_grouped=False)))
    last = shape.num_hidden_layers - 1
    model.model.layers = nn.ModuleList(
        HyperConnectedLayer(
            layer,
            partial(connect, layer_index=index),
            before=nn.Identity() if index else expand,
            after=nn.Identity() if index < last else reduce,
        )
        for index, layer in enumerate(model.model.layers)
    )
    return model


@dataclass(frozen=True)
class PeerCase(NativeCase):
    """A model of another package.

    Attributes:
        build: makes it at a shape.
        beside: the name of its baseline, of `PEERS` or `CASES`.
    """

    build: Callable[[Shape], PreTrainedModel] = hyper_connected_llama
    beside: str = "llama"

    @property
    def baseline(self) -> NativeCase:
        """The plain model of the same package, or LLaMA."""
        return (PEERS | CASES)[self.beside].at(self.inputs)

    def model(self, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
        """A new model with random weights."""
        with torch.device(device):
            return self.build(self.inputs).to(device=device, dtype=dtype)


#: What is compared, by the names of the packages, and a plain model beside which it is.
PEERS: dict[str, NativeCase] = {
    case.name: case
    for case in (
        PeerCase(
            "x-transformers", build=partial(XTransformersLM, integrate_layers=True), beside="x-transformers-plain"
        ),
        PeerCase(
            "x-transformers-plain",
            build=partial(XTransformersLM, integrate_layers=False),
            beside="x-transformers-plain",
        ),
        PeerCase("hyper-connections"),
    )
}
#: Ours that are measured in the same run, unless cases are named; and what can be.
OWN_CASES = ("static", "dynamic", "kv", "hc")
PEER_WORKLOADS = ("train", "forward")


def installed_peers() -> tuple[list[str], str | None]:
    """The names of the cases whose packages are installed, and a line about those whose are not.

    Raises:
        MissingExtra: where none is.
    """
    missing = missing_requirements("peers")
    installed = [each for each in REQUIREMENTS["peers"] if each not in missing]
    if not installed:
        require_extra("peers", "--peers")
    left_out = f"left out: {not_installed(missing, 'peers')}" if missing else None
    return [each.split(">=")[0] for each in installed], left_out

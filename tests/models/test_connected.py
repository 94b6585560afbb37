"""What the models on `connected.py` share: the bookkeeping of sources, and what a place keeps for its backward."""

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from limelm import attach
from limelm.adapters.parameters import router_parameters
from limelm.errors import UserError
from limelm.models.attention_residuals import DepthAttention
from limelm.models.connected import first_of_layer, with_delta
from limelm.models.deep_cross_attention import GatedSum
from limelm.models.delta_attention_residuals import DeltaAttention
from limelm.models.dense_former import DepthWeightedAverage
from limelm.models.mudd_former import MultiwayDynamicDense
from tests.models.variants import OTHERS, tiny_model, token_ids


@pytest.mark.parametrize("block_size", [1, 2, 3, 5, 8, 20])
def test_every_delta_goes_into_the_sum_of_its_block(block_size):
    """Deltas 1, 10, 100, ...: the digits of a source say what is in it."""
    sources: tuple[Tensor, ...] = (torch.tensor([-1.0], dtype=torch.float64),)
    for layer in range(4):
        before = sources
        for sublayer in (2 * layer, 2 * layer + 1):
            sources = with_delta(sources, torch.tensor([10.0**sublayer], dtype=torch.float64), sublayer, block_size)
        first = first_of_layer(layer, block_size)
        assert before[:first] == sources[:first]
        assert sources[first:] and not any(new is old for new in sources[first:] for old in before)
    blocks = [range(start, min(start + block_size, 8)) for start in range(0, 8, block_size)]
    assert [source.item() for source in sources] == [-1, *(sum(10.0**s for s in block) for block in blocks)]


PLACES = {
    "DepthAttention": lambda n: DepthAttention(64, 1e-6),
    "heads": lambda n: DepthAttention(64, 1e-6, num_heads=4, scale_by_sources=True),
    "DeltaAttention": lambda n: DeltaAttention(64, 1e-6, gated=True),
    "DepthWeightedAverage": DepthWeightedAverage,
    "GatedSum": lambda n: GatedSum(n, 64),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_place_keeps_no_tensor_of_a_source_s_size_but_the_sources(place, dtype):
    """Else the memory of a training grows with the square of the number of layers."""
    sources = [torch.randn(2, 50, 64, dtype=dtype, requires_grad=True) for _ in range(5)]
    connection = PLACES[place](5).to(dtype)
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        mixed = connection(*sources)
    assert mixed.dtype == dtype and mixed.shape == sources[0].shape
    own = {source.untyped_storage().data_ptr() for source in sources}
    large = {each.untyped_storage().data_ptr() for each in kept if each.numel() >= sources[0].numel()}
    allowed = own | ({mixed.untyped_storage().data_ptr()} if place == "DeltaAttention" else set())
    assert large and len(large - allowed) <= (place == "DeltaAttention")  # the mix, of which a gate's gradient is made
    mixed.sum().backward()
    assert all(source.grad is not None for source in sources)


MANY = 300
#: Places whose weights are all set to 1: the sum is the number of sources.
EVEN = {
    "dense_former": DepthWeightedAverage(MANY),
    "deep_cross_attention": GatedSum(MANY, 8),
    "attention_residuals": DepthAttention(8, 1e-6, 2, scale_by_sources=True),
    "mudd_former": MultiwayDynamicDense(8, MANY, 4, 1, eps=1e-6, pre_post_norm=False),
}


@pytest.mark.parametrize("place", EVEN)
@torch.no_grad()
def test_sources_are_added_up_in_float32(place):
    """In bfloat16 256 + 1 is 256."""
    connection = EVEN[place].bfloat16()
    for name, parameter in connection.named_parameters():
        parameter.fill_(0 if name in ("query", "gate", "output.weight") else 1)
    sources = [torch.ones(1, 1, 8, dtype=torch.bfloat16)] * MANY
    totals = connection(sources[-1], *sources) if place == "mudd_former" else [connection(*sources)]
    for total in totals:
        assert total.dtype == torch.bfloat16
        assert (total == MANY).all()


@torch.no_grad()
def test_mudd_formers_weights_are_added_to_their_bias_in_float32():
    connection = MultiwayDynamicDense(8, MANY, 4, 1, eps=1e-6, pre_post_norm=False).bfloat16()
    connection.bias.fill_(256)
    connection.hidden.weight.fill_(2**-4)
    connection.output.weight.fill_(2**-6)
    weights = connection.weights(torch.ones(1, 1, 8, dtype=torch.bfloat16))
    assert weights.dtype == torch.float32
    assert (weights != weights.bfloat16()).all()  # which knows 256 and 258


@torch.no_grad()
def test_what_the_final_norm_reads_without_a_residual_stream():
    """The output's connection mixes all sources, and after an early exit those that there are."""
    model = tiny_model("attention_residuals").model  # 8 sublayers in blocks of 3
    seen: list[int] = []
    model.output_connection.register_forward_hook(lambda module, sources, output: seen.append(len(sources)))
    for layers in (4, 3, 2, 1):
        model.config.num_hidden_layers = layers
        model(token_ids())
    assert seen == [1 + 3, 1 + 2, 1 + 2, 1 + 1]


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize("routing", ["kv", "static"])
@torch.no_grad()
def test_routers_are_attached_only_where_they_know_what_attention_reads(variant, routing):
    """Routers that mix representations take a layer's first argument for what its norm is given."""
    model = tiny_model(variant)
    given: list[tuple[Tensor, Tensor]] = []
    layer = model.model.layers[2]
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: given.append((inputs[0],))),
        layer.input_layernorm.register_forward_pre_hook(lambda _, inputs: given.append((*given.pop(), inputs[0]))),
    ]
    before = model(token_ids()).logits
    for hook in hooks:
        hook.remove()
    ((of_layer, of_norm),) = given
    if routing == "static" and not torch.equal(of_layer, of_norm):
        with pytest.raises(UserError, match="the norm before attention is given something else than the layer"):
            attach(model, routing)
        return
    attach(model, routing)
    assert torch.equal(model(token_ids()).logits, before)
    for parameter in router_parameters(model).values():
        parameter.add_(0.3)
    assert not torch.allclose(model(token_ids()).logits, before, atol=1e-3)

"""What every model here promises, whatever its connection: how it starts, what it counts, and that all of it learns.

That logits, hidden states and all gradients equal the float64 loops is in `test_naive_equivalence.py`, that decoding
equals the full forward in `test_decoding.py`, and so on: those suites run through all variants too.
"""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import limelm
from limelm.registration import MODELS
from tests.models.entries import ENTRIES
from tests.models.entries.entry import COUNTED
from tests.models.variants import (
    KINDS,
    TINY,
    all_variants,
    causal_lm_class,
    config_class,
    entry_of,
    randomize,
    tiny_config,
    tiny_model,
    token_ids,
)


def llama_like(variant: str, **changes) -> LlamaForCausalLM:
    """A Llama of a variant's shape, without meaning but with all values different, as if it had been trained."""
    config = tiny_config(variant)
    shared = {name: getattr(config, name) for name in (*TINY, "rms_norm_eps", "attention_bias", "mlp_bias")}
    return randomize(LlamaForCausalLM(LlamaConfig(**(shared | changes)))).eval()


def around(llama: LlamaForCausalLM, variant: str, folder, **changes) -> nn.Module:
    """A variant that is made from the checkpoint of a Llama."""
    model_type, options = KINDS[variant]
    llama.save_pretrained(folder)
    model_class = causal_lm_class(config_class(model_type)())
    return model_class.from_pretrained(folder, **(options | changes)).eval()


def difference(model: nn.Module, other: nn.Module) -> float:
    """The largest of the logits, as a share of the largest logit."""
    with torch.no_grad():
        actual, expected = model(token_ids()).logits, other(token_ids()).logits
    return ((actual - expected).abs().max() / expected.abs().max()).item()


STARTS = {variant: entry_of(variant).starts.get(variant, 0.0) for variant in KINDS}


@pytest.mark.parametrize("variant", [variant for variant in KINDS if STARTS[variant] is not None])
def test_it_starts_as_the_llama_whose_weights_it_has(variant, tmp_path):
    """Up to a norm's epsilon where the paper's form is so, which is why it is tiny here."""
    llama = llama_like(variant, rms_norm_eps=1e-12)
    assert difference(around(llama, variant, tmp_path), llama) <= STARTS[variant]


@pytest.mark.parametrize("block_size", [1, 3])
def test_attention_residuals_start_as_llama_whatever_the_epsilon_when_scaled(block_size, tmp_path):
    llama = llama_like("attention_residuals", rms_norm_eps=1e-5)

    def started(**changes) -> float:
        return difference(around(llama, "attention_residuals", tmp_path, block_size=block_size, **changes), llama)

    assert started(scale_by_sources=True) < 1e-5
    assert started() > 2 * started(scale_by_sources=True)


@pytest.mark.parametrize("block_size", [1, 3])
def test_gated_delta_attention_residuals_start_as_llama_to_the_bit(block_size, tmp_path):
    llama = llama_like("delta_attention_residuals")
    model = around(llama, "delta_attention_residuals", tmp_path, block_size=block_size, gated=True)
    assert difference(model, llama) == 0


def test_delta_attention_residuals_with_blocks_and_no_gate_do_not_start_as_llama(tmp_path):
    llama = llama_like("delta_attention_residuals")
    assert difference(around(llama, "delta_attention_residuals", tmp_path, block_size=3), llama) > 1e-3


@pytest.mark.parametrize("changes", [{}, {"num_recent": 1}, {"num_recent": 2}], ids=str)
def test_deep_cross_attention_with_closed_gates_starts_as_llama_unless_layers_are_dropped(changes, tmp_path):
    llama = llama_like("deep_cross_attention")

    def started_with_closed_gates(**changes) -> float:
        model = around(llama, "deep_cross_attention", tmp_path, **changes)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("gate"):
                    parameter.zero_()
        return difference(model, llama)

    assert started_with_closed_gates(**changes) < 1e-5
    assert not changes or started_with_closed_gates(**changes, sum_rest=False) > 1e-3


HOW_FAR = {
    "Attention Residuals": ("attention_residuals", {}),
    "Attention Residuals, `block_size=4`": ("attention_residuals", {"block_size": 4}),
    "Attention Residuals, `scale_by_sources=True`": ("attention_residuals", {"scale_by_sources": True}),
    "Delta Attention Residuals": ("delta_attention_residuals", {}),
    "mHC": ("hyper_connection", {"connection": "mhc"}),
    "DeepCrossAttention": ("deep_cross_attention", {}),
}


def test_the_page_says_how_far_from_llama_they_start(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    _, _, table = page.partition("| how far they start from Llama | at 1e-6 | at 1e-5 |\n|---|---|---|\n")
    rows = [line.strip("| ").split(" | ") for line in table.partition("\n\n")[0].splitlines()]
    assert [name for name, *_ in rows] == [*HOW_FAR]
    sizes = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 8, "vocab_size": 512}
    for column, eps in ((1, 1e-6), (2, 1e-5)):
        torch.manual_seed(0)
        llama = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, rms_norm_eps=eps)).eval()
        llama.save_pretrained(tmp_path)
        for (model_type, options), row in zip(HOW_FAR.values(), rows, strict=True):
            model = causal_lm_class(config_class(model_type)()).from_pretrained(tmp_path, **options).eval()
            assert difference(model, llama) == pytest.approx(float(row[column]), rel=0.5, abs=1e-6), row


# What they count

COUNTS = [(model_type, options, number) for model_type, entry in ENTRIES.items() for options, number in entry.counts]


@pytest.mark.parametrize(("model_type", "options", "expected"), COUNTS, ids=str)
def test_parameters_beside_llamas(model_type, options, expected):
    with torch.device("meta"):
        config = config_class(model_type)(**COUNTED, **options)
        nets = causal_lm_class(config)(config), LlamaForCausalLM(LlamaConfig(**COUNTED))
    ours, llamas = (sum(parameter.numel() for parameter in net.parameters()) for net in nets)
    assert ours - llamas == expected


def test_every_model_type_is_counted():
    assert {model_type for model_type, _, _ in COUNTS} == MODELS.keys()


# How they learn


def mixing_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that Llama does not have."""
    with torch.device("meta"):
        llama = LlamaForCausalLM(LlamaConfig(**TINY, attention_bias=True, mlp_bias=True)).state_dict()
    return {name: parameter for name, parameter in model.named_parameters() if name not in llama}


@all_variants
def test_every_mixing_parameter_learns(variant):
    """From where a fresh model starts, which may be where nothing reaches a parameter at first."""
    torch.manual_seed(3)
    config = tiny_config(variant, initializer_range=0.2)
    model = causal_lm_class(config)(config)
    optimizer = torch.optim.AdamW(limelm.parameter_groups(model, learning_rate=1e-2))
    found = mixing_parameters(model)
    start = {name: parameter.detach().clone() for name, parameter in found.items()}
    for seed in range(4):
        optimizer.zero_grad()
        model(token_ids(seed=seed), labels=token_ids(seed=seed)).loss.backward()
        optimizer.step()
    for name, parameter in found.items():
        is_idle = entry_of(variant).idle(name)
        assert parameter.grad is not None and parameter.grad.any() != is_idle, name
        assert torch.equal(parameter, start[name]) == is_idle, name


@all_variants
@torch.no_grad()
def test_every_mixing_parameter_counts(variant):
    model = tiny_model(variant)
    logits = model(token_ids()).logits

    def effect() -> float:
        return (model(token_ids()).logits - logits).abs().max().item()

    for name, parameter in mixing_parameters(model).items():
        kept = parameter.clone()
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        assert (effect() > 1e-4) != entry_of(variant).idle(name), name
        parameter.copy_(kept)


@all_variants
def test_what_mixes_decays_only_where_its_paper_says_so(variant):
    model, entry = tiny_model(variant), entry_of(variant)
    groups = {id(parameter): group for group in limelm.parameter_groups(model) for parameter in group["params"]}
    for name, parameter in mixing_parameters(model).items():
        rate, decay = groups[id(parameter)]["lr"], groups[id(parameter)]["weight_decay"]
        is_norm = "layernorm" in name  # of what is mixed: it learns as Llama's do
        assert (rate, decay > 0) == (1e-3 * (1 if is_norm else entry.rate), entry.decays(name)), name


# What a training keeps

BATCH, TOKENS, HIDDEN = 2, 40, 64
NOT_ROUTED = [variant for variant in KINDS if not variant.startswith(("static", "dynamic", "kv"))]


@pytest.mark.parametrize("variant", NOT_ROUTED)
def test_what_is_kept_for_the_backward_grows_linearly_with_the_depth(variant):
    """A stack of its sources for every place would grow with the square. `tests/routing/test_memory.py` has LIMe's."""
    sizes = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN}
    kept = [kept_representations(tiny_model(variant, num_hidden_layers=layers, **sizes)) for layers in (4, 8, 12)]
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0


def kept_representations(model: nn.Module) -> int:
    """The size of all that a training's forward keeps, parameters aside, of tensors with D numbers for each token."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = token_ids(BATCH, TOKENS)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.train()(ids, labels=ids, use_cache=False).loss
    assert loss.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in own and size >= 4 * BATCH * TOKENS * HIDDEN)

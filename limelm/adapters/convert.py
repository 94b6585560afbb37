"""Conversion of a Llama with attached routers to a native LIMe model with equal logits, and back.

Letters as in `limelm.adapters.routers`. What is attached starts from the layer's own keys and values and adds to them;
a native layer has only the mix, so the layer's own part becomes a weight of it.
"""

import copy

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

from limelm.adapters.attachment import attach, required_attachment
from limelm.adapters.kinds import ATTACHED_ROUTERS
from limelm.adapters.parameters import base_parameters, plain_model
from limelm.adapters.routers import AttachedRouter, State
from limelm.errors import UserError
from limelm.models import LimeConfig, LimeForCausalLM
from limelm.models.families import AttentionLayer, find_attention_layers
from limelm.routing.build import DEFAULTS

#: Families that are Llama but for biases, and for sliding windows, which may not be used.
LLAMAS = ("llama", "mistral", "qwen2")
VERIFIED_TOKENS = (2, 24)


def to_native(model: PreTrainedModel) -> LimeForCausalLM:
    """A native model with the logits of a Llama with attached routers, which stays as it is.

    kv: `R = I + W`. static: `w' = log((1 - gate) e_i + gate softmax(w))`, with the gain of the layer's own norm.
    dynamic: only where every gate is one, as a distribution per token mixed with the layer's own input is none of that
    kind. value-residual: as it is. scale: goes into the projections, and leaves nothing to route. A LoRA is merged.

    Args:
        model: a Llama, Mistral or Qwen2 without sliding windows; or PEFT's model around one.

    Returns:
        The native model, in the model's dtype and on its device. R of kv holds the identity: in bfloat16 what is small
        beside one is rounded away.

    Raises:
        UserError: for a model without routers or with connections around its layers, of another family, quantized, with
            gates that no native layer can have, or with a LoRA that cannot be merged.
    """
    config = required_attachment(model).config
    kind = ATTACHED_ROUTERS.get(config.routing)
    if kind is None:
        raise UserError(f"routing={config.routing!r}: connections around whole layers, which no native model has")
    model = _without_peft(model)
    state: State = {name: parameter.detach() for name, parameter in base_parameters(model)}
    native_config = LimeConfig(
        **_llama_fields(model),
        routing=kind.native,
        routing_sources=config.routing_sources,
        routing_share_kv=config.share_kv or not kind.routes,  # what does not route goes into the projections
    )
    _add_missing_biases(state, native_config)
    for index, layer in enumerate(find_attention_layers(model)):
        prefix, router = f"model.layers.{index}", _router(layer)
        for which, projection in (("key", "k_proj"), ("value", "v_proj")):
            scales = router.row_scales(which)
            if scales is not None:
                _scale_rows(state, f"{prefix}.self_attn.{projection}", scales.repeat_interleave(layer.head_dim))
        if router.has_choice:
            state |= {f"{prefix}.self_attn.{name}": value for name, value in router.native_state().items()}
            if router.mixes_representations:
                state[f"{prefix}.routing_layernorm.weight"] = state[f"{prefix}.input_layernorm.weight"]
    return _filled(LimeForCausalLM, native_config, state, model)


def to_attached(model: LimeForCausalLM) -> PreTrainedModel:
    """A Llama with attached routers and the logits of a native model.

    kv: `W = R - I`. static and dynamic: open gates; the gain of `routing_layernorm` goes into the projections, as an
    attached layer has that of `input_layernorm` only. A LoRA is merged.

    Args:
        model: stays as it is.

    Returns:
        A Llama in the model's dtype and on its device; its routers are float32.

    Raises:
        UserError: for a model that is not native, without routing or with one that cannot be attached, with top-p or
            another option that attached routers lack, with a gain of zero in an `input_layernorm`, or with a LoRA that
            cannot be merged.
    """
    model = _without_peft(model)
    config = model.config
    if not isinstance(model, LimeForCausalLM):
        raise UserError(f"model_type={config.model_type!r}: not a native LIMe model; allowed: {LimeConfig.model_type}")
    attached = next((name for name, kind in ATTACHED_ROUTERS.items() if kind.native == config.routing), None)
    if attached is None:
        raise UserError(f"routing={config.routing!r}: no attached router does the same")
    if not ATTACHED_ROUTERS[attached].routes:
        raise UserError(f"routing={config.routing!r}: no routers to attach, it is a Llama already")
    if config.routing_top_p is not None:
        raise UserError(f"routing_top_p={config.routing_top_p}: attached routers read every source")
    for name in ("routing_share_heads", "routing_temperature", "routing_trainable"):
        if getattr(config, name) != DEFAULTS[name]:
            raise UserError(f"{name}={getattr(config, name)}: only {DEFAULTS[name]} is converted to attached routers")
    native = {name: value.detach() for name, value in model.state_dict().items()}
    state = {
        name: value for name, value in native.items() if ".router." not in name and "routing_layernorm" not in name
    }
    mixes_representations = ATTACHED_ROUTERS[attached].mixes_representations
    ratios = _gain_ratios(native, config.num_hidden_layers) if mixes_representations else {}
    for index, ratio in ratios.items():
        for projection in ("k_proj", "v_proj"):
            name = f"model.layers.{index}.self_attn.{projection}.weight"
            state[name] = (state[name].float() * ratio).to(state[name].dtype)
    base = _filled(LlamaForCausalLM, LlamaConfig(**_llama_fields(model)), state, model)
    attach(base, attached, config.routing_share_kv, config.routing_sources)
    for index, layer in enumerate(find_attention_layers(base)):
        prefix = f"model.layers.{index}.self_attn."
        own = {name.removeprefix(prefix): value for name, value in native.items() if name.startswith(prefix)}
        router = _router(layer)
        if router.has_choice:
            with torch.no_grad():
                router.load_native(own, ratios.get(index))
    return base


@torch.no_grad()
def largest_difference(first: PreTrainedModel, second: PreTrainedModel) -> tuple[float, float]:
    """The largest difference of two models' logits on random tokens, in float32; and the largest logit."""
    tokens = torch.randint(first.config.vocab_size, VERIFIED_TOKENS, generator=torch.Generator().manual_seed(0))
    logits = [copy.deepcopy(model).float().eval()(tokens.to(model.device)).logits.cpu() for model in (first, second)]
    return float((logits[0] - logits[1]).abs().max()), float(logits[0].abs().max())


def _llama_fields(model: PreTrainedModel) -> dict:
    """The fields of a Llama's configuration for the model.

    Raises:
        UserError: for a model that is no Llama, reads through sliding windows, or is quantized.
    """
    config = model.config
    if getattr(model, "hf_quantizer", None) is not None:
        raise UserError("quantized weights: convert the model that they were made from")
    if config.model_type not in (*LLAMAS, LimeConfig.model_type):
        raise UserError(f"model_type={config.model_type!r}: native models are Llamas; allowed: {', '.join(LLAMAS)}")
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()) or (
        config.model_type == "mistral" and config.sliding_window is not None
    ):
        raise UserError(f"sliding_window={config.sliding_window}: native layers read all earlier tokens")
    known = LlamaConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version", "dtype"}
    fields = {key: value for key, value in config.to_dict().items() if key in known}
    return fields | ({"attention_bias": True} if config.model_type == "qwen2" else {})


def _add_missing_biases(state: State, config: LimeConfig) -> None:
    """A Llama with biases has one in `o_proj` too; Qwen2 has none there."""
    for index in range(config.num_hidden_layers if config.attention_bias else 0):
        name = f"model.layers.{index}.self_attn.o_proj"
        weight = state[f"{name}.weight"]
        state.setdefault(f"{name}.bias", weight.new_zeros(weight.shape[0]))


def _filled(
    kind: type[PreTrainedModel], config: PreTrainedConfig, state: State, like: PreTrainedModel
) -> PreTrainedModel:
    made = kind._from_config(config, dtype=like.dtype).to(like.device)  # RoPE's frequencies stay in float32
    loaded = made.load_state_dict(state, strict=False)
    missing = set(loaded.missing_keys) - set(made._tied_weights_keys if made.config.tie_word_embeddings else ())
    if missing or loaded.unexpected_keys:
        raise UserError(f"{sorted(missing | set(loaded.unexpected_keys))[0]}: no such weight on both sides")
    made.generation_config = copy.deepcopy(like.generation_config)
    return made.eval()


def _without_peft(model: PreTrainedModel) -> PreTrainedModel:
    """The model; where PEFT has put something in, a copy with that merged: the original may be trained on, and saved.

    Raises:
        UserError: for what cannot be merged.
    """
    plain: PreTrainedModel = plain_model(model)
    if not any({"base_layer", "original_module"} & set(name.split(".")) for name, _ in plain.named_modules()):
        return plain
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    kinds = BaseTunerLayer | ModulesToSaveWrapper
    merged = copy.deepcopy(plain)
    embeddings = (merged.get_input_embeddings(), merged.get_output_embeddings())
    if merged.config.tie_word_embeddings and any(isinstance(module, kinds) for module in embeddings):
        raise UserError("tie_word_embeddings: what PEFT has put into one of two tied embeddings cannot be merged")
    for name, module in list(merged.named_modules()):
        if not isinstance(module, kinds):
            continue
        if module.disable_adapters:
            raise UserError(f"{name}: what PEFT has put in is disabled; enable it, or take it out")
        if isinstance(module, ModulesToSaveWrapper):
            merged.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
            continue
        try:
            module.merge()
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise UserError(f"{name}: what PEFT has put in cannot be merged ({error})") from error
        merged.set_submodule(name, module.get_base_layer())
    return merged


def _router(layer: AttentionLayer) -> AttachedRouter:
    return layer.module.router  # type: ignore[return-value]


def _scale_rows(state: State, projection: str, rows: Tensor) -> None:
    for name in (f"{projection}.weight", f"{projection}.bias"):
        if name in state:
            value = state[name]
            state[name] = (value.float() * rows.view(-1, *[1] * (value.ndim - 1))).to(value.dtype)


def _gain_ratios(native: State, layers: int) -> dict[int, Tensor]:
    """The gain of `routing_layernorm` over that of `input_layernorm`, `[D]` for each routing layer."""
    ratios = {}
    for index in range(1, layers):
        own = native[f"model.layers.{index}.input_layernorm.weight"].float()
        if bool((own == 0).any()):
            raise UserError(f"layer {index}: a gain of zero in input_layernorm cannot be taken out again")
        ratios[index] = native[f"model.layers.{index}.routing_layernorm.weight"].float() / own
    return ratios

"""The parts of a decoder around its layers: embeddings, masks, positions, cache, final norm, head and loss.

A model is a subclass of `Decoder` with a `run_layers`, and a subclass of `CausalLM` that names it.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any, Unpack

import torch
from huggingface_hub import CommitInfo
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import can_return_tuple
from transformers.utils.generic import TransformersKwargs, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from limelm.models.hub import file_stamps, push_folder, push_model, take_push, written_since
from limelm.models.llama import RMSNorm, RotaryEmbedding, rotation
from limelm.models.serving import refuse_missing_layers, refuse_model_parallelism
from limelm.routing import DepthModule

#: What transformers calls the cache, as an argument and in outputs: "past_key_values", from 5.24 on "cache".
CACHE = fields(BaseModelOutputWithPast)[1].name


class HiddenState(nn.Module):
    """An identity whose outputs `output_hidden_states` records, for models whose layers do not return hidden states."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states


#: Among what a model `_can_record_outputs`: whatever goes through its `HiddenState` modules, in the order of the calls.
HIDDEN_STATES = OutputRecorder(HiddenState, capture_initial_hidden_state=False)
HIDDEN_STATES.num_hidden_layers_key = "num_hidden_states"  # one more than layers; transformers 5.17 ignores it


class DecoderPreTrainedModel(PreTrainedModel):
    """The base class of all models here, with what Hugging Face has to know of them."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, DepthModule):
            module.init_weights(self.config.initializer_range)

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Save as transformers does; with `push_to_hub` the card that is saved goes along (`limelm.models.hub`).

        Raises:
            ValueError: where `config.num_hidden_layers` was changed, and what reads out the layers is of another size.
        """
        refuse_readout_of_other_depth(self)
        folder = Path(save_directory)
        push = take_push(options, folder) if push_to_hub and is_main_process else None
        before = {} if push is None else file_stamps(folder)
        super().save_pretrained(save_directory, is_main_process, state_dict, **options)
        if push is not None:
            push_folder(folder, push, written_since(folder, before))

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str = "50GB", **options: Any) -> CommitInfo:
        """Push the model, its configuration, its code file and its card to the Hugging Face hub.

        Args:
            repo_id: the repository's name, made where it is missing.
            max_shard_size: of a file of weights.
            options: as transformers has them: `private`, `token`, `revision`, `create_pr`, `commit_message`,
                `commit_description`, `tags`.
        """
        return push_model(self, repo_id, max_shard_size, options)

    @classmethod
    def prepare_distribute_model(cls, distributed_config, *args, **kwargs):
        """Take HF's first step towards several devices, before any process group is made; with FSDP only."""
        refuse_model_parallelism(cls, distributed_config)
        return super().prepare_distribute_model(distributed_config, *args, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModel"):
        """Do nothing: the config's `auto_map` is always written, and the saved module imports limelm."""


def refuse_readout_of_other_depth(model: DecoderPreTrainedModel) -> None:
    """Refuse a model whose number of layers was changed, if a new one of that number had parameters of other sizes.

    Raises:
        ValueError: with the first such parameter.
    """
    config, built = model.config, model.base_model.num_built_layers
    if config.num_hidden_layers == built:
        return
    with torch.device("meta"):
        fresh = type(model)(deepcopy(config))
    saved = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, parameter in fresh.named_parameters():
        if saved.get(name, parameter.shape) != parameter.shape:
            raise ValueError(
                f"num_hidden_layers={config.num_hidden_layers}, and the model was built with {built}: its {name} is "
                f"for {built} layers, so that what is saved could not be loaded; set num_hidden_layers={built} before"
            )


class Decoder(DecoderPreTrainedModel):
    """Token ids in, final hidden states out."""

    layer_class: type[nn.Module]

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(self.layer_class(config, i) for i in range(config.num_hidden_layers))
        self.num_built_layers = config.num_hidden_layers  # the configuration may be lowered, and layers be cut off
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = RotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    def run_layers(self, hidden_states: Tensor, **layer_inputs) -> Tensor:
        """Run the layers from the token embeddings X_0 `[B, T, D]` to the input of the final norm `[B, T, D]`."""
        raise NotImplementedError

    def layers_to_run(self) -> Iterator[tuple[int, Any]]:
        """The layers to run, numbered: the first `config.num_hidden_layers`, which an early exit lowers."""
        return zip(range(self.config.num_hidden_layers), self.layers, strict=False)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]  # transformers is untyped
    ) -> BaseModelOutputWithPast:
        """Run the decoder.

        Args:
            input_ids: `[B, T]`, or `inputs_embeds` `[B, T, D]`: exactly one of the two.
            attention_mask: `[B, S]` with 0 at padding, S the cached and the new tokens together.
            position_ids: `[B, T]`; counted on from the cache where missing.
            past_key_values: any HF cache; it is updated in place. From transformers 5.24 on `cache` is its name too.
            use_cache: return a cache (a new `DynamicCache` where none is given).

        Returns:
            `last_hidden_state` `[B, T, D]`, the cache, and on request `hidden_states` and `attentions`.

        Raises:
            ValueError: unless exactly one of `input_ids` and `inputs_embeds` is given; for a model without some of its
                layers.
        """
        refuse_missing_layers(self.layers)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if CACHE == "cache" and kwargs.get("cache") is not None:  # before, what is called so is for the attention alone
            past_key_values = kwargs.pop("cache")
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen).unsqueeze(0)
        causal_mask = create_causal_mask(self.config, inputs_embeds, attention_mask, past_key_values, position_ids)
        is_recomputed = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        hidden_states = self.run_layers(
            inputs_embeds,
            position_embeddings=rotation(*self.rotary_emb(inputs_embeds, position_ids=position_ids)),
            attention_mask=causal_mask,
            position_ids=position_ids,
            past_key_values=None if is_recomputed else past_key_values,  # to which a recomputation would write again
            use_cache=use_cache,
            **kwargs,
        )
        return BaseModelOutputWithPast(self.norm(hidden_states), past_key_values)


class CausalLM(DecoderPreTrainedModel):
    """A decoder with a language-modeling head; a subclass has HF's `GenerationMixin` beside this among its bases."""

    decoder_class: type[Decoder]
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.model = self.decoder_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]  # transformers is untyped
    ) -> CausalLMOutputWithPast:
        """Run the decoder and the head; further arguments as in `Decoder.forward`.

        Args:
            labels: `[B, T]`, usually `input_ids` themselves (they are shifted here); -100 is not counted.
            logits_to_keep: compute the logits of the last so many positions only (0: all), or of these positions.

        Returns:
            `loss` (mean cross-entropy in nats) where `labels` are given, `logits` `[B, T, vocab]`, and the rest.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        cache = getattr(outputs, CACHE)
        return CausalLMOutputWithPast(loss, logits, cache, outputs.hidden_states, outputs.attentions)

"""The common base of all configurations here."""

from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from transformers import LlamaConfig, PreTrainedConfig

from limelm.files import write_text
from limelm.models.card import model_card, write_card
from limelm.models.field_checks import check_fields, check_rope, warn_of_names
from limelm.registration import CLASSES

HUB_MODULE = "modeling_limelm"
_HUB_CODE = '''"""For `trust_remote_code=True`: the classes are those of an installed limelm (`pip install limelm`)."""

from limelm import {classes}  # noqa: F401
from limelm.models.serving import register

register()  # for `transformers serve`, which takes a model's class from transformers itself
'''


class DecoderConfig(LlamaConfig):
    """Llama's fields, saved with an `auto_map`, so that Auto classes find the model without `import limelm`."""

    base_model_tp_plan = None
    base_model_pp_plan = None
    #: What the model is, in words.
    kind: ClassVar[str] = ""
    #: What its connection over depth does, as a sentence without its full stop, and the arXiv number of its paper.
    about: ClassVar[str] = ""
    paper: ClassVar[str | None] = None
    #: What its own numeric fields must be, beside Llama's in `limelm.models.field_checks`.
    numbers: ClassVar[dict[str, Any]] = {}

    @property
    def auto_classes(self) -> dict[str, str]:
        """The names of this model's classes by Auto class."""
        return dict(zip(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), CLASSES[self.model_type], strict=True))

    @property
    def num_hidden_states(self) -> int:
        """The number of hidden states that a forward returns: the embedding's and every layer's."""
        return self.num_hidden_layers + 1

    def __post_init__(self, **kwargs):
        check_fields(self, kwargs)
        super().__post_init__(**kwargs)
        self.auto_map = {auto: f"{HUB_MODULE}.{name}" for auto, name in self.auto_classes.items()}
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by num_attention_heads={self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is not divisible by "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; rotary embeddings turn pairs, so it must be even")
        check_rope(self)
        warn_of_names(type(self), kwargs, DecoderConfig.__subclasses__())

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        # HF sets overrides after construction, where nothing checks them; ours go in with the rest.
        own = {field.name for field in fields(cls)} - {field.name for field in fields(PreTrainedConfig)}
        overrides = {name: kwargs.pop(name) for name in own & kwargs.keys()}
        given = {**config_dict, **overrides}
        model_type = config_dict.get("model_type", cls.model_type)
        readable = (cls.model_type, *cls.readable_model_types(given))
        if model_type not in readable:
            allowed = " or ".join(map(repr, readable))
            raise ValueError(f"model_type={model_type!r} cannot be read as {cls.__name__}; it must be {allowed}")
        if not kwargs.get("return_unused_kwargs"):  # else whoever gets them refuses what nobody knows
            warn_of_names(cls, kwargs, DecoderConfig.__subclasses__())
        return super().from_dict({**given, "model_type": cls.model_type}, **kwargs)

    @classmethod
    def readable_model_types(cls, given: dict[str, Any]) -> tuple[str, ...]:
        """Model types whose checkpoints can be read with this class beside its own.

        Args:
            given: the values of fields, those of the checkpoint and those given beside it.
        """
        return ("llama",)

    def save_pretrained(self, save_directory, *args, **kwargs):
        super().save_pretrained(save_directory, *args, **kwargs)
        code = _HUB_CODE.format(classes=", ".join(sorted(self.auto_classes.values())))
        write_text(Path(save_directory) / f"{HUB_MODULE}.py", code)
        write_card(Path(save_directory), model_card(self))

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoConfig"):
        """Do nothing: `auto_map` is always written, and the saved module imports limelm."""

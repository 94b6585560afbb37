"""The common tests of transformers, for Llama and for every one of our classes; run by tests/hf/__main__.py.

No part of `make test`: the file's name keeps pytest from finding it.
"""

import sys
import unittest

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

import limelm
from limelm.registration import CLASSES
from tests.hf.harness import fetch
from tests.models.variants import KINDS, OTHERS

sys.path.insert(0, str(fetch()))

from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin
from transformers_tests.test_training_mixin import TrainingTesterMixin

LLAMA = (LlamaConfig, LlamaModel, LlamaForCausalLM)
OURS = {model_type: tuple(getattr(limelm, name) for name in names) for model_type, names in CLASSES.items()}
LIME, HYPER_CONNECTION = OURS["lime"], OURS["hyper_connection"]
#: Name, classes, and what the config has beside its sizes.
MODELS = {
    "Llama": (LLAMA, {}),
    "LimeNone": (LIME, {"routing": "none"}),
    "LimeStatic": (LIME, {"routing": "static"}),
    "LimeTopP": (LIME, {"routing": "static", "routing_top_p": 0.7}),
    "LimeDynamic": (LIME, {"routing": "dynamic"}),
    "LimeKV": (LIME, {"routing": "kv"}),
    "ValueResidual": (LIME, {"routing": "value_residual"}),
    "DepthAttention": (LIME, {"routing": "depth_attention"}),
    "HyperConnectionDynamic": (HYPER_CONNECTION, {"dynamic": True}),
    "HyperConnectionStatic": (HYPER_CONNECTION, {"dynamic": False}),
    **{variant: (OURS[KINDS[variant][0]], KINDS[variant][1]) for variant in OTHERS},
    "HyperConnectionManifold": (HYPER_CONNECTION, {"connection": "mhc"}),
}


class Tester:
    """What the tests ask of a model: its sizes, and inputs for it."""

    batch_size = 5
    seq_length = 7
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    num_key_value_heads = 2
    is_training = True

    def __init__(self, classes, options):
        self.config_class, _, self.causal_lm_class = classes
        self.options = options

    def get_config(self):
        return self.config_class(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=512,
            pad_token_id=0,
            **{"num_key_value_heads": self.num_key_value_heads, **self.options},
        )

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(1, self.vocab_size, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids).tril()}


class Common(ModelTesterMixin, GenerationTesterMixin, TrainingTesterMixin):
    """All tests, without a model."""

    model_tester = None  # an abstract property in the mixin
    classes: tuple = ()
    options: dict = {}

    def setUp(self):
        self.model_tester = Tester(self.classes, self.options)
        self.config_tester = ConfigTester(self, config_class=self.classes[0], vocab_size=99, hidden_size=64)

    def test_config(self):
        self.config_tester.run_common_tests()


for _name, (_classes, _options) in MODELS.items():
    globals()[f"Test{_name}"] = type(
        f"Test{_name}",
        (Common, unittest.TestCase),
        {"classes": _classes, "options": _options, "all_model_classes": _classes[1:], "__module__": __name__},
    )

"""The model card that is saved beside a model, for people to fill in."""

from transformers import PreTrainedConfig

CARD = "README.md"
_TEXT = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- {tag}
---

# {kind}

Made with limelm: {sizes}. What it was trained on, and how well it does, is not said here yet.

```python
import limelm  # registers the model with transformers
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("NAME OR FOLDER OF THIS MODEL")
```

Without `import limelm`, `trust_remote_code=True` imports it; it must be installed either way.
"""


def model_card(config: PreTrainedConfig, kind: str) -> str:
    """A card in Markdown, with the data that a hub reads at its top.

    Args:
        config: all that the card says of the model is from here.
        kind: what the model is, as its heading.
    """
    sizes = f"{config.num_hidden_layers} layers, hidden size {config.hidden_size}, vocabulary {config.vocab_size}"
    return _TEXT.format(tag=config.model_type.replace("_", "-"), kind=kind, sizes=sizes)

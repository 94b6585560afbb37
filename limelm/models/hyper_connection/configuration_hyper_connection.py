"""Configuration of Hyper-Connection models."""

from typing import ClassVar

from limelm.models.configuration import DecoderConfig
from limelm.models.field_checks import strict_in_one_line


@strict_in_one_line
class HyperConnectionConfig(DecoderConfig):
    """Llama's fields and the hyper-connections (Zhu et al. 2024, arXiv 2409.19606).

    Args:
        expansion_rate: n, the number of residual streams.
        dynamic: whether the connections depend on the token (DHC) or are learned constants (SHC).

    Raises:
        ValueError: for a value that no model can be built with, such as an `expansion_rate` below 1.
    """

    model_type = "hyper_connection"
    kind: ClassVar[str] = "Language model with Hyper-Connections (arXiv 2409.19606)"

    expansion_rate: int = 4
    dynamic: bool = True

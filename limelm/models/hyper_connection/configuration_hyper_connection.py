"""Configuration of Hyper-Connection models."""

from typing import Any, ClassVar

from limelm.models.configuration import DecoderConfig
from limelm.models.field_checks import strict_in_one_line
from limelm.records import Size

CONNECTIONS = ("hc", "mhc")


@strict_in_one_line
class HyperConnectionConfig(DecoderConfig):
    """Llama's fields and the hyper-connections (Zhu et al. 2024, arXiv 2409.19606).

    Args:
        expansion_rate: n, the number of residual streams.
        dynamic: whether the connections depend on the token (DHC) or are learned constants (SHC).
        connection: "hc", or "mhc", manifold-constrained (arXiv 2512.24880): streams are mixed by doubly stochastic
            matrices, which always depend on the token.

    Raises:
        ValueError: for a value that no model can be built with, such as an `expansion_rate` below 1.
    """

    model_type = "hyper_connection"
    about: ClassVar[str] = "Several residual streams, with learned connections between them, stand in the place of one"
    paper: ClassVar[str | None] = "2409.19606"
    numbers: ClassVar[dict[str, Any]] = {"expansion_rate": Size}

    expansion_rate: int = 4
    dynamic: bool = True
    connection: str = "hc"

    @property
    def kind(self) -> str:  # type: ignore[override]
        """The kind of model, in words."""
        return f"Language model with {'manifold-constrained ' if self.connection == 'mhc' else ''}Hyper-Connections"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.connection not in CONNECTIONS:
            raise ValueError(f"connection={self.connection!r} is unknown; allowed: {', '.join(CONNECTIONS)}")
        if self.connection == "mhc" and not self.dynamic:
            raise ValueError("dynamic=False is for connection='hc' only: those of 'mhc' always depend on the token")

    @classmethod
    def readable_model_types(cls, given: dict[str, Any]) -> tuple[str, ...]:
        """A Llama's checkpoint can be read as "mhc" alone: the norms around "hc" have no weights."""
        if given.get("connection") == "mhc":
            return ("llama",)
        if given.get("model_type") == "llama":
            raise ValueError(
                f"model_type='llama' cannot be read as {cls.__name__} with connection='hc', whose norms have no "
                f"weights; it must be {cls.model_type!r}, or connection 'mhc'"
            )
        return ()

"""`lime_adapter.json`: how an adapter's routers are attached, and to which model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from limelm.adapters.kinds import AdapterConfig
from limelm.adapters.parameters import BaseIdentity
from limelm.records import Positive, read_json

DESCRIPTION = "lime_adapter.json"


@dataclass(frozen=True)
class Resized:
    """The number of token embeddings that the base had, and that the model with the adapter has."""

    base: Positive
    adapted: Positive


@dataclass(frozen=True)
class Description:
    """The fields of `lime_adapter.json`.

    Attributes:
        limelm: the version that wrote it.
        routing, share_kv, routing_sources: arguments of `attach`.
        base_model: a folder, also one in the adapter's, or a name on the hub; None where it was not known.
        base: that model without routers.
        replaces: the weights of the model itself that the adapter holds.
        lora: whether there is one beside the routers.
        resized: the vocabulary, where tokens were added to it.
    """

    format_version: Literal[1]
    limelm: str
    routing: str
    share_kv: bool
    routing_sources: dict[str, int] | None
    base_model: str | None
    base: BaseIdentity
    replaces: tuple[str, ...]
    lora: bool
    resized: Resized | None = None

    def __post_init__(self) -> None:
        _ = self.config  # refuses what cannot be attached

    @property
    def config(self) -> AdapterConfig:
        """The configuration with which the adapter's routers are attached."""
        return AdapterConfig(self.routing, self.share_kv, self.routing_sources)


def read_description(folder: Path) -> Description:
    """Read the `lime_adapter.json` of an adapter's folder.

    Raises:
        UserError: for a file that does not say it.
    """
    return read_json(folder / DESCRIPTION, Description)

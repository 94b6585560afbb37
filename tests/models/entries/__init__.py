"""The table of model types: an entry for each in a file of its own, named like the model type."""

from importlib import import_module

from limelm.registration import MODELS
from tests.models.entries.entry import Entry

ENTRIES: dict[str, Entry] = {name: import_module(f"tests.models.entries.{name}").ENTRY for name in MODELS}

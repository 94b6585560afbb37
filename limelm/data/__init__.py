"""Corpora, token shards, and the data set that training reads."""

from limelm.data.dataset import TokenDataset, load_prepared_tokenizer
from limelm.data.prepare import prepare
from limelm.data.shards import Manifest
from limelm.data.sources import HubDataset, list_files, read_documents, read_hub_dataset, read_python_library

__all__ = [
    "HubDataset",
    "Manifest",
    "TokenDataset",
    "list_files",
    "load_prepared_tokenizer",
    "prepare",
    "read_documents",
    "read_hub_dataset",
    "read_python_library",
]

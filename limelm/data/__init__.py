"""Corpora, token shards, and the data set that training reads."""

from limelm.data.dataset import TokenDataset, load_prepared_tokenizer
from limelm.data.encode import available_processes
from limelm.data.listing import find_files, list_files
from limelm.data.prepare import prepare
from limelm.data.presets import PRESETS, Preset, prepare_preset
from limelm.data.problems import (
    ProblemDataset,
    ProblemFolder,
    load_problem_tokenizer,
    prepare_problems,
    read_problems,
)
from limelm.data.progress import Progress
from limelm.data.shards import Manifest
from limelm.data.sources import HubDataset, LocalFiles, Source, read_python_library

__all__ = [
    "PRESETS",
    "HubDataset",
    "LocalFiles",
    "Manifest",
    "Preset",
    "ProblemDataset",
    "ProblemFolder",
    "Progress",
    "Source",
    "TokenDataset",
    "available_processes",
    "find_files",
    "list_files",
    "load_prepared_tokenizer",
    "load_problem_tokenizer",
    "prepare",
    "prepare_preset",
    "prepare_problems",
    "read_problems",
    "read_python_library",
]

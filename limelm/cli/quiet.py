"""Keep other libraries' progress bars and notices out of our output."""

import warnings

import transformers


def quieten() -> None:
    """Silence transformers below errors, its progress bars, and PyTorch's warnings about its own files."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="torch")  # about its own files and formats; errors say what matters

"""Keep other libraries' progress bars and notices out of our output."""

import warnings

import transformers


def quieten() -> None:
    """Errors and warnings of transformers only where they matter to a user of this command."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="torch")  # about its own files and formats; errors say what matters

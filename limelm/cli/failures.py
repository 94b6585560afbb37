"""Turn exceptions into the line that the user sees, and an exit code."""

import errno

from limelm.errors import Stopped, UserError

INTERRUPTED = "interrupted; what was finished is kept, and the same command goes on from there"

#: What PyTorch, CUDA and the C++ library say when memory is short, or a size is beyond any memory.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "DefaultCPUAllocator",
    "bad_alloc",
    "ALLOC_FAILED",
    "Storage size calculation overflowed",
    "integer multiplication overflow",
)


def explain(error: BaseException, command: str, memory_settings: str | None = None) -> tuple[str, int]:
    """The line to show and the exit code: 2 for what the user can mend, 128 + n for signal n, 1 for a bug.

    Args:
        error: what ended the command.
        command: the subcommand, for errors that name nothing themselves.
        memory_settings: options that make the subcommand need less memory.
    """
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, Stopped):
        return str(error), 128 + error.signal_number
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, 130
    if is_out_of_memory(error):
        advice = f"lower {memory_settings}" if memory_settings else "use a machine with more of it"
        return f"{command}: out of memory; {advice} ({_first_line(error)})", 2
    if isinstance(error, RecursionError):
        return f"{command}: an input file is nested too deeply; --debug shows where it was read", 2
    if isinstance(error, OSError):  # a full disk, a file where a folder should be, ...
        return str(UserError.from_os_error(error.filename or command, error)), 2
    return f"{type(error).__name__}: {error} (this is a bug; --debug shows where)", 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, however the library words it."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]

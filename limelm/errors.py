"""Errors that the user can mend, and the end that a signal asks for."""


class UserError(Exception):
    """Bad input: one line that names the field or file, the bad value, and what is allowed.

    The command line prints it on stderr and exits with 2.
    """

    @classmethod
    def from_os_error(cls, path, error: OSError) -> "UserError":
        """The line for a file or folder that the system refuses."""
        return cls(f"{path}: {error.strerror or error}")


class Stopped(Exception):
    """Work that ended early and in good order because a signal asked for it.

    The command line prints it on stderr and exits with 128 + `signal_number`, as a shell expects.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number

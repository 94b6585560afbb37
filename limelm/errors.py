"""The one error that is the user's to mend."""


class UserError(Exception):
    """Bad input: one line that names the field or file, the bad value, and what is allowed.

    The command line prints it on stderr and exits with 2.
    """

    @classmethod
    def from_os_error(cls, path, error: OSError) -> "UserError":
        """The line for a file or folder that the system refuses."""
        return cls(f"{path}: {error.strerror or error}")

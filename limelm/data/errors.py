"""What stops a preparation without being wrong input."""

from limelm.errors import UserError


class Interruption(UserError):
    """Something outside the text gave way, such as the network or a disk: what is done is kept, to go on from."""

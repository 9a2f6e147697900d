"""What a scheme of authentication is, and what comes of it."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified user, "" for the anonymous one.

    With the key scheme his data are encrypted to ``public_key``, and ``key`` is his private one: for this request
    alone, never to be written or logged.
    """

    user: str
    public_key: str = ""
    key: str = field(default="", repr=False)


class Credential(Protocol):
    """What a user must show."""

    stamp: str  # another one after a change: what was verified before it is worth nothing then
    lasting: bool  # nobody can revoke it but by the configuration

    def matches(self, key: str) -> bool:
        """Whether ``key`` is right, whatever text a stranger sends. Blocks. Raises Busy if nobody can tell now."""

"""Who a request comes from."""

from .authenticator import Authenticator
from .base import Identity
from .keys import private_key

__all__ = ["Authenticator", "Identity", "private_key"]

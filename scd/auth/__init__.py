"""Who a request comes from."""

from .authenticator import Authenticator
from .base import Identity
from .keys import private_key, without_comment

__all__ = ["Authenticator", "Identity", "private_key", "without_comment"]

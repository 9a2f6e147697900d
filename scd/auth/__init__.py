"""Who a request comes from."""

from .passwords import Passwords

__all__ = ["Passwords"]

"""The password scheme: argon2 hashes in the configuration, checked off the event loop.

The client sends its password with every request, so a verified one is remembered for some minutes, as a keyed digest
that is worth nothing outside this process.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping

import argon2

from ..config import Config, User
from ..errors import Unauthorized

_REMEMBER = 300.0
_AT_ONCE = 2  # argon2 takes 64 MiB each


class Passwords:
    def __init__(self, users: Mapping[str, User], *, required: bool):
        self._users = users
        self._required = required
        self._hasher = argon2.PasswordHasher()
        # Verified in place of an unknown user's hash, so that both take the same time.
        self._nobody = self._hasher.hash(secrets.token_hex(16))
        self._secret = secrets.token_bytes(32)
        self._verified: dict[bytes, float] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def use(self, config: Config) -> None:
        """Know the users of ``config`` from now on, and nobody's earlier password."""
        self._users, self._required = config.users, config.auth_required
        self._verified.clear()
        self._secret = secrets.token_bytes(32)  # who is being verified meanwhile is remembered in vain

    async def authenticate(self, username: str | None, key: str | None) -> str:
        """The user's name, "" for the anonymous one. Raises Unauthorized."""
        if not self._users:
            return ""
        if not username or not key:
            if self._required or username or key:
                raise Unauthorized(
                    "This server needs a user name and a password (set them with: sc-remote -configure)."
                )
            return ""
        # The length keeps apart what two names and keys would make one text of.
        pair = f"{len(username)}:{username}{key}".encode(errors="surrogatepass")
        digest = hmac.digest(self._secret, pair, hashlib.sha256)
        if self._verified.get(digest, 0.0) > time.monotonic():
            return username
        async with self._slots:
            good = await asyncio.to_thread(self._check, username, key)
        if not good:
            raise Unauthorized
        self._remember(digest)
        return username

    def _check(self, username: str, key: str) -> bool:
        user = self._users.get(username)
        try:
            self._hasher.verify(user.password_hash if user else self._nobody, key)
        except (argon2.exceptions.Argon2Error, argon2.exceptions.InvalidHashError, UnicodeEncodeError):
            return False
        return user is not None

    def _remember(self, digest: bytes) -> None:
        now = time.monotonic()
        self._verified = {known: until for known, until in self._verified.items() if until > now}
        self._verified[digest] = now + _REMEMBER
